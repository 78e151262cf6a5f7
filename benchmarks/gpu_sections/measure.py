"""What the sections measure with: the device, sizes, and a clock that waits for the card."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from ordtool.runtime import resolve_device

Value = TypeVar("Value")


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        section: Name of the section.
        work: What was done; rows of one work stand together, the peer to compare with first.
        system: Who did it, with its dtype.
        value: How fast.
        unit: `tokens/s`, `texts/s`, ...: more is better; or `s`, `s a pass`, ...: less is.
        note: What else there is to know, such as memory.
    """

    section: str
    work: str
    system: str
    value: float
    unit: str
    note: str = ""


@dataclass(frozen=True)
class Bench:
    """Where and at what size.

    Attributes:
        device: The device.
        toy: Sizes that a CPU does in a second or two.
    """

    device: torch.device
    toy: bool = False

    @classmethod
    def on(cls, device: str, *, toy: bool) -> Bench:
        """Take a device by its name."""
        return cls(resolve_device("cpu" if toy and device == "auto" else device), toy)

    @property
    def cuda(self) -> bool:
        """Whether this is a GPU of NVIDIA's."""
        return self.device.type == "cuda"

    def pick(self, full: Value, toy: Value) -> Value:
        """The size to take."""
        return toy if self.toy else full

    def wait(self) -> None:
        """Wait until the card has done what it was told to."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def free(self) -> None:
        """Give memory back before the next measurement."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_mb(self) -> float:
        """Most memory of the card that was in use since `free`, in MB; 0 on a CPU."""
        return torch.cuda.max_memory_allocated(self.device) / 1e6 if self.cuda else 0.0

    def seconds(
        self, work: Callable[[], Any], *, budget: float = 1.0, warmup: int = 2, most: int = 1000
    ) -> float:
        """Median seconds of `work`, repeated for about `budget` seconds, 3 times at least (once at toy sizes).

        Short work is timed several calls at a time, so that what waits for the card at the end weighs little.
        """
        for _ in range(warmup if not self.toy else 1):
            work()
        self.wait()
        once = self._clock(work, 1)
        if self.toy:
            return once
        together = max(1, min(most // 3, int(budget / 10 / max(once, 1e-6))))
        repeats = max(3, min(10, int(budget / max(once * together, 1e-6))))
        return statistics.median(self._clock(work, together) for _ in range(repeats))

    def in_turn(
        self, works: Mapping[str, Callable[[], Any]], *, budget: float = 1.0, rounds: int = 2
    ) -> dict[str, float]:
        """Median seconds of several works, one after the other and again, `budget` seconds each in all."""
        found: dict[str, list[float]] = {name: [] for name in works}
        for number in range(1 if self.toy else rounds):
            for name, work in works.items():
                found[name].append(self.seconds(work, budget=budget / rounds, warmup=0 if number else 2))
        return {name: statistics.median(times) for name, times in found.items()}

    def _clock(self, work: Callable[[], Any], times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            work()
        self.wait()
        return (time.perf_counter() - start) / times
