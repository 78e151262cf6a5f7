"""Several processes that train one model, as `torchrun` and `accelerate launch` start them: ranks, sums, a clean end.

A launcher says in the environment who is who (`RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `MASTER_ADDR`, `MASTER_PORT`).
Rank 0 is the main one: it alone locks, writes and speaks. Without such an environment there is one rank, and
nothing here does anything.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ordtool.errors import OrdtoolError, UsageError
from ordtool.progress import SILENT, Progress

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = [
    "ALONE",
    "FailedOnMain",
    "Ranks",
    "check_one_rank",
    "join_ranks",
    "local_rank",
    "rank",
    "world_size",
]

Made = TypeVar("Made")
Item = TypeVar("Item")

# What a launcher sets; some of it alone may be left over from elsewhere.
_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# No rank waits longer for another: reading the text and writing a checkpoint must fit.
_PATIENCE = timedelta(minutes=30)
_MOMENT = 2.0
_PATIENCE_VARIABLE = "ORDTOOL_RANK_TIMEOUT"
# How gloo and NCCL say that a rank is gone; torch makes plain RuntimeErrors of some of it.
_LOST = ("gloo", "NCCL", "Connection closed", "Connection reset", "Broken pipe", "Timed out", "timed out")


def world_size() -> int:
    """Return how many ranks a launcher has started; 1 without one."""
    if not all(os.environ.get(name) for name in _LAUNCHED):
        return 1
    return _number("WORLD_SIZE", 1)


def rank() -> int:
    """Return this process's rank, from 0; 0 without a launcher."""
    return _number("RANK", 0) if world_size() > 1 else 0


def local_rank() -> int:
    """Return this process's number among those of this machine, from 0."""
    return _number("LOCAL_RANK", rank()) if world_size() > 1 else 0


