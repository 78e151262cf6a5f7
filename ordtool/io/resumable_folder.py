"""Folders of files that grow together and survive an interruption, as `resumable` has it for one file.

Beside `out` stands, while it is being written, `out.partial`: the files so far in `files`, how far they are in
`position.json`, and what workers did ahead of its turn in `position.parts`. The finished files are moved to the output's
name in one step.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from ordtool.errors import OrdtoolError
from ordtool.io.atomic import check_directory, flush_folder, replace_directory
from ordtool.io.resumable import STATE, Lines, check_read_again
from ordtool.io.runs import partial_folder, read_record, run_folder, run_metadata

_FILES = "files"
_POSITION = "position.json"


class FolderFiles:
    """The files of a folder, where one is expected: its end is known by its records, not by bytes.

    Args:
        folder: The folder, which is there.
    """

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        self._folder = folder
        self._files: list[BinaryIO] = []
        self._open = ExitStack()

    def open(self, name: str) -> BinaryIO:
        """Open a file of the folder for reading and writing, at its beginning; an interrupted run may have begun it."""
        path = self._folder / name
        file = self._open.enter_context(open(path, "r+b" if path.exists() else "w+b"))
        self._files.append(file)
        return file

    def tell(self) -> int:
        """There is no position in bytes."""
        return 0

    def flush(self) -> None:
        """Hand all that was written to the system."""
        for file in self._files:
            file.flush()

    def flush_to_disk(self) -> None:
        """Wait for the disk."""
        for file in self._files:
            os.fsync(file.fileno())

    def close(self) -> None:
        """Close the files."""
        self._open.close()


class _FolderLines(Lines):
    def _flush_to_disk(self) -> None:
        cast(FolderFiles, self._file).flush_to_disk()


@contextmanager
def resumable_folder(
    path: str | Path,
    *,
    inputs: Sequence[str | Path],
    settings: dict[str, Any],
    resume: bool = False,
    force: bool = False,
) -> Iterator[Lines]:
    """Open an output folder that an interrupted run leaves in a state to go on from.

    Arguments are those of `resumable_lines`.

    Yields:
        As `resumable_lines`; its `file` is a `FolderFiles`.

    Raises:
        UsageError: If a pipe is to be resumed.
        OrdtoolError: As `resumable_lines`.
    """
    check_read_again(inputs, resume)
    check_directory(path, force=force)
    with run_folder(partial_folder(path), _has_records, resume=resume, force=force) as folder:
        metadata = run_metadata(inputs, settings)
        position = folder.path / _POSITION
        state = read_record(position, STATE) if folder.start(metadata) else {}
        (folder.path / _FILES).mkdir(exist_ok=True)
        files = FolderFiles(folder.path / _FILES)
        try:
            found = state.get("state")
            lines = _FolderLines(
                cast(BinaryIO, files),
                position,
                metadata,
                state.get("done", 0),
                found if isinstance(found, dict) else None,
            )
            try:
                yield lines
            except BaseException:
                with suppress(OSError):  # a full disk: the position before holds
                    lines.sync()
                raise
        finally:
            files.close()
        flush_folder(folder.path / _FILES)
        replace_directory(folder.path / _FILES, Path(os.path.realpath(path)))


def check_folder(
    path: str | Path, *, inputs: Sequence[str | Path], resume: bool = False, force: bool = False
) -> None:
    """Find before long work what keeps such a folder from being written; raises as `resumable_folder`."""
    check_read_again(inputs, resume)
    check_directory(path, force=force)
    with run_folder(partial_folder(path), _has_records, resume=resume, force=force, keep=True):
        pass


def _has_records(folder: Path) -> bool:
    """Whether an interrupted run left records in its folder."""
    position = folder / _POSITION
    try:
        return position.exists() and read_record(position, STATE)["done"] > 0
    except OrdtoolError:
        return True  # damaged, as it will be said
