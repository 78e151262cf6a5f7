"""Lines out that survive an interruption: a `.partial` beside the output, and how far it is.

Beside `out.jsonl` stand, while it is being written, `out.jsonl.partial` with the lines
so far and `out.jsonl.partial.json` with the input's hash, the settings and the position.
Work that several processes do leaves what isn't joined yet in `out.jsonl.partial.parts`.
A finished output is renamed and the others removed.
"""

from __future__ import annotations

import csv
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ordtool.errors import OrdtoolError, UsageError
from ordtool.io.atomic import as_output_errors, atomic_output, check_output, remove_path
from ordtool.io.locks import lock
from ordtool.io.runs import METADATA, check_resumable, read_record, run_metadata, write_record
from ordtool.io.streams import is_stream, refuse_resume

STATE = {**METADATA, "done": (int,), "bytes": (int,)}
# The share of the time that may go to waiting for the disk: a position is recorded when
# this many times the last wait have passed.
_SYNC_EVERY = 50


class Lines:
    """Takes the output's lines.

    Args:
        file: Where they go.
        position: The sidecar; None: nothing is recorded.
        metadata: What a resumed run is held to.
        done: Records of the input that are done already.
        state: What `save` recorded beside it.

    Attributes:
        parts: A folder for what is made ahead of its turn; None of a stream. Who needs it makes it; it is gone at the end.
        replacement: A file that takes the place of the lines at the end, if any.
    """

    def __init__(
        self,
        file: BinaryIO,
        position: Path | None,
        metadata: dict[str, Any],
        done: int = 0,
        state: dict[str, Any] | None = None,
    ) -> None:
        self.done = done
        self.state = state or {}
        self.parts = None if position is None else position.with_suffix(".parts")
        self.replacement: Path | None = None
        self._file = file
        self._position = position
        self._metadata = metadata
        self._end = file.tell() if position is not None else 0
        self._next_sync = 0.0
        self.save(done)

    @property
    def resumable(self) -> bool:
        """Whether an interrupted run can be gone on with: not into a stream, nor from one."""
        return self._position is not None and self._metadata["input"] is not None

    @property
    def file(self) -> BinaryIO:
        """The file itself, at the end of what was written: for outputs that are no lines."""
        return self._file

    def write(self, line: str) -> None:
        """Write one line, its line feed added."""
        self._file.write(line.encode("utf-8") + b"\n")

    def earlier(self) -> list[str]:
        """Read back the lines that the interrupted run wrote; none of stdout or a device."""
        if not self.done:
            return []
        with open(self._file.name, "rb") as file:
            return file.read(self._end).decode("utf-8").splitlines()

    def checked_state(self, is_state: Callable[[Any], bool]) -> dict[str, Any]:
        """Return what `save` recorded; empty at the beginning.

        Raises:
            OrdtoolError: It is no such state: the record is damaged.
        """
        if self.state and not is_state(self.state):  # empty too where an error ended the run early
            raise OrdtoolError(
                f"{self._position}: damaged, so the interrupted run can't be gone on with",
                "`force` begins anew",
            )
        return self.state

    def save(self, done: int, state: dict[str, Any] | None = None, end: int | None = None) -> None:
        """Hand on what was written: `done` records of the input are done.

        That is recorded on the disk too, now or at a later call: see `sync`.

        Args:
            done: Records.
            state: What a resumed run has to know beside; None: as before.
            end: Bytes that a resumed run keeps; None: all that was written.
        """
        self._file.flush()
        self.done = done
        self.state = self.state if state is None else state
        if self._position is None:
            return
        self._end = self._file.tell() if end is None else end
        if time.monotonic() >= self._next_sync:
            self.sync()

    def sync(self) -> None:
        """Record how far the output is, the data first: the record must never be ahead of what is on the disk."""
        if self._position is None:
            return
        begin = time.monotonic()
        self._flush_to_disk()
        write_record(
            self._position, {**self._metadata, "done": self.done, "bytes": self._end, "state": self.state}
        )
        end = time.monotonic()
        self._next_sync = end + _SYNC_EVERY * (end - begin)

    def _flush_to_disk(self) -> None:
        os.fsync(self._file.fileno())


@contextmanager
def resumable_lines(
    path: str | Path | None,
    *,
    inputs: Sequence[str | Path],
    settings: dict[str, Any],
    resume: bool = False,
    force: bool = False,
    binary: bool = False,
) -> Iterator[Lines]:
    """Open an output of lines that an interrupted run leaves in a state to go on from.

    Args:
        path: The file; None or `-` is stdout, of which nothing is recorded.
        inputs: The input files, whose contents a resumed run must find unchanged; empty
            if the input is a pipe, which can't be resumed.
        settings: What else must be the same; anything JSON holds.
        resume: Go on from the `.partial`; without one, begin.
        force: Replace an existing output, or an interrupted one.
        binary: The data is not text, so it isn't written to a terminal.

    Yields:
        The lines; `done` says how many records to pass over.

    Raises:
        UsageError: If a pipe or stdout is to be resumed.
        OrdtoolError: If the output exists, was interrupted and neither `resume` nor
            `force` is given, or was made from another input or with other settings.
    """
    check_lines(path, inputs=inputs, resume=resume, force=force)
    if path is None or is_stream(path):
        with atomic_output(path, binary=binary) as stream:
            yield Lines(stream, None, {})
        return
    target = Path(os.path.realpath(path))
    with as_output_errors(path), lock(_partial(target)):
        yield from _journalled(path, target, run_metadata(inputs, settings), resume, force)


