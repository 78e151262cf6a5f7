"""Softmax, its loss and its gradient in one pass over bfloat16 scores, compiled by numba.

The scores of a block of rows stay in bfloat16, as the matrix product leaves them and as the next ones want their
gradient; only the row at hand is widened to float32. The tensor operations that this replaces read and write
the block ten times in float32.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ordtool.parsing.onlstm.kernels_numba import _compile, _exp, f32

__all__ = ["softmax_gradient_"]

LANES = 16
_ROUND, _SHIFT, _BIT = np.uint32(0x7FFF), np.uint32(16), np.uint32(1)


@_compile
def _widen(score: np.ndarray, bias: np.ndarray, bits: np.ndarray, row: np.ndarray) -> None:
    """Set `row`, whose bits are `bits`, to a row of bfloat16 scores and the bias."""
    for j in range(row.shape[0]):
        bits[j] = np.uint32(score[j]) << _SHIFT
    for j in range(row.shape[0]):
        row[j] += bias[j]


@_compile
def _narrow(bits: np.ndarray, score: np.ndarray) -> None:
    """Round float32, seen as bits, to the nearest even bfloat16."""
    for j in range(bits.shape[0]):
        score[j] = np.uint16((bits[j] + _ROUND + ((bits[j] >> _SHIFT) & _BIT)) >> _SHIFT)


@_compile
def _rows(
    scores: np.ndarray,
    bias: np.ndarray,
    targets: np.ndarray,
    ignored: int,
    scale: float,
    d_bias: np.ndarray,
    gradient: bool,
) -> float:
    """Sum of the losses; with `gradient`, `scores` (uint16 seen as bfloat16) become scale * (softmax - one-hot)."""
    rows, classes = scores.shape
    row = np.empty(classes, np.float32)
    bits = row.view(np.uint32)
    scratch = np.empty(classes, np.int32)
    powers = scratch.view(np.float32)
    lanes = np.empty(LANES, np.float32)
    whole = classes - classes % LANES
    total = 0.0
    for b in range(rows):
        score, target = scores[b], targets[b]
        if target == ignored:
            if gradient:
                for j in range(classes):
                    score[j] = 0
            continue
        _widen(score, bias, bits, row)
        # Sixteen running maxima and sums side by side: what the compiler may keep in one vector.
        lanes[:] = row[0]
        for k in range(0, whole, LANES):
            for j in range(LANES):
                v = row[k + j]
                lanes[j] = v if v > lanes[j] else lanes[j]
        top = lanes.max()
        for j in range(whole, classes):
            top = max(top, row[j])
        picked = row[target] - top
        for j in range(classes):
            row[j] -= top
        _exp(row, scratch, powers)
        lanes[:] = f32(0.0)
        for k in range(0, whole, LANES):
            for j in range(LANES):
                lanes[j] += row[k + j]
        normaliser = lanes.sum()
        for j in range(whole, classes):
            normaliser += row[j]
        total += np.log(normaliser) - picked
        if not gradient:
            continue
        factor = f32(scale) / normaliser
        for j in range(classes):
            row[j] *= factor
        row[target] -= f32(scale)
        for j in range(classes):
            d_bias[j] += row[j]
        _narrow(bits, score)
    return total


def softmax_gradient_(
    scores: Tensor, bias: Tensor, targets: Tensor, ignore_index: int, scale: float, d_bias: Tensor | None
) -> float:
    """Turn scores into the gradient of their summed cross-entropy, in place, and return the sum.

    Args:
        scores: Products without bias, `(rows, classes)`, bfloat16, contiguous, on the CPU.
        bias: `(classes,)`, float32.
        targets: `(rows,)`.
        ignore_index: Marks rows that don't count.
        scale: Factor of the gradient.
        d_bias: Where the gradient of the bias is added; None: no gradients, `scores` are left as they are.
    """
    sink = d_bias.numpy() if d_bias is not None else np.empty(0, np.float32)
    bits = scores.view(torch.uint16).numpy()
    plain_bias = bias.detach().numpy()
    return float(_rows(bits, plain_bias, targets.numpy(), ignore_index, scale, sink, d_bias is not None))
