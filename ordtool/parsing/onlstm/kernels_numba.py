"""The elementwise part of one ON-LSTM step as fused float32 loops, compiled by numba.

One pass over a row of gates replaces some twenty tensor operations. The loops stay on one thread:
a second pool of threads beside PyTorch's would fight with it for the same cores.

exp is a polynomial of plain float32 arithmetic, so that LLVM turns the loop into vector code (a
call of libm's would not be), with its argument clamped to where float32 neither overflows nor
turns denormal. It is good to 2 units in the last place there. Of the fast-math flags only
contraction is used: multiply and add may fuse, nothing is reordered and no NaN assumed away.
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np
from torch import Tensor

__all__ = ["NumbaKernels"]

_compile = numba.njit(cache=True, fastmath={"contract"}, nogil=True, error_model="numpy")

f32 = np.float32
LIMIT = f32(87.0)
LOG2_E = f32(1.44269504088896341)
LN2_HIGH = f32(0.693359375)
LN2_LOW = f32(-2.12194440e-4)
# Minimax coefficients of (exp(r) - 1 - r) / r^2 on [-ln 2 / 2, ln 2 / 2] (Cephes, public domain).
P0, P1, P2 = f32(1.9875691500e-4), f32(1.3981999507e-3), f32(8.3334519073e-3)
P3, P4, P5 = f32(4.1665795894e-2), f32(1.6666665459e-1), f32(5.0000001201e-1)
HALF, ONE, TWO = f32(0.5), f32(1.0), f32(2.0)


@_compile
def _exp(x: np.ndarray, bits: np.ndarray, powers: np.ndarray) -> None:
    """Replace x by exp(x), clamped; `powers` is `bits` seen as float32 (2^k is made from its exponent bits)."""
    for j in range(x.shape[0]):
        v = x[j]
        v = LIMIT if v > LIMIT else v
        v = -LIMIT if v < -LIMIT else v
        k = np.floor(v * LOG2_E + HALF)
        r = v - k * LN2_HIGH - k * LN2_LOW
        p = ((((P0 * r + P1) * r + P2) * r + P3) * r + P4) * r + P5
        x[j] = p * r * r + r + ONE
        bits[j] = (np.int32(k) + np.int32(127)) << np.int32(23)
    for j in range(x.shape[0]):
        x[j] *= powers[j]


@_compile
def _softmax(row: np.ndarray, bits: np.ndarray, powers: np.ndarray) -> None:
    top = row[0]
    for j in range(1, row.shape[0]):
        top = max(top, row[j])
    for j in range(row.shape[0]):
        row[j] -= top
    _exp(row, bits, powers)
    total = f32(0.0)
    for j in range(row.shape[0]):
        total += row[j]
    for j in range(row.shape[0]):
        row[j] /= total


@_compile
def _cumulative(
    gate: np.ndarray, chunk: int, master_in: np.ndarray, master_forget: np.ndarray, reversed: bool
) -> np.float32:
    """Spread 1 - cumsum and cumsum of the two softmaxes over their neurons; returns the mean of the second.

    `reversed` begins the falling one at 1: it is the cumulative sum from the right.
    """
    n = master_in.shape[0] // chunk
    sum_in, sum_forget, total = f32(0.0), f32(0.0), f32(0.0)
    for k in range(n):
        before = sum_in
        sum_in += gate[k]
        sum_forget += gate[n + k]
        total += sum_forget
        for j in range(k * chunk, (k + 1) * chunk):
            master_in[j] = ONE - (before if reversed else sum_in)
            master_forget[j] = sum_forget
    return f32(total / f32(n))


@_compile
def _activate(
    gate: np.ndarray,
    chunk: int,
    bits: np.ndarray,
    powers: np.ndarray,
    master_in: np.ndarray,
    master_forget: np.ndarray,
    reversed: bool,
) -> np.float32:
    """Turn a row `(4h + 2n,)` of pre-activations into softmaxes and sigmoids, in place (of the cell's: of twice it).

    Spreads the master gates over their neurons and returns the mean of the forget gate.
    """
    size = master_in.shape[0]
    n = size // chunk
    _softmax(gate[:n], bits, powers)
    _softmax(gate[n : 2 * n], bits, powers)
    mean = _cumulative(gate, chunk, master_in, master_forget, reversed)
    neurons, new = gate[2 * n :], gate[2 * n + size : 2 * n + 2 * size]
    # sigmoid(z) = 1 / (1 + exp(-z)), tanh(z) = 2 sigmoid(2 z) - 1
    for j in range(size):
        new[j] *= TWO
    for j in range(4 * size):
        neurons[j] = -neurons[j]
    _exp(neurons, bits, powers)
    for j in range(4 * size):
        neurons[j] = ONE / (ONE + neurons[j])
    return mean


@_compile
def _forward(
    gates: np.ndarray,
    hidden: np.ndarray,
    previous: np.ndarray,
    cells: np.ndarray,
    tanh_cells: np.ndarray,
    distances: np.ndarray,
    chunk: int,
    reversed: bool,
) -> None:
    """One step for all rows: `gates` (batch, 4h + 2n) from pre-activations to activations, in place."""
    batch, size = cells.shape
    n = size // chunk
    bits = np.empty(gates.shape[1], np.int32)
    powers = bits.view(np.float32)
    master_in, master_forget = np.empty(size, np.float32), np.empty(size, np.float32)
    for b in range(batch):
        gate = gates[b]
        distances[b] = ONE - _activate(gate, chunk, bits, powers, master_in, master_forget, reversed)
        out = gate[2 * n : 2 * n + size]
        new = gate[2 * n + size : 2 * n + 2 * size]
        keep_in = gate[2 * n + 2 * size : 2 * n + 3 * size]
        keep_old = gate[2 * n + 3 * size : 2 * n + 4 * size]
        old, cell, tanh_cell, h = previous[b], cells[b], tanh_cells[b], hidden[b]
        for j in range(size):
            g = TWO * new[j] - ONE
            new[j] = g
            overlap = master_in[j] * master_forget[j]
            forget = keep_old[j] * overlap + (master_forget[j] - overlap)
            write = keep_in[j] * overlap + (master_in[j] - overlap)
            c = forget * old[j] + write * g
            cell[j] = c
            tanh_cell[j] = -TWO * c
        _exp(tanh_cell, bits, powers)
        for j in range(size):
            tc = TWO / (ONE + tanh_cell[j]) - ONE
            tanh_cell[j] = tc
            h[j] = out[j] * tc


@_compile
def _softmax_gradient(row: np.ndarray, d_row: np.ndarray, exclusive: bool) -> None:
    """From gradients of a cumulative softmax to those of its input, in place, given the softmax `row`.

    `exclusive`: the sum at a place leaves that place out.
    """
    right, inner = f32(0.0), f32(0.0)
    for k in range(row.shape[0] - 1, -1, -1):
        own = d_row[k]
        right += own
        d_row[k] = right - own if exclusive else right
        inner += row[k] * d_row[k]
    for k in range(row.shape[0]):
        d_row[k] = row[k] * (d_row[k] - inner)


@_compile
def _backward(
    gates: np.ndarray,
    previous: np.ndarray,
    tanh_cells: np.ndarray,
    d_gates: np.ndarray,
    d_hidden: np.ndarray,
    d_cell: np.ndarray,
    chunk: int,
    reversed: bool,
) -> None:
    """One step back for all rows; see `TorchKernels.backward_step` for the formulas."""
    batch, size = previous.shape
    n = size // chunk
    master_in, master_forget = np.empty(size, np.float32), np.empty(size, np.float32)
    into_in, into_forget = np.empty(size, np.float32), np.empty(size, np.float32)
    for b in range(batch):
        gate, d_gate = gates[b], d_gates[b]
        _cumulative(gate, chunk, master_in, master_forget, reversed)
        out = gate[2 * n : 2 * n + size]
        new = gate[2 * n + size : 2 * n + 2 * size]
        keep_in = gate[2 * n + 2 * size : 2 * n + 3 * size]
        keep_old = gate[2 * n + 3 * size : 2 * n + 4 * size]
        d_out = d_gate[2 * n : 2 * n + size]
        d_new = d_gate[2 * n + size : 2 * n + 2 * size]
        d_keep_in = d_gate[2 * n + 2 * size : 2 * n + 3 * size]
        d_keep_old = d_gate[2 * n + 3 * size : 2 * n + 4 * size]
        old, tanh_cell, dh, dc_row = previous[b], tanh_cells[b], d_hidden[b], d_cell[b]
        for j in range(size):
            o, g, i, f = out[j], new[j], keep_in[j], keep_old[j]
            m_in, m_forget, tc = master_in[j], master_forget[j], tanh_cell[j]
            overlap = m_in * m_forget
            forget = f * overlap + (m_forget - overlap)
            write = i * overlap + (m_in - overlap)
            dc = dc_row[j] + dh[j] * o * (ONE - tc * tc)
            d_forget = dc * old[j]
            d_write = dc * g
            d_overlap = d_forget * (f - ONE) + d_write * (i - ONE)
            into_forget[j] = d_forget + d_overlap * m_in
            into_in[j] = d_write + d_overlap * m_forget
            d_out[j] = dh[j] * tc * o * (ONE - o)
            d_new[j] = dc * write * (ONE - g * g)
            d_keep_in[j] = d_write * overlap * i * (ONE - i)
            d_keep_old[j] = d_forget * overlap * f * (ONE - f)
            dc_row[j] = dc * forget
        for k in range(n):
            sum_in, sum_forget = f32(0.0), f32(0.0)
            for j in range(k * chunk, (k + 1) * chunk):
                sum_in += into_in[j]
                sum_forget += into_forget[j]
            d_gate[k] = -sum_in
            d_gate[n + k] = sum_forget
        _softmax_gradient(gate[:n], d_gate[:n], reversed)
        _softmax_gradient(gate[n : 2 * n], d_gate[n : 2 * n], False)


class NumbaKernels:
    """The step as compiled loops, for contiguous float32 tensors on the CPU; same interface as `TorchKernels`."""

    def __init__(self, reversed: bool = False) -> None:
        self.reversed = reversed

    def forward_step(
        self,
        gates: Tensor,
        hidden_states: Tensor,
        cells: Tensor,
        tanh_cells: Tensor,
        distances: Tensor,
        chunk_size: int,
    ) -> Callable[[int, int, int], None]:
        """Return `step(t, slot, cell_slot)`; see `TorchKernels.forward_step`."""
        g, h, c, tc, d = (x.detach().numpy() for x in (gates, hidden_states, cells, tanh_cells, distances))

        def step(t: int, slot: int, cell_slot: int) -> None:
            _forward(
                g[slot], h[t + 1], c[cell_slot - 1], c[cell_slot], tc[slot], d[t], chunk_size, self.reversed
            )

        return step

    def backward_step(
        self,
        gates: Tensor,
        cells: Tensor,
        tanh_cells: Tensor,
        d_gates: Tensor,
        d_hidden: Tensor,
        d_cell: Tensor,
        chunk_size: int,
    ) -> Callable[[int], None]:
        """Return `step(t)`; see `TorchKernels.backward_step`."""
        arrays = (x.detach().numpy() for x in (gates, cells, tanh_cells, d_gates, d_hidden, d_cell))
        g, c, tc, dg, dh, dc = arrays

        def step(t: int) -> None:
            _backward(g[t], c[t], tc[t], dg[t], dh, dc, chunk_size, self.reversed)

        return step
