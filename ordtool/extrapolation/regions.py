"""Which keys a query sees, and at which distances: position methods as a few regions.

A rotary model only looks at `d = i - j`, the distance of query `i` and key `j`. A position
method puts another number in its place, and each of them does so by regions of the
`(i, j)` plane, in which the new distance is a difference `query(i) - key(j)`. So a method
is a short list of regions, and attention within one is plain attention with
other positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

Rule = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Region:
    """The keys `start(i) <= j < stop(i)` of query `i`, seen at distance `query(i) - key(j)`.

    Starts below 0 and stops beyond `i + 1` are clipped. The rules take index tensors of
    shape `(n,)` and give tensors of the same shape; positions may be fractions.

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
