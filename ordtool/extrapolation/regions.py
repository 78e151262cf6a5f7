"""Which keys a query sees, and at which distances: position methods as a few regions.

A rotary model only looks at `d = i - j`, the distance of query `i` and key `j`. A position
method puts another number in its place, and each of them does so by regions of the
`(i, j)` plane, in which the new distance is a difference `query(i) - key(j)`. So a method
is a short list of regions, and attention within one is plain attention with
other positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

Rule = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Region:
    """The keys `start(i) <= j < stop(i)` of query `i`, seen at distance `query(i) - key(j)`.

    Starts below 0 and stops beyond `i + 1` are clipped. The rules take index tensors of
    shape `(n,)` and give tensors of the same shape; positions may be fractions. Where
    distances depend on the frequency, positions are `(n, columns)`, and `PairColumns`
    says which column a pair of coordinates takes.

    Attributes:
        start: The first key of a query.
        stop: One past the last.
        query: Position of a query.
        key: Position of a key; None: 0 for all, so that keys stay as they are.
    """

    start: Rule
    stop: Rule
    query: Rule
    key: Rule | None

    def bounds(self, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return first key and one past the last for queries `index`; equal where there is none."""
        start = self.start(index).clamp(min=0)
        stop = torch.minimum(self.stop(index), index + 1)
        return start, torch.maximum(start, stop)


Regions = tuple[Region, ...]

KeyPairs = tuple[tuple[tuple[int, ...], ...], ...]
"""For each layer and head the numbers of some pairs of coordinates, the fastest being 0."""


@dataclass(frozen=True, slots=True)
class PairColumns:
    """Which column of positions `(n, groups + 1)` each pair of coordinates takes.

    Attributes:
        groups: Groups of neighbouring pairs, as even as they can be; each takes the column of its number.
        key_pairs: The pairs that do so; others take the last column, their own distances. None: all do.
    """

    groups: int
    key_pairs: KeyPairs | None = None

    def of(self, pairs: int, layer: int) -> torch.Tensor:
        """Return the columns of `pairs` pairs in a layer, `(heads, pairs)`, or `(1, pairs)` where heads don't differ."""
        columns = (torch.arange(pairs) * self.groups // pairs)[None]
        if self.key_pairs is None:
            return columns
        chosen = torch.zeros(len(self.key_pairs[layer]), pairs, dtype=torch.bool)
        for head, numbers in enumerate(self.key_pairs[layer]):
            chosen[head, list(numbers)] = True
        return torch.where(chosen, columns, self.groups)


def _zero(index: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(index)


def _same(index: torch.Tensor) -> torch.Tensor:
    return index


def _next(index: torch.Tensor) -> torch.Tensor:
    return index + 1


def _always(value: int) -> Rule:
    return lambda index: torch.full_like(index, value)


PLAIN: Regions = (Region(_zero, _next, _same, _same),)
"""Every key at its own distance: causal rotary attention as it was trained."""


def _near(window: int) -> Region:
    """Return the keys `d < window`, at their own distance."""
    return Region(lambda i: i - window + 1, _next, _same, _same)


def window_regions(window: int) -> Regions:
    """Keep `d < window` and nothing else."""
    return (_near(window),)


def lambda_regions(window: int, sinks: int) -> Regions:
    """Keep `d < window` and the first `sinks` keys, which are seen at distance `window`."""
    far = Region(_zero, lambda i: (i - window + 1).clamp(max=sinks), _always(window), None)
    return _near(window), far


def rerope_regions(window: int) -> Regions:
    """Return `min(d, window)`."""
    return _near(window), Region(_zero, lambda i: i - window + 1, _always(window), None)


def leaky_rerope_regions(window: int, leak: float) -> Regions:
    """Return `d` below `window`, and `window + (d - window) / leak` from there on."""
    far = Region(
        _zero,
        lambda i: i - window + 1,
        lambda i: i.double() / leak + (window - window / leak),
        lambda j: j.double() / leak,
    )
    return _near(window), far


def self_extend_regions(window: int, group: int) -> Regions:
    """Return `d` below `W`, and `floor(i/G) - floor(j/G) + W - floor(W/G)` from there on."""
    shift = window - window // group
    far = Region(_zero, lambda i: i - window + 1, lambda i: i // group + shift, lambda j: j // group)
    return _near(window), far


def string_regions(shift: int, window: int) -> Regions:
    """Return `d` below the shift `S`, and `d - S + W` from there on (STRING).

    Distances that training met seldom, the largest, are so replaced by smaller ones.
    """
    far = Region(_zero, lambda i: i - shift + 1, lambda i: i - shift + window, _same)
    return _near(shift), far


def dpe_regions(window: int, sizes: Sequence[int]) -> Regions:
    """Return `d` below `W`, and `floor(i/G) - floor(j/G) + W - floor(W/G)` from there on, with a G for each group of pairs.

    Args:
        window: W.
        sizes: The G of each group of pairs; positions have a column for each, and a last one for pairs that stay.
    """

    def by_group(index: torch.Tensor) -> torch.Tensor:
        return index[:, None] // torch.tensor([*sizes, 1], device=index.device)

    shift = torch.tensor([window - window // size for size in (*sizes, 1)])
    far = Region(_zero, lambda i: i - window + 1, lambda i: by_group(i) + shift.to(i.device), by_group)
    return _near(window), far


def dca_regions(chunk: int, context: int) -> Regions:
    """Return the distances of Dual Chunk Attention.

    A key is at `j mod S`. A query of the same chunk is at `i mod S`; of the next chunk at
    `min(S + i mod S, c - 1)`; of a later one at `c - 1`.

    Args:
        chunk: S, the size of a chunk.
        context: c, the trained length, above S.
    """

    def begin(index: torch.Tensor) -> torch.Tensor:
        return index // chunk * chunk

    def within(index: torch.Tensor) -> torch.Tensor:
        return index % chunk

    same = Region(begin, _next, within, within)
    following = Region(
        lambda i: begin(i) - chunk, begin, lambda i: (within(i) + chunk).clamp(max=context - 1), within
    )
    later = Region(_zero, lambda i: begin(i) - chunk, _always(context - 1), within)
    return same, following, later
