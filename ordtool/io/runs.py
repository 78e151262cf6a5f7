"""Runs that can be resumed: what one is held to, and the folder of an unfinished training."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from ordtool.distributed import ALONE, Ranks
from ordtool.errors import OrdtoolError
from ordtool.io.atomic import as_output_errors, file_fingerprint, remove_path
from ordtool.io.locks import lock
from ordtool.progress import SILENT, Progress

RUN_FILE = "run.json"
METADATA = {"input": (str, type(None)), "settings": (dict,)}

Fields = Mapping[str, tuple[type, ...]]


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Where and over what a training runs; nothing that changes the model.

    Attributes:
        device: Where to compute.
        resume: Go on from the last checkpoint.
        force: Replace an existing folder, or an interrupted run.
    """

    device: str = "auto"
    resume: bool = False
    force: bool = False


class RunOptions(TypedDict, total=False):
    """The fields of `RunConfig`, as keywords."""

    device: str
    resume: bool
    force: bool


def run_metadata(inputs: Sequence[str | Path], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a resumed run must have in common with the interrupted one, as JSON would give it back.

    Args:
        inputs: The input files; empty if the input can't be read again.
        settings: Whatever else decides the output; anything JSON holds.

    Returns:
        `input`, the SHA-256 of the files, or None; and `settings`.

    Raises:
        OrdtoolError: If a file can't be read.
    """
    metadata = {"input": file_fingerprint(inputs) if inputs else None, "settings": dict(settings)}
    plain: dict[str, Any] = json.loads(json.dumps(metadata))
    return plain


def check_resumable(path: str | Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Hold a run to the metadata of the interrupted one.

    Args:
        path: What is to be resumed, for the message.
        found: Metadata of the interrupted run.
        wanted: Of this one.

    Raises:
        OrdtoolError: If they differ; it names the settings, and their values if they are short.
    """
    old, new = found["settings"], wanted["settings"]
    changed = sorted(name for name in {**old, **new} if old.get(name) != new.get(name))
    if changed:
        values = [
            f"{name} was {old.get(name, 'the default')}, is {new.get(name, 'the default')}"
            for name in changed
        ]
        shown = "; ".join(value for value in values if len(value) < 80)
        raise OrdtoolError(
            f"{path}: the interrupted run had other settings ({', '.join(changed)})",
            f"{shown + ': ' if shown else ''}repeat its command with `resume`, or begin anew with `force`",
        )
    if found["input"] != wanted["input"]:
        raise OrdtoolError(f"{path}: the input has changed since the interrupted run", "`force` begins anew")


def read_record(path: Path, fields: Fields) -> dict[str, Any]:
    """Read a JSON object that a run left about itself.

    Args:
        path: The file.
        fields: The keys it must have, with the types of their values.

    Raises:
        OrdtoolError: If it is missing, no JSON, or has not these fields.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        found = None
    if not has_fields(found, fields):
        raise OrdtoolError(
            f"{path}: missing or damaged, so the interrupted run can't be gone on with", "`force` begins anew"
        )
    return dict(found)


def has_fields(found: Any, fields: Fields) -> bool:
    """Whether JSON is an object that has these fields, of these types, no integer below 0."""
    return isinstance(found, dict) and all(
        name in found and type(value := found[name]) in kinds and not (type(value) is int and value < 0)
        for name, kinds in fields.items()
    )


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a JSON object that is there whole or not at all, also when the power fails."""
    temporary = path.with_name(path.name + ".new")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(record, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


class RunFolder:
    """The folder in which a training keeps its checkpoints until it is done.

    Attributes:
        path: The folder.
        ranks: Those that train; all see the folder.
    """

    def __init__(
        self, path: Path, has_checkpoint: Callable[[Path], bool], *, resume: bool, ranks: Ranks = ALONE
    ) -> None:
        self.path = path
        self.ranks = ranks
        self._has_checkpoint = has_checkpoint
        self._resume = resume

    def start(self, metadata: Mapping[str, Any], progress: Progress = SILENT) -> bool:
        """Return whether there is a checkpoint to go on from, and make the folder anew where there is none.

        Args:
            metadata: See `run_metadata`; written down for a later `--resume`.
            progress: Told if there is none though the run was to be resumed.

        Raises:
            OrdtoolError: If the interrupted run was another.
        """
        return self.ranks.on_main(lambda: self._start(metadata, progress))

    def _start(self, metadata: Mapping[str, Any], progress: Progress) -> bool:
        if self._resume and self._has_checkpoint(self.path):
            check_resumable(self.path, read_record(self.path / RUN_FILE, METADATA), metadata)
            return True
        if self._resume:
            progress.note(f"{self.path}: no checkpoint to go on from, so the run begins anew")
        remove_path(self.path)
        self.path.mkdir()
        write_record(self.path / RUN_FILE, metadata)
        return False


def partial_folder(output: str | Path, suffix: str = ".partial") -> Path:
    """Return the folder of an unfinished run: beside the output, or beside what a link there points to."""
    target = Path(os.path.realpath(output))
    return target.with_name(target.name + suffix)


@contextmanager
def run_folder(
    path: Path,
    has_checkpoint: Callable[[Path], bool],
    *,
    resume: bool = False,
    force: bool = False,
    keep: bool = False,
    ranks: Ranks = ALONE,
) -> Iterator[RunFolder]:
    """Hold the folder of a training; it is gone when the training is done.

    A training that ends before its first checkpoint leaves no folder, and what one that
    was killed before it left is no obstacle to the next.

    Args:
        path: The folder.
        has_checkpoint: Says whether a folder holds a checkpoint to go on from.
        resume: Go on from it; without one, begin.
        force: Begin anew although there is one.
        keep: Leave the folder at the end.
        ranks: Those that train; the main one holds the folder.

    Yields:
        The folder; its `start` says whether to go on from a checkpoint.

    Raises:
        OrdtoolError: If an interrupted run is there and neither is asked for, another
            run is writing there, or the disk is full.
    """

    def hold() -> None:
        held.enter_context(lock(path))
        if path.is_file() and not force:  # of a command that writes no folder
            raise OrdtoolError(
                f"{path}: an interrupted run of another command left this", "`force` begins anew"
            )
        if has_checkpoint(path) and not (resume or force):
            raise OrdtoolError(
                f"{path}: an interrupted run left this", "`resume` goes on with it, `force` begins anew"
            )

    with as_output_errors(path), ExitStack() as held:
        ranks.on_main(hold)
        try:
            yield RunFolder(path, has_checkpoint, resume=resume, ranks=ranks)
        except BaseException:
            if ranks.is_main and not has_checkpoint(path):
                shutil.rmtree(path, ignore_errors=True)
            raise
        if ranks.is_main and not keep:
            shutil.rmtree(path, ignore_errors=True)
