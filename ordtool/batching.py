"""Streams in windows, batches of like lengths, and a part that is held out: one way of each for every subject."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ordtool.errors import OrdtoolError

T = TypeVar("T")


def windows(
    items: Iterable[T],
    most: int,
    heaviest: float = float("inf"),
    weigh: Callable[[T], float] = lambda item: 0,
    first: int | None = None,
) -> Iterator[list[T]]:
    """Cut a stream into lists.

    A bad record ends a window too: what was read before it is given out before the error is raised.

    Args:
        items: Any number.
        most: Items of a window at most.
        heaviest: Weight from which a window is closed.
        weigh: Of an item.
        first: Items of the first window, after which windows double up to `most`; None: `most` from the first on.

    Raises:
        OrdtoolError: What `items` raises, after the window that it ended.
    """
    size = most if first is None else first
    window: list[T] = []
    weight = 0.0
    try:
        for item in items:
            window.append(item)
            weight += weigh(item)
            if len(window) >= size or weight >= heaviest:
                yield window
                window, weight, size = [], 0.0, min(size * 2, most)
    except OrdtoolError:
        if window:
            yield window
        raise
    if window:
        yield window


def batches_by_length(
    lengths: ArrayLike, *, tokens: int | None = None, size: int | None = None, longest_first: bool = False
) -> list[list[int]]:
    """Sort items by length and cut them into batches; items of one length keep their order, those of length 0 are left out.

    Args:
        lengths: Of each item, `(items,)`, in tokens.
        tokens: Of a batch at most, padding to the longest included; a longer item is a batch of its own.
        size: Items of a batch at most.
        longest_first: Begin with the longest, so that what runs out of memory does so at once.

    Returns:
        The indices of each batch.
    """
    measured = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-measured if longest_first else measured, kind="stable")
    return cut_batches(order[measured[order] > 0].tolist(), measured, tokens=tokens, size=size)


def cut_batches(
    order: Iterable[int],
    lengths: Sequence[int] | NDArray[Any],
    *,
    tokens: int | None,
    size: int | None = None,
) -> list[list[int]]:
    """Cut items, which stand in the order of their lengths, into batches of at most `size` items and `tokens` tokens.

    The tokens are counted with the padding to the longer of a batch's ends.
    """
    batches: list[list[int]] = []
    for k in order:
        batch = batches[-1] if batches else []
        full = size is not None and len(batch) >= size
        if batch and tokens is not None:
            full = full or (len(batch) + 1) * max(lengths[batch[0]], lengths[k]) > tokens
        if full or not batch:
            batches.append([])
        batches[-1].append(k)
    return batches


def sort_stretches(order: NDArray[np.int64], lengths: ArrayLike, stretch: int) -> list[NDArray[np.int64]]:
    """Cut a random order into stretches, and sort each by length: batches of it waste little and stay random."""
    measured = np.asarray(lengths)
    parts = (order[start : start + stretch] for start in range(0, len(order), stretch))
    return [part[np.argsort(measured[part], kind="stable")] for part in parts]


def shuffled_batches(
    lengths: NDArray[np.int64], size: int, seed: int, epoch: int, together: int = 20
) -> list[list[int]]:
    """Cut a random order into stretches of some batches, sort each by length, and shuffle the batches.

    Args:
        lengths: Tokens of each item, `(items,)`.
        size: Items a batch.
        seed: Of the order.
        epoch: Which pass over the data it is.
        together: Batches of a stretch.

    Returns:
        The indices of each batch; every item is in one.
    """
    rng = np.random.default_rng([seed, epoch, 0x4C5354])
    stretches = sort_stretches(rng.permutation(len(lengths)), lengths, size * together)
    batches = [part[at : at + size].tolist() for part in stretches for at in range(0, len(part), size)]
    return [batches[place] for place in rng.permutation(len(batches))]


def hold_out(
    total: int, count: int, seed: int | Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Set `count` of `total` items apart at random.

    Returns:
        The indices of those that are left and of those that are held out, both in their order.
    """
    order = np.random.default_rng(seed).permutation(total)
    return np.sort(order[count:]), np.sort(order[:count])
