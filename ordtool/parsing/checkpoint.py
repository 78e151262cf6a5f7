"""Training state in one file: tensors as safetensors, everything else as JSON in its header.

One file, replaced in one step: a kill between two files can't leave halves that don't match.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ordtool.errors import OrdtoolError
from ordtool.io.atomic import check_directory

__all__ = [
    "CHECKPOINT",
    "DeferredInterrupt",
    "check_run",
    "digest",
    "part_of",
    "read_checkpoint",
    "write_checkpoint",
]

CHECKPOINT = "checkpoint.safetensors"


class DeferredInterrupt:
    """Ctrl-C waits for the end of a step, so that a checkpoint can be written; a second Ctrl-C doesn't wait.

    A context manager; outside of the main thread it does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: Any = None

    def __enter__(self) -> DeferredInterrupt:
        with suppress(ValueError):  # only the main thread may set handlers
            self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _handle(self, *_: object) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def check(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed."""
        if self.requested:
            raise KeyboardInterrupt


def write_checkpoint(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write tensors and a JSON state, replacing the file only when the new one is whole."""
    partial = path.with_name(path.name + ".partial")
    plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(plain, partial, metadata={"state": json.dumps(state)})
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise OrdtoolError(
            f"{path}: can't write the checkpoint: {error}", hint="is the disk full?"
        ) from error


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_checkpoint` wrote.

    Raises:
        OrdtoolError: A file that isn't there or isn't a checkpoint.
    """
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads((file.metadata() or {})["state"])
            return {name: file.get_tensor(name) for name in file.keys()}, state  # noqa: SIM118
    except FileNotFoundError as error:
        raise OrdtoolError(f"{path}: no checkpoint to resume from", hint="start without --resume") from error
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise OrdtoolError(
            f"{path}: not a readable checkpoint: {error}", hint="start anew with --force"
        ) from error


def digest(*parts: Any) -> str:
    """SHA-256 of bytes, arrays and JSON-able values, for comparing a run with the one it continues."""
    total = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes | memoryview) else json.dumps(part, sort_keys=True).encode()
        total.update(len(data).to_bytes(8, "little"))
        total.update(data)
    return total.hexdigest()


def part_of(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Give the tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def check_run(output: Path, folder: Path, *, force: bool, resume: bool) -> None:
    """Make sure that a run may begin: nothing is replaced unasked.

    Args:
        output: The model folder to make.
        folder: The run's working folder; an abandoned run in it is removed by `force`.
        force: Replace what is there.
        resume: The run goes on, so both may be there.

    Raises:
        OrdtoolError: If there is a model or an unfinished run.
    """
    if resume:
        return
    check_directory(output, force=force)
    if not (folder / CHECKPOINT).exists():
        return
    if not force:
        raise OrdtoolError(
            f"{folder}: an unfinished run is there", hint="--resume continues it, --force starts anew"
        )
    shutil.rmtree(folder)
