"""Sums over the splits of spans, which are all of the inside algorithm that is no matrix product.

Spans of a sentence of n words are counted by width, then by start, so that those of one width lie together.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Merger", "TorchMerger", "sentence_length", "span_count", "span_offset"]


def span_offset(width: int, length: int) -> int:
    """Return the number of the first span of a width: how many are narrower."""
    return (width - 1) * (length + 1) - width * (width - 1) // 2


def span_count(length: int) -> int:
    """Return how many spans a sentence has."""
    return length * (length + 1) // 2


class Merger(Protocol):
    """Computes sums over splits, for all spans of one width at once.

    `children` is `(spans, batch, 2 m)`, l and r of every span; `sums` is `(spans, batch, m)`; `scales` is
    `(spans, batch)`, and `sum_scales` the same without the potentials of the spans.
    """

    def forward(self, children: Tensor, scales: Tensor, sums: Tensor, sum_scales: Tensor, width: int) -> None:
        """Write `sums` and `sum_scales` of one width.

            s[i, j] = sum over k of exp(scale[i, k] + scale[k, j] - sum_scale[i, j]) l[i, k] r[k, j]

        where sum_scale[i, j] is such that the largest number of s[i, j] is 1.
        """

    def backward(
        self,
        children: Tensor,
        scales: Tensor,
        outer: Tensor,
        sum_scales: Tensor,
        by_children: Tensor,
        width: int,
    ) -> None:
        """Write the gradient by `children` of one width, from the gradient by `sums` of all greater ones.

        dl[i, k] = sum over j > k of exp(scale[i, k] + scale[k, j] - sum_scale[i, j]) r[k, j] ds[i, j]
        dr[i, k] = sum over h < i of exp(scale[h, i] + scale[i, k] - sum_scale[h, k]) l[h, i] ds[h, k]
        """


class TorchMerger:
    """Plain PyTorch, on any device."""

    def forward(self, children: Tensor, scales: Tensor, sums: Tensor, sum_scales: Tensor, width: int) -> None:
        """See `Merger`."""
        length, size = sentence_length(len(children)), sums.shape[-1]
        left, right = _splits(length, width, children.device)
        parts = scales[left] + scales[right]
        top = parts.amax(dim=1)
        weights = torch.exp(parts - top[:, None])
        products = children[..., :size][left] * children[..., size:][right]
        found = torch.einsum("skb,skbm->sbm", weights, products)
        peak = found.amax(dim=-1).clamp_min(torch.finfo(found.dtype).tiny)
        first = span_offset(width, length)
        last = first + length - width + 1
        sums[first:last] = found / peak[..., None]
        sum_scales[first:last] = top + torch.log(peak)

    def backward(
        self,
        children: Tensor,
        scales: Tensor,
        outer: Tensor,
        sum_scales: Tensor,
        by_children: Tensor,
        width: int,
    ) -> None:
        """See `Merger`."""
        length, size = sentence_length(len(children)), outer.shape[-1]
        first = span_offset(width, length)
        last = first + length - width + 1
        sibling, parent, side = _parents(length, width, children.device)
        weights = torch.exp(scales[first:last, None] + scales[sibling] - sum_scales[parent])
        products = children.unflatten(-1, (2, size))[sibling, :, 1 - side] * outer[parent]
        # A span has parents in which it is the left part, and others in which it is the right one.
        by_side = weights * torch.stack((1 - side, side)).to(weights.dtype)[..., None]
        found = torch.einsum("cskb,skbm->sbcm", by_side, products)
        by_children[first:last] = found.flatten(-2)


@lru_cache(maxsize=64)
def sentence_length(spans: int) -> int:
    """Words of a sentence that has so many spans."""
    return int(((8 * spans + 1) ** 0.5 - 1) / 2 + 0.5)


# Words of the longest sentence whose splits are kept: those of all lengths take 46 MB, and grow with its fourth power.
_KEPT_LENGTH = 64


def _splits(length: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Numbers of the left and right parts of every split, `(starts, width - 1)` each."""
    find = _find_splits if length <= _KEPT_LENGTH else _find_splits.__wrapped__
    return find(length, width, device)


def _parents(length: int, width: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For every span of a width its siblings, the spans they make together, and on which side of them it stands.

    Returns:
        `(starts, length - width)` each; a side is 0 for the left and 1 for the right.
    """
    find = _find_parents if length <= _KEPT_LENGTH else _find_parents.__wrapped__
    return find(length, width, device)


@lru_cache(maxsize=4096)
def _find_splits(length: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    starts = torch.arange(length - width + 1)[:, None]
    lefts = torch.arange(1, width)
    left = span_offset_of(lefts, length) + starts
    right = span_offset_of(width - lefts, length) + starts + lefts
    return left.to(device), right.to(device)


@lru_cache(maxsize=4096)
def _find_parents(length: int, width: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    starts = torch.arange(length - width + 1)[:, None]
    added = torch.arange(
        1, length - width + 1
    )  # the sibling's width, first of those that follow, then of those before
    following = length - width - starts
    side = (added > following).long()
    added = torch.where(side == 0, added, added - following)
    sibling = span_offset_of(added, length) + torch.where(side == 0, starts + width, starts - added)
    parent = span_offset_of(width + added, length) + torch.where(side == 0, starts, starts - added)
    return sibling.to(device), parent.to(device), side.to(device)


def span_offset_of(width: Tensor, length: int) -> Tensor:
    """`span_offset` of many widths."""
    return (width - 1) * (length + 1) - width * (width - 1) // 2