def _number(name: str, usual: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else usual


def check_one_rank(what: str) -> None:
    """Refuse to run in several processes that would all do, and write, the same.

    Args:
        what: What runs in one process: a command, or an option with a verb.

    Raises:
        UsageError: The process was started by torchrun or the like.
    """
    if (size := world_size()) > 1:
        raise UsageError(
            f"{what} runs in one process, and this is one of {size} (WORLD_SIZE)",
            "start it without torchrun; train parser, spans, lm, seq2seq and ladder run on several ranks",
        )


class FailedOnMain(OrdtoolError):
    """The main rank failed in what the others waited for; it has said why."""


@dataclass(frozen=True)
class Ranks:
    """The ranks of a training, and what they do together.

    Every rank must call the same of these methods in the same order.

    Attributes:
        rank: This process's number, from 0.
        size: Their number.
        peers: Host and process number of each; empty where there is one.
    """

    rank: int = 0
    size: int = 1
    peers: tuple[tuple[str, int], ...] = field(default=(), repr=False)

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which locks, writes and speaks."""
        return self.rank == 0

    def heard(self, progress: Progress) -> Progress:
        """Return who is told of this rank's progress: nobody, but for the main one's."""
        return progress if self.is_main else SILENT

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return this rank's part of what all have: every so many'th item."""
        return items[self.rank :: self.size] if self.size > 1 else items

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one dtype and device by their sums over all ranks, in one message."""
        if self.size == 1:
            return
        import torch

        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        torch.distributed.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        with torch.no_grad():
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def sum_gradients(self, parameters: Sequence[Any]) -> None:
        """Sum the gradients of parameters over all ranks; those that no rank has a gradient of keep none."""
        if self.size == 1:
            return
        import torch

        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        there = found[0].new_tensor([float(p.grad is not None) for p in parameters])
        self.sum_([*found, there])
        for parameter, gradient, count in zip(parameters, found, there.tolist(), strict=True):
            parameter.grad = gradient if count else None

    def sum_numbers(self, numbers: Sequence[float]) -> list[float]:
        """Return the sums of numbers over all ranks, in float64."""
        if self.size == 1:
            return list(numbers)
        import torch

        total = torch.tensor(numbers, dtype=torch.float64)
        torch.distributed.all_reduce(total)
        return list(total.tolist())

    def copy_main(self, tensors: Sequence[Tensor], source: int = 0) -> None:
        """Replace tensors by those of the main rank, or of another."""
        if self.size == 1:
            return
        import torch

        with torch.no_grad():
            for tensor in tensors:
                torch.distributed.broadcast(tensor, source)

    def from_main(self, value: Any) -> Any:
        """Return the main rank's value, anything JSON holds; the others' doesn't matter."""
        if self.size == 1:
            return value
        return json.loads(self._exchange(json.dumps(value if self.is_main else None))[0])

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's value, anything JSON holds."""
        if self.size == 1:
            return [value]
        return [json.loads(text) for text in self._exchange(json.dumps(value))]

    def on_main(self, make: Callable[[], Made]) -> Made:
        """Let the main rank alone do something, and give all its result, anything JSON holds.

        Raises:
            FailedOnMain: On the other ranks, where the main one raised an error.
        """
        if self.size == 1:
            return make()
        if not self.is_main:
            made, failed = self.from_main(None)
            if failed is not None:
                error = FailedOnMain(f"rank 0 of {self.size} failed")
                error.exit_code = int(failed)
                raise error
            result: Made = made
            return result
        try:
            made = make()
        except Exception as error:
            self.from_main([None, getattr(error, "exit_code", 1)])
            raise
        self.from_main([made, None])
        return made

    def main_first(self, make: Callable[[], Made]) -> Made:
        """Let the main rank do something, then the others, which find what it left in a folder."""
        made: list[Made] = []

        def first() -> None:
            made.append(make())

        self.on_main(first)
        return made[0] if made else make()

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        self.sum_numbers([0.0])

    def _exchange(self, text: str) -> list[str]:
        """Send every rank's text to all."""
        import torch

        own = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
        sizes = torch.zeros(self.size, dtype=torch.int64)
        sizes[self.rank] = len(own)
        torch.distributed.all_reduce(sizes)
        padded = torch.zeros(int(sizes.max()), dtype=torch.uint8)
        padded[: len(own)] = own
        found = [torch.empty_like(padded) for _ in range(self.size)]
        torch.distributed.all_gather(found, padded)
        return [bytes(row[:size].numpy()).decode() for row, size in zip(found, sizes.tolist(), strict=True)]

    def missing(self) -> list[int]:
        """Return the ranks on this machine whose processes have ended."""
        here = socket.gethostname()
        return [
            number
            for number, (host, process) in enumerate(self.peers)
            if host == here and number != self.rank and not _is_alive(process)
        ]


ALONE = Ranks()
"""The one rank of a training without a launcher."""


@contextmanager
def join_ranks(device: torch.device) -> Iterator[Ranks]:
    """Join the ranks that a launcher has started, and leave them at the end.

    Where the program has joined them itself, it leaves them itself.

    Args:
        device: Where this rank computes: NCCL connects CUDA devices, gloo all else.

    Yields:
        The ranks; `ALONE` without a launcher.

    Raises:
        OrdtoolError: If not all ranks come, or one is lost; it names that one where it can.
    """
    if world_size() == 1:
        yield ALONE
        return
    import torch
    from torch import distributed

    if device.type == "cuda":
        torch.cuda.set_device(device)
    joined = distributed.is_initialized()
    ranks = Ranks(rank(), world_size())
    try:
        if not joined:
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            distributed.init_process_group(backend, timeout=_patience())
        found = ranks.gather([socket.gethostname(), os.getpid()])
        ranks = Ranks(ranks.rank, ranks.size, tuple((str(host), int(process)) for host, process in found))
        yield ranks
    except RuntimeError as error:
        if not _is_lost(error):
            raise
        raise _lost(ranks, error) from None
    # After an error the others may be gone, and leaving would wait for them.
    if not joined:
        distributed.destroy_process_group()


def _patience() -> timedelta:
    text = os.environ.get(_PATIENCE_VARIABLE, "")
    return timedelta(seconds=int(text)) if text.isdecimal() and int(text) else _PATIENCE


def _is_lost(error: RuntimeError) -> bool:
    from torch import distributed

    return isinstance(error, distributed.DistError) or any(word in str(error) for word in _LOST)


def _lost(ranks: Ranks, error: RuntimeError) -> OrdtoolError:
    """Say which rank was lost, where it can be told, or else what the library says."""
    hint = "its own message says why, if it had time for one; `resume` goes on from the last checkpoint"
    if gone := _missing(ranks):
        names = " and ".join(f"rank {number} (process {ranks.peers[number][1]})" for number in gone)
        return OrdtoolError(
            f"lost {names}, so rank {ranks.rank} of {ranks.size} ends the training",
            hint,
        )
    said = " ".join(str(error).split())[:200]
    return OrdtoolError(f"rank {ranks.rank} of {ranks.size} lost the connection to another: {said}", hint)


def _missing(ranks: Ranks) -> list[int]:
    """Return the ranks that have ended; a process loses its connections a moment before it has."""
    end = time.monotonic() + _MOMENT
    while not (gone := ranks.missing()) and time.monotonic() < end:
        time.sleep(0.01)
    return gone


def _is_alive(process: int) -> bool:
    """Whether a process runs: one that has ended and that nobody has asked about yet doesn't."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    with suppress(OSError, IndexError):
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        return state not in {"Z", "X"}
    return True
