"""Training state in one file: tensors as safetensors, everything else as JSON in its header.

One file, replaced in one step: a kill between two files can't leave halves that don't match.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ordtool.errors import OrdtoolError
from ordtool.io.atomic import as_output_errors
from ordtool.io.runs import Fields, has_fields

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

__all__ = [
    "CHECKPOINT",
    "DeferredInterrupt",
    "has_checkpoint",
    "load_moments",
    "moments",
    "part_of",
    "read_checkpoint",
    "replacing",
    "restoring",
    "write_checkpoint",
]

CHECKPOINT = "checkpoint.safetensors"


def has_checkpoint(folder: Path) -> bool:
    """Whether the folder of a training holds a checkpoint to go on from."""
    return (folder / CHECKPOINT).is_file()


class DeferredInterrupt:
    """Ctrl-C waits for the end of a step, so that a checkpoint can be written; a second Ctrl-C doesn't wait.

    So does `kill`, where the process doesn't just end at it. A context manager; outside of the main thread it does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}
        self._number = signal.SIGINT

    def __enter__(self) -> DeferredInterrupt:
        with suppress(ValueError):  # only the main thread may set handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                if callable(signal.getsignal(number)):
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: object) -> None:
        self._number = signal.Signals(number)
        if self.requested:
            self.check()
        self.requested = True

    def check(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed."""
        if self.requested:
            self._previous.get(self._number, signal.default_int_handler)(self._number, None)
            raise KeyboardInterrupt


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write tensors and a JSON state, replacing the file only when the new one is whole.

    Raises:
        OrdtoolError: If the disk is full or the folder not writable; the file before stays.
    """
    from safetensors.torch import save_file

    plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as partial:
        save_file(plain, partial, metadata={"state": json.dumps(state)})


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file beside `path`, whose place it takes once it is whole and on the disk.

    Raises:
        OrdtoolError: If the disk is full or the folder not writable; the file before stays.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with as_output_errors(path):
            yield partial
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def read_checkpoint(path: Path, fields: Fields) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_checkpoint` wrote.

    Args:
        path: The file.
        fields: The keys that the state must have, with the types of their values.

    Raises:
        OrdtoolError: A file that isn't there or isn't such a checkpoint.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads((file.metadata() or {})["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        raise OrdtoolError(f"{path}: not a readable checkpoint: {error}", "start anew with `force`") from None
    if not has_fields(state, fields):
        raise OrdtoolError(f"{path}: not a checkpoint of this kind of training", "start anew with `force`")
    return tensors, state


@contextmanager
def restoring(path: Path | None) -> Iterator[None]:
    """Take what a checkpoint holds up into a model and an optimizer.

    Raises:
        OrdtoolError: The parts don't fit them: the file is damaged.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise OrdtoolError(f"{path}: damaged: {error}", "start anew with `force`") from None


def part_of(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def moments(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return an optimiser's state by `number.key`, to be saved."""
    state = optimizer.state_dict()["state"]
    return {f"{number}.{key}": value for number, values in state.items() for key, value in values.items()}


def load_moments(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Continue from what `moments` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, key = name.split(".")
        state.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
