"""Items that are read ahead in windows, and cut into batches of like lengths."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from ordtool.errors import OrdtoolError

__all__ = ["BATCH_WORDS", "in_batches", "in_windows"]

T = TypeVar("T")

# Padded words of a batch, at most.
BATCH_WORDS = 1 << 13


def in_windows(
    items: Iterable[T], weigh: Callable[[T], int], first: int, largest: int, heaviest: int
) -> Iterator[list[T]]:
    """Group items into windows that double in size, closed early when they weigh much.

    A bad record ends a window too: what was read before it is given out before the error is raised.

    Args:
        items: Any number.
        weigh: Of an item.
        first: Items of the first window.
        largest: Items of a window at most.
        heaviest: Weight from which a window is closed.
    """
    size = first
    window: list[T] = []
    weight = 0
    try:
        for item in items:
            window.append(item)
            weight += weigh(item)
            if len(window) >= size or weight >= heaviest:
                yield window
                window, weight, size = [], 0, min(size * 2, largest)
    except OrdtoolError:
        if window:
            yield window
        raise
    if window:
        yield window


def in_batches(order: Sequence[int], lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Cut sentences sorted by length into batches; those without words are left out."""
    remaining = iter([k for k in order if lengths[k]])
    batch = list(islice(remaining, 1))
    for k in remaining:
        if len(batch) >= size or (len(batch) + 1) * lengths[k] > BATCH_WORDS:
            yield batch
            batch = []
        batch.append(k)
    if batch:
        yield batch