def check_lines(
    path: str | Path | None, *, inputs: Sequence[str | Path], resume: bool = False, force: bool = False
) -> None:
    """Find before long work what keeps such an output from being written; raises as `resumable_lines`."""
    if resume:
        refuse_resume(path)
    if path is None or is_stream(path):
        return
    check_read_again(inputs, resume)
    check_output(path, force=force)
    if not (resume or force):
        _refuse_left(Path(os.path.realpath(path)), bool(inputs))


def check_read_again(inputs: Sequence[str | Path], resume: bool) -> None:
    """Raise a UsageError where a run is to be resumed whose input was a pipe."""
    if resume and not inputs:
        raise UsageError("`resume` needs input files; a pipe can't be read again", "save the input in a file")


def _refuse_left(target: Path, again: bool) -> None:
    """Refuse to write over what an interrupted run left, of which something was done."""
    partial = _partial(target)
    if partial.exists() and not _is_empty_run(partial, target.with_name(target.name + ".partial.json")):
        raise OrdtoolError(
            f"{partial}: an interrupted run left this",
            "`resume` goes on with it, `force` begins anew" if again else "`force` begins anew",
        )


@contextmanager
def reading_back(path: str | Path) -> Iterator[None]:
    """Say of lines that an interrupted run wrote, and that can't be read any more, that they are damaged."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, csv.Error) as error:
        reason = " ".join(str(error).split())[:200]
        raise OrdtoolError(
            f"{path}: damaged: what the interrupted run wrote can't be read ({reason})", "`force` begins anew"
        ) from None


def _partial(target: Path) -> Path:
    return target.with_name(target.name + ".partial")


def _journalled(
    path: str | Path, target: Path, metadata: dict[str, Any], resume: bool, force: bool
) -> Iterator[Lines]:
    partial = _partial(target)
    position = target.with_name(target.name + ".partial.json")
    if not (resume or force):
        _refuse_left(target, bool(metadata["input"]))
    if partial.is_dir():  # of a command that writes a folder
        if not force:
            raise OrdtoolError(
                f"{partial}: an interrupted run of another command left this", "`force` begins anew"
            )
        remove_path(partial)
    state: dict[str, Any] = {}
    if resume and partial.exists() and not _is_empty_run(partial, position):
        state = _state(path, partial, position, metadata)
    with open(partial, "r+b" if state else "w+b") as file:
        if state:
            file.truncate(state["bytes"])
            file.seek(state["bytes"])
        found = state.get("state")
        lines = Lines(
            file, position, metadata, state.get("done", 0), found if isinstance(found, dict) else None
        )
        if not state:
            _remove_parts(lines)
        try:
            yield lines
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            _leave(lines, partial, position)
            raise
    os.replace(lines.replacement or partial, target)
    partial.unlink(missing_ok=True)
    position.unlink(missing_ok=True)
    _remove_parts(lines)


def _leave(lines: Lines, partial: Path, position: Path) -> None:
    """Leave a run that failed in a state to go on from; nothing of one that did nothing yet."""
    if not lines.done:
        partial.unlink(missing_ok=True)
        position.unlink(missing_ok=True)
        _remove_parts(lines)
        return
    try:
        lines.sync()
    except OSError:  # a full disk: the position before holds
        position.with_name(position.name + ".new").unlink(missing_ok=True)


def _remove_parts(lines: Lines) -> None:
    if lines.parts is not None:
        shutil.rmtree(lines.parts, ignore_errors=True)


def _is_empty_run(partial: Path, position: Path) -> bool:
    """Whether a run was killed before it had done a record."""
    if not position.exists():
        return partial.stat().st_size == 0
    try:
        return read_record(position, STATE)["done"] == 0
    except OrdtoolError:
        return False


def _state(path: str | Path, partial: Path, position: Path, metadata: dict[str, Any]) -> dict[str, Any]:
    state = read_record(position, STATE)
    check_resumable(path, state, metadata)
    size = partial.stat().st_size
    if size < state["bytes"]:
        raise OrdtoolError(
            f"{partial}: has {size:,} bytes, and the interrupted run had written {state['bytes']:,}: its end is lost",
            "`force` begins anew",
        )
    return state
