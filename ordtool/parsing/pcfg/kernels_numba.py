"""Sums over splits as float32 loops compiled by numba, for CPUs.

What PyTorch gathers and multiplies pair by pair is added up in the cache, which is several times as fast. The loops stay on
one thread, as those of `ordtool.parsing.onlstm.kernels_numba` do.
"""

from __future__ import annotations

import numba
import numpy as np
from torch import Tensor

from ordtool.parsing.pcfg.merging import sentence_length, span_offset

__all__ = ["NumbaMerger"]

_compile = numba.njit(cache=True, fastmath={"contract"}, nogil=True, error_model="numpy")

_offset = _compile(span_offset)


@_compile
def _forward(
    children: np.ndarray,
    scales: np.ndarray,
    sums: np.ndarray,
    sum_scales: np.ndarray,
    length: int,
    width: int,
) -> None:
    size = sums.shape[2]
    first = _offset(width, length)
    for start in range(length - width + 1):
        for row in range(scales.shape[1]):
            top = np.float32(-np.inf)
            for k in range(1, width):
                left, right = _offset(k, length) + start, _offset(width - k, length) + start + k
                top = max(top, scales[left, row] + scales[right, row])
            found = sums[first + start, row]
            found[:] = np.float32(0.0)
            for k in range(1, width):
                left, right = _offset(k, length) + start, _offset(width - k, length) + start + k
                weight = np.float32(np.exp(scales[left, row] + scales[right, row] - top))
                by_left, by_right = children[left, row, :size], children[right, row, size:]
                for m in range(size):
                    found[m] += weight * by_left[m] * by_right[m]
            peak = np.float32(1e-37)
            for m in range(size):
                peak = max(peak, found[m])
            for m in range(size):
                found[m] /= peak
            sum_scales[first + start, row] = top + np.log(peak)


@_compile
def _backward(
    children: np.ndarray,
    scales: np.ndarray,
    outer: np.ndarray,
    sum_scales: np.ndarray,
    by_children: np.ndarray,
    length: int,
    width: int,
) -> None:
    size = outer.shape[2]
    first = _offset(width, length)
    for start in range(length - width + 1):
        own = first + start
        for row in range(scales.shape[1]):
            found = by_children[own, row]
            found[:] = np.float32(0.0)
            # Parents in which the span is the left part, with the siblings that follow; then those in which it is the right.
            for added in range(1, length - width + 1):
                follows = added <= length - width - start
                step = added if follows else added - (length - width - start)
                begin = start if follows else start - step
                sibling = _offset(step, length) + (start + width if follows else begin)
                parent = _offset(width + step, length) + begin
                weight = np.float32(np.exp(scales[own, row] + scales[sibling, row] - sum_scales[parent, row]))
                above = outer[parent, row]
                other = children[sibling, row, size:] if follows else children[sibling, row, :size]
                mine = found[:size] if follows else found[size:]
                for m in range(size):
                    mine[m] += weight * other[m] * above[m]


class NumbaMerger:
    """The loops behind the interface of `Merger`; float32, on a CPU."""

    def forward(self, children: Tensor, scales: Tensor, sums: Tensor, sum_scales: Tensor, width: int) -> None:
        """See `Merger`."""
        arrays = (tensor.numpy() for tensor in (children, scales, sums, sum_scales))
        _forward(*arrays, sentence_length(len(children)), width)

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
        arrays = (tensor.numpy() for tensor in (children, scales, outer, sum_scales, by_children))
        _backward(*arrays, sentence_length(len(children)), width)
