"""The ordered-neuron recurrence for measuring alone, with bfloat16 products, in numba.

Nothing is kept for a backward pass, so a step needs one row of gates at a time, which stays in the first-level cache. Both
matrix products stay in bfloat16 as they were multiplied; they and the bias are added up in float32 inside the loop, which
saves three passes over the widest tensors. The numbers are those of `ordered_scan` with `matmul_dtype=torch.bfloat16`.

numba has no bfloat16: its bits are the upper half of a float32.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ordtool.parsing.onlstm.kernels_numba import (
    ONE,
    TWO,
    _activate,
    _compile,
    _exp,
)

__all__ = ["bf16_scan"]


@_compile
def _widen(left: np.ndarray, right: np.ndarray, bias: np.ndarray, bits: np.ndarray, out: np.ndarray) -> None:
    """Set `out` to left + right + bias, of bfloat16 bits; `bits` is scratch `(2, width)`, int32."""
    first, second = bits[0].view(np.float32), bits[1].view(np.float32)
    for j in range(out.shape[0]):
        bits[0, j] = np.int32(left[j]) << np.int32(16)
        bits[1, j] = np.int32(right[j]) << np.int32(16)
    for j in range(out.shape[0]):
        out[j] = first[j] + (second[j] + bias[j])


@_compile
def _narrow(values: np.ndarray, out: np.ndarray) -> None:
    """Round float32 to the nearest bfloat16, ties to even."""
    bits = values.view(np.int32)
    for j in range(values.shape[0]):
        odd = (bits[j] >> np.int32(16)) & np.int32(1)
        out[j] = np.int16((bits[j] + np.int32(0x7FFF) + odd) >> np.int32(16))


@_compile
def _step(
    inputs: np.ndarray,
    product: np.ndarray,
    bias: np.ndarray,
    cells: np.ndarray,
    hidden: np.ndarray,
    distances: np.ndarray,
    chunk: int,
    reversed: bool,
) -> None:
    """One step for all rows; `cells` is advanced in place, `hidden` and the two products are bits of bfloat16."""
    batch, size = cells.shape
    n = size // chunk
    gate = np.empty(inputs.shape[1], np.float32)
    wide = np.empty((2, inputs.shape[1]), np.int32)
    bits = np.empty(inputs.shape[1], np.int32)
    powers = bits.view(np.float32)
    master_in, master_forget = np.empty(size, np.float32), np.empty(size, np.float32)
    tanh_cell = np.empty(size, np.float32)
    out = gate[2 * n : 2 * n + size]
    new = gate[2 * n + size : 2 * n + 2 * size]
    keep_in = gate[2 * n + 2 * size : 2 * n + 3 * size]
    keep_old = gate[2 * n + 3 * size : 2 * n + 4 * size]
    for b in range(batch):
        _widen(inputs[b], product[b], bias, wide, gate)
        distances[b] = ONE - _activate(gate, chunk, bits, powers, master_in, master_forget, reversed)
        cell = cells[b]
        for j in range(size):
            overlap = master_in[j] * master_forget[j]
            forget = keep_old[j] * overlap + (master_forget[j] - overlap)
            write = keep_in[j] * overlap + (master_in[j] - overlap)
            c = forget * cell[j] + write * (TWO * new[j] - ONE)
            cell[j] = c
            tanh_cell[j] = -TWO * c
        _exp(tanh_cell, bits, powers)
        for j in range(size):
            tanh_cell[j] = out[j] * (TWO / (ONE + tanh_cell[j]) - ONE)
        _narrow(tanh_cell, hidden[b])


def bf16_scan(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor,
    hidden: Tensor,
    cell: Tensor,
    chunk_size: int,
    input_gate: str = "paper",
) -> tuple[Tensor, Tensor]:
    """Run the recurrence of `ordtool.parsing.onlstm.scan.ordered_scan` over a window, without gradients, on the CPU.

    Args:
        inputs: Products of the inputs with their weight, without bias, bfloat16 `(seq, batch, 4 * hidden + 2 * n)`.
        weight: Recurrent weight, transposed and contiguous, bfloat16 `(hidden, 4 * hidden + 2 * n)`.
        bias: Sum of both biases, float32 `(4 * hidden + 2 * n,)`.
        hidden: h before the first step, bfloat16 `(batch, hidden)`.
        cell: c before the first step, float32 `(batch, hidden)`; advanced in place to the last step.
        chunk_size: Neurons that share one master gate unit.
        input_gate: `paper` or `reversed`.

    Returns:
        h of each step, bfloat16 `(seq, batch, hidden)`, and the distances, float32 `(seq, batch)`.
    """
    seq, batch, width = inputs.shape
    states = inputs.new_empty(seq, batch, hidden.shape[1])
    distances = torch.empty(seq, batch)
    product = inputs.new_empty(batch, width)
    bits = [x.view(torch.int16).numpy() for x in (inputs, product, states)]
    numbers = [x.numpy() for x in (bias, cell, distances)]
    is_reversed = input_gate == "reversed"
    for t in range(seq):
        torch.mm(states[t - 1] if t else hidden, weight, out=product)
        buffers = (bits[0][t], bits[1], numbers[0], numbers[1], bits[2][t], numbers[2][t])
        _step(*buffers, chunk_size, is_reversed)
    return states, distances
