"""Causal attention with positions by region, without a matrix of all pairs.

Queries are taken by blocks. Within a block most keys belong to one region for all its
queries and are attended to at once; only those that a region's border crosses are
computed for both regions, with a mask. Pieces are merged by their log-sum-exp. So for long
texts the work is that of plain attention, and the memory is linear in the length.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention

from ordtool.extrapolation.kernel import Partial, attend, merge
from ordtool.extrapolation.methods import ScaleRule
from ordtool.extrapolation.regions import PLAIN, Region, Regions

SMALLEST_BLOCK, LARGEST_BLOCK = 128, 512  # queries at a time
LEAST = 64  # fewer keys than this are not worth a call of their own


class Rotate(Protocol):
    """A model's rotation: of `(batch, heads, n, dim)` by positions `(n,)`, or by columns `(n, columns)`; None meaning 0."""

    def __call__(self, states: torch.Tensor, positions: torch.Tensor | None) -> torch.Tensor:
        """Rotate each vector by its position."""


def region_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    regions: Regions,
    rotate: Rotate,
    *,
    scaling: float,
    scale: ScaleRule | None = None,
    block: int | None = None,
) -> torch.Tensor:
    """Attend causally, at the distances that `regions` give.

    `softmax_j(scaling * scale(i + 1) * q_i R(key(j) - query(i)) k_j) v_j`, over the keys that a
    region shows to query `i`, `R` being the model's rotation.

    Args:
        query: `(batch, heads, queries, dim)`, not rotated; the last `queries` of the
            `keys` tokens, so that `queries < keys` continues a cache.
        key: `(batch, key_heads, keys, dim)`, not rotated.
        value: `(batch, key_heads, keys, value_dim)`.
        regions: Disjoint; together they show each query at least itself.
        rotate: The model's rotation.
        scaling: On the scores, as the model has it.
        scale: A factor on each query by the number of tokens it may see.
        block: Queries at a time; None: by the number of keys, as borders cost more in larger blocks and calls
            more in smaller ones.

    Returns:
        `(batch, heads, queries, value_dim)`, of the query's dtype.
    """
    count, total = query.shape[2], key.shape[2]
    index = torch.arange(total - count, total, device=query.device)
    if scale is not None:
        query = query * scale(index + 1).to(query.dtype).unsqueeze(-1)
    if count == 1:
        return _one_query(query, key, value, regions, rotate, scaling)
    if regions == PLAIN and count == total:
        return _causal(rotate(query, index), rotate(key, index), value, scaling)
    block = block or min(LARGEST_BLOCK, max(SMALLEST_BLOCK, total // 16))
    rotated = [_RotatedKeys(region, key, index, rotate) for region in regions]
    output = value.new_empty(*query.shape[:3], value.shape[3])
    for low in range(0, count, block):
        rows = slice(low, min(low + block, count))
        merged: Partial | None = None
        for keys in rotated:
            turned: torch.Tensor | None = None
            for columns, visible in _tiles(keys.region, index[rows]):
                if turned is None:
                    turned = rotate(query[:, :, rows], keys.region.query(index[rows]))
                part = attend(turned, keys[columns], value[:, :, columns], visible, scaling)
                merged = merge(merged, part)
        assert merged is not None
        output[:, :, rows] = merged.output
    return output


class _RotatedKeys:
    """The keys that a region shows to any of the queries, rotated as it has them."""

    def __init__(self, region: Region, key: torch.Tensor, index: torch.Tensor, rotate: Rotate) -> None:
        self.region = region
        start, stop = region.bounds(index)
        self._low = int(start.min())
        span = slice(self._low, max(self._low, int(stop.max())))
        positions = region.key(torch.arange(span.start, span.stop, device=key.device)) if region.key else None
        self._keys = rotate(key[:, :, span], positions)

    def __getitem__(self, columns: slice) -> torch.Tensor:
        return self._keys[:, :, columns.start - self._low : columns.stop - self._low]


def _tiles(region: Region, rows: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor | None]]:
    """Cut what a region shows to some queries into keys seen by all, and borders with a mask."""
    start, stop = region.bounds(rows)
    low, high = _span(start, stop)
    if low >= high:
        return
    inner_low, inner_high = int(start.max()), int(stop.min())
    if inner_high - inner_low < LEAST:
        yield slice(low, high), _visible(start, stop, low, high)
        return
    yield slice(inner_low, inner_high), None
    if low < inner_low:
        yield slice(low, inner_low), _visible(start, stop, low, inner_low)
    if inner_high < high:
        yield slice(inner_high, high), _visible(start, stop, inner_high, high)


def _span(start: torch.Tensor, stop: torch.Tensor) -> tuple[int, int]:
    """Return the first key and one past the last that any of the queries sees."""
    seeing = start < stop
    if not bool(seeing.any()):
        return 0, 0
    return int(start[seeing].min()), int(stop[seeing].max())


def _visible(start: torch.Tensor, stop: torch.Tensor, low: int, high: int) -> torch.Tensor:
    columns = torch.arange(low, high, device=start.device)
    return (columns >= start.unsqueeze(-1)) & (columns < stop.unsqueeze(-1))


def _causal(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
    """Attend as the model itself does."""
    return scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
    )


def _one_query(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    regions: Regions,
    rotate: Rotate,
    scaling: float,
) -> torch.Tensor:
    """Decode: rotate each key by its distance, then attend once."""
    last = torch.tensor([key.shape[2] - 1], device=key.device)
    pieces = []
    for region in regions:
        start, stop = (int(bound) for bound in region.bounds(last))
        if start < stop:
            span = torch.arange(start, stop, device=key.device)
            at = region.key(span) if region.key else torch.zeros_like(span)
            pieces.append((slice(start, stop), (at - region.query(last)).double()))
    pieces.sort(key=lambda piece: piece[0].start)
    key, value = (_take(states, [span for span, _ in pieces]) for states in (key, value))
    # A model whose rotation also scales (yarn) scales queries too, at any position.
    query = rotate(query, None)
    key = rotate(key, _joined([distances for _, distances in pieces]))
    return scaled_dot_product_attention(
        query, key, value, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
    )


def _joined(distances: list[torch.Tensor]) -> torch.Tensor:
    """Join distances; where some are in columns, so are all."""
    columns = {one.shape[1] for one in distances if one.ndim == 2}
    if columns:
        distances = [one if one.ndim == 2 else one[:, None].expand(-1, *columns) for one in distances]
    return torch.cat(distances)


def _take(states: torch.Tensor, spans: list[slice]) -> torch.Tensor:
    """Take spans of the third dimension, without a copy where they lie side by side."""
    if all(one.stop == other.start for one, other in pairwise(spans)):
        return states[:, :, spans[0].start : spans[-1].stop]
    return torch.cat([states[:, :, span] for span in spans], dim=2)
