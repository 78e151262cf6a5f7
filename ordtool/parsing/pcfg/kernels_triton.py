"""Sums over splits as Triton kernels: one program a span and sentence, one launch a width.

They run on a CPU too, slowly, where `TRITON_INTERPRET=1` is set before triton is imported; the tests do that.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ordtool.parsing.pcfg.merging import sentence_length, span_offset

__all__ = ["TritonMerger"]

# Numbers that a program holds of each factor at a time.
_TILE = 4096


@triton.jit
def _offset(width, length):
    return (width - 1) * (length + 1) - width * (width - 1) // 2


@triton.jit(do_not_specialize=["length", "width", "batch", "first"])
def _forward(
    children,
    scales,
    sums,
    sum_scales,
    length,
    width,
    batch,
    first,
    size: tl.constexpr,
    block: tl.constexpr,
    together: tl.constexpr,
):
    start = tl.program_id(0)
    row = tl.program_id(1)
    symbols = tl.arange(0, block)
    top = tl.full((), -float("inf"), tl.float32)
    begin = 1
    while begin < width:
        lefts = begin + tl.arange(0, together)
        there = lefts < width
        left = _offset(lefts, length) + start
        right = _offset(width - lefts, length) + start + lefts
        parts = tl.load(scales + left * batch + row, mask=there, other=-float("inf"))
        parts += tl.load(scales + right * batch + row, mask=there, other=-float("inf"))
        top = tl.maximum(top, tl.max(parts, axis=0))
        begin += together
    found = tl.zeros([block], dtype=tl.float32)
    begin = 1
    while begin < width:
        lefts = begin + tl.arange(0, together)
        there = lefts < width
        left = _offset(lefts, length) + start
        right = _offset(width - lefts, length) + start + lefts
        parts = tl.load(scales + left * batch + row, mask=there, other=-float("inf"))
        parts += tl.load(scales + right * batch + row, mask=there, other=-float("inf"))
        weights = tl.exp(parts - top)
        wanted = there[:, None] & (symbols < size)[None, :]
        rows = (left * batch + row).to(tl.int64)[:, None] * (2 * size)
        by_left = tl.load(children + rows + symbols[None, :], mask=wanted, other=0.0)
        rows = (right * batch + row).to(tl.int64)[:, None] * (2 * size) + size
        by_right = tl.load(children + rows + symbols[None, :], mask=wanted, other=0.0)
        found += tl.sum(weights[:, None] * by_left * by_right, axis=0)
        begin += together
    peak = tl.maximum(tl.max(found, axis=0), 1e-37)
    own = ((first + start) * batch + row).to(tl.int64)
    tl.store(sums + own * size + symbols, found / peak, mask=symbols < size)
    tl.store(sum_scales + own, top + tl.log(peak))


@triton.jit(do_not_specialize=["length", "width", "batch", "first"])
def _backward(
    children,
    scales,
    outer,
    sum_scales,
    by_children,
    length,
    width,
    batch,
    first,
    size: tl.constexpr,
    block: tl.constexpr,
    together: tl.constexpr,
):
    start = tl.program_id(0)
    row = tl.program_id(1)
    symbols = tl.arange(0, block)
    own = ((first + start) * batch + row).to(tl.int64)
    scale = tl.load(scales + own)
    found = tl.zeros([block], dtype=tl.float32)
    begin = 1
    while begin < length - width - start + 1:  # siblings that follow
        added = begin + tl.arange(0, together)
        there = added <= length - width - start
        sibling = _offset(added, length) + start + width
        parent = _offset(width + added, length) + start
        weights = tl.load(scales + sibling * batch + row, mask=there, other=-float("inf")) + scale
        weights = tl.exp(weights - tl.load(sum_scales + parent * batch + row, mask=there, other=0.0))
        wanted = there[:, None] & (symbols < size)[None, :]
        rows = (sibling * batch + row).to(tl.int64)[:, None] * (2 * size) + size
        other = tl.load(children + rows + symbols[None, :], mask=wanted, other=0.0)
        rows = (parent * batch + row).to(tl.int64)[:, None] * size
        above = tl.load(outer + rows + symbols[None, :], mask=wanted, other=0.0)
        found += tl.sum(weights[:, None] * other * above, axis=0)
        begin += together
    tl.store(by_children + own * (2 * size) + symbols, found, mask=symbols < size)
    found = tl.zeros([block], dtype=tl.float32)
    begin = 1
    while begin < start + 1:  # siblings before
        added = begin + tl.arange(0, together)
        there = added <= start
        sibling = _offset(added, length) + start - added
        parent = _offset(width + added, length) + start - added
        weights = tl.load(scales + sibling * batch + row, mask=there, other=-float("inf")) + scale
        weights = tl.exp(weights - tl.load(sum_scales + parent * batch + row, mask=there, other=0.0))
        wanted = there[:, None] & (symbols < size)[None, :]
        rows = (sibling * batch + row).to(tl.int64)[:, None] * (2 * size)
        other = tl.load(children + rows + symbols[None, :], mask=wanted, other=0.0)
        rows = (parent * batch + row).to(tl.int64)[:, None] * size
        above = tl.load(outer + rows + symbols[None, :], mask=wanted, other=0.0)
        found += tl.sum(weights[:, None] * other * above, axis=0)
        begin += together
    tl.store(by_children + own * (2 * size) + size + symbols, found, mask=symbols < size)


class TritonMerger:
    """The kernels behind the interface of `Merger`; float32."""

    def forward(self, children: Tensor, scales: Tensor, sums: Tensor, sum_scales: Tensor, width: int) -> None:
        """See `Merger`."""
        grid, numbers, shape = _launch(children, width)
        _forward[grid](children, scales, sums, sum_scales, *numbers, **shape)

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
        grid, numbers, shape = _launch(children, width)
        _backward[grid](children, scales, outer, sum_scales, by_children, *numbers, **shape)


def _launch(
    children: Tensor, width: int
) -> tuple[tuple[int, int], tuple[int, int, int, int], dict[str, int]]:
    """Grid, numbers and sizes of a launch."""
    spans, batch, twice = children.shape
    length = sentence_length(spans)
    block = triton.next_power_of_2(twice // 2)
    together = max(1, min(16, _TILE // block))
    shape = {
        "size": twice // 2,
        "block": block,
        "together": together,
        "num_warps": 8 if block * together >= 2048 else 4,
    }
    return (length - width + 1, batch), (length, width, batch, span_offset(width, length)), shape
