"""What is kept of a training of vectors and their classes: one file each, replaced as the training goes on."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import Tensor, nn
from torch.optim import Optimizer

from ordtool.io.checkpoint import (
    load_moments,
    moments,
    part_of,
    read_checkpoint,
    restoring,
    write_checkpoint,
)

_FIELDS = {"values": (list,), "means": (list,), "seconds": (int, float), "done": (bool,)}
# The share of the time that may go to writing: a checkpoint comes when this many times the last one's have passed.
_SAVE_EVERY = 50


@dataclass(slots=True)
class Position:
    """How far a training is.

    Attributes:
        values: The losses of the batches of this epoch.
        means: The mean loss of each epoch before.
        seconds: How long it took.
        done: The network is trained, its read-out too.
    """

    values: list[float] = field(default_factory=list)
    means: list[float] = field(default_factory=list)
    seconds: float = 0.0
    done: bool = False


def holds_trainings(folder: Path) -> bool:
    """Whether an interrupted run left the file of a training in a folder."""
    return any(folder.glob("*.safetensors"))


class TrainingFile:
    """The file of one training.

    Args:
        path: The file; None keeps nothing.
        model: The network that is trained.
    """

    def __init__(self, path: Path | None, model: nn.Module) -> None:
        self._path = path
        self._model = model
        self._moments: dict[str, Tensor] = {}
        self._next = 0.0

    def load(self) -> Position:
        """Take the weights up from the file where there is one, and return how far they are.

        Raises:
            OrdtoolError: It is damaged.
        """
        if self._path is None or not self._path.exists():
            return Position()
        tensors, state = read_checkpoint(self._path, _FIELDS)
        with restoring(self._path):
            self._model.load_state_dict(part_of(tensors, "model."))
            self._moments = part_of(tensors, "optimizer.")
            values, means = ([float(value) for value in state[name]] for name in ("values", "means"))
            return Position(values, means, float(state["seconds"]), state["done"])

    def restore(self, optimizer: Optimizer) -> None:
        """Give the optimizer the state that was loaded.

        Raises:
            OrdtoolError: It doesn't fit the parameters.
        """
        if self._moments:
            with restoring(self._path):
                load_moments(optimizer, self._moments)

    def save(self, at: Position, optimizer: Optimizer | None = None, *, now: bool = True) -> None:
        """Replace the file, or leave it to a later call unless it is to be `now`."""
        if self._path is None or not (now or time.monotonic() >= self._next):
            return
        begin = time.monotonic()
        tensors = {f"model.{name}": tensor for name, tensor in self._model.state_dict().items()}
        if optimizer is not None:
            tensors |= {f"optimizer.{name}": tensor for name, tensor in moments(optimizer).items()}
        write_checkpoint(self._path, tensors, asdict(at))
        end = time.monotonic()
        self._next = end + _SAVE_EVERY * (end - begin)
