"""Batches of tokens in which texts of one length stand together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from ordtool.batching import batches_by_length

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class EqualLengthGroup:
    """Texts of one length inside a batch.

    Attributes:
        start: Where its tokens begin among the batch's.
        count: Texts.
        length: Tokens a text.
    """

    start: int
    count: int
    length: int

    @property
    def stop(self) -> int:
        """Where its tokens end."""
        return self.start + self.count * self.length


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts that go through the model together.

    Attributes:
        rows: Which texts of the window, `(texts,)`.
        ids: Their tokens one after the other, `(tokens,)`.
        groups: The runs of equal length.
    """

    rows: NDArray[np.int64]
    ids: Ids
    groups: tuple[EqualLengthGroup, ...]

    @property
    def lengths(self) -> list[int]:
        """The tokens of each text."""
        return [group.length for group in self.groups for _ in range(group.count)]


def make_batches(tokens: Sequence[Sequence[int]], budget: int, most: int | None = None) -> list[Batch]:
    """Sort texts by length and fill batches up to a number of tokens, padding to the longest included.

    Args:
        tokens: Token ids of each text; empty texts get no batch.
        budget: Tokens a batch; a longer text is a batch of its own.
        most: Texts a batch at most; None: any number.

    Returns:
        Batches, longest texts first, so that workers end at about the same time.
    """
    lengths = np.array([len(ids) for ids in tokens], dtype=np.int64)
    batches = batches_by_length(lengths, tokens=budget, size=most, longest_first=True)
    return [_batch(np.array(rows, dtype=np.int64), tokens, lengths) for rows in batches]


def _batch(rows: NDArray[np.int64], tokens: Sequence[Sequence[int]], lengths: NDArray[np.int64]) -> Batch:
    groups, start = [], 0
    values, counts = np.unique(-lengths[rows], return_counts=True)
    for length, count in zip((-values).tolist(), counts.tolist(), strict=True):
        groups.append(EqualLengthGroup(start, count, length))
        start += count * length
    ids = np.fromiter(chain.from_iterable(tokens[row] for row in rows), dtype=np.int64, count=start)
    return Batch(rows, ids, tuple(groups))
