"""The recurrence in Triton: one matrix product and one kernel a step, forward and backward, for CUDA cards.

PyTorch operations launch a dozen kernels a step, and the card waits for each launch. Here one program updates a row of the
batch: the row's neurons are a tile (master units, neurons of a unit), so that a master gate is a column that broadcasts over
its chunk. Both sides are padded to powers of two under masks. States of cells and all sums are float32; hidden states, saved
activations and the gradients of the gates have the type of the matrix products.

With `TRITON_INTERPRET=1` in the environment before this module is imported, the kernels run on the CPU, for tests.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["FusedKind", "fused_scan", "fused_softmax_gradient_"]

_CLASSES = 4096


@triton.jit
def _tanh(x: tl.tensor) -> tl.tensor:
    return 2 * tl.sigmoid(2 * x) - 1


@triton.jit
def _softmax(scores: tl.tensor) -> tl.tensor:
    shares = tl.exp(scores - tl.max(scores, axis=0))
    return shares / tl.sum(shares, axis=0)


@triton.jit(do_not_specialize=["step", "batch"])
def _forward_step(
    inputs: tl.tensor,
    product: tl.tensor,
    gates: tl.tensor,
    hidden_states: tl.tensor,
    cells: tl.tensor,
    distances: tl.tensor,
    step: tl.tensor,
    batch: tl.tensor,
    CHUNKS: tl.constexpr,  # noqa: N803
    SIZE: tl.constexpr,  # noqa: N803
    UNITS: tl.constexpr,  # noqa: N803
    NEURONS: tl.constexpr,  # noqa: N803
    REVERSED: tl.constexpr,  # noqa: N803
    KEEP: tl.constexpr,  # noqa: N803
) -> None:
    """Update one row; `KEEP` writes activations and every cell state, for the backward pass."""
    hidden_size: tl.constexpr = CHUNKS * SIZE
    width: tl.constexpr = 2 * CHUNKS + 4 * hidden_size
    row = tl.program_id(0).to(tl.int64)
    at = step.to(tl.int64) * batch + row
    unit = tl.arange(0, UNITS)
    neuron = tl.arange(0, NEURONS)
    is_unit = unit < CHUNKS
    place = unit[:, None] * SIZE + neuron[None, :]
    is_neuron = is_unit[:, None] & (neuron < SIZE)[None, :]
    x = inputs + at * width
    p = product + row * width

    share_in = tl.load(x + unit, is_unit, -float("inf")).to(tl.float32)
    share_in = _softmax(share_in + tl.load(p + unit, is_unit, 0).to(tl.float32))
    share_forget = tl.load(x + CHUNKS + unit, is_unit, -float("inf")).to(tl.float32)
    share_forget = _softmax(share_forget + tl.load(p + CHUNKS + unit, is_unit, 0).to(tl.float32))
    cumulative = tl.cumsum(share_forget, axis=0)
    falling = 1 - tl.cumsum(share_in, axis=0)
    if REVERSED:
        falling += share_in
    master_in = falling[:, None]
    master_forget = cumulative[:, None]
    overlap = master_in * master_forget

    x += 2 * CHUNKS
    p += 2 * CHUNKS
    out = tl.load(x + place, is_neuron, 0).to(tl.float32) + tl.load(p + place, is_neuron, 0).to(tl.float32)
    x += hidden_size
    p += hidden_size
    new = tl.load(x + place, is_neuron, 0).to(tl.float32) + tl.load(p + place, is_neuron, 0).to(tl.float32)
    x += hidden_size
    p += hidden_size
    keep_in = tl.load(x + place, is_neuron, 0).to(tl.float32) + tl.load(p + place, is_neuron, 0).to(
        tl.float32
    )
    x += hidden_size
    p += hidden_size
    keep_old = tl.load(x + place, is_neuron, 0).to(tl.float32) + tl.load(p + place, is_neuron, 0).to(
        tl.float32
    )
    out = tl.sigmoid(out)
    new = _tanh(new)
    keep_in = tl.sigmoid(keep_in)
    keep_old = tl.sigmoid(keep_old)

    before = row
    after = row
    if KEEP:
        before = at
        after = at + batch
    cell = tl.load(cells + before * hidden_size + place, is_neuron, 0)
    cell = (keep_old * overlap + (master_forget - overlap)) * cell
    cell += (keep_in * overlap + (master_in - overlap)) * new
    tl.store(cells + after * hidden_size + place, cell, is_neuron)
    tl.store(hidden_states + (at + batch) * hidden_size + place, out * _tanh(cell), is_neuron)
    tl.store(distances + at, 1 - tl.sum(tl.where(is_unit, cumulative, 0), axis=0) / CHUNKS)
    if KEEP:
        g = gates + at * width
        tl.store(g + unit, share_in, is_unit)
        tl.store(g + CHUNKS + unit, share_forget, is_unit)
        g += 2 * CHUNKS
        tl.store(g + place, out, is_neuron)
        tl.store(g + hidden_size + place, new, is_neuron)
        tl.store(g + 2 * hidden_size + place, keep_in, is_neuron)
        tl.store(g + 3 * hidden_size + place, keep_old, is_neuron)


@triton.jit(do_not_specialize=["step", "batch"])
def _backward_step(
    d_states: tl.tensor,
    product: tl.tensor,
    d_cell: tl.tensor,
    gates: tl.tensor,
    cells: tl.tensor,
    d_gates: tl.tensor,
    step: tl.tensor,
    batch: tl.tensor,
    CHUNKS: tl.constexpr,  # noqa: N803
    SIZE: tl.constexpr,  # noqa: N803
    UNITS: tl.constexpr,  # noqa: N803
    NEURONS: tl.constexpr,  # noqa: N803
    REVERSED: tl.constexpr,  # noqa: N803
) -> None:
    """Write one row's gradient of the pre-activations, and pass that of the cell one step back."""
    hidden_size: tl.constexpr = CHUNKS * SIZE
    width: tl.constexpr = 2 * CHUNKS + 4 * hidden_size
    row = tl.program_id(0).to(tl.int64)
    at = step.to(tl.int64) * batch + row
    unit = tl.arange(0, UNITS)
    neuron = tl.arange(0, NEURONS)
    is_unit = unit < CHUNKS
    place = unit[:, None] * SIZE + neuron[None, :]
    is_neuron = is_unit[:, None] & (neuron < SIZE)[None, :]

    g = gates + at * width
    share_in = tl.load(g + unit, is_unit, 0).to(tl.float32)
    share_forget = tl.load(g + CHUNKS + unit, is_unit, 0).to(tl.float32)
    g += 2 * CHUNKS
    out = tl.load(g + place, is_neuron, 0).to(tl.float32)
    new = tl.load(g + hidden_size + place, is_neuron, 0).to(tl.float32)
    keep_in = tl.load(g + 2 * hidden_size + place, is_neuron, 0).to(tl.float32)
    keep_old = tl.load(g + 3 * hidden_size + place, is_neuron, 0).to(tl.float32)
    falling = 1 - tl.cumsum(share_in, axis=0)
    if REVERSED:
        falling += share_in
    master_in = falling[:, None]
    master_forget = tl.cumsum(share_forget, axis=0)[:, None]
    overlap = master_in * master_forget

    before = tl.load(cells + at * hidden_size + place, is_neuron, 0)
    tanh_cell = _tanh(tl.load(cells + (at + batch) * hidden_size + place, is_neuron, 0))
    dh = tl.load(d_states + at * hidden_size + place, is_neuron, 0).to(tl.float32)
    dh += tl.load(product + row * hidden_size + place, is_neuron, 0).to(tl.float32)
    dc = tl.load(d_cell + row * hidden_size + place, is_neuron, 0)
    dc += dh * out * (1 - tanh_cell * tanh_cell)
    d_forget = dc * before
    d_write = dc * new
    d_overlap = d_forget * (keep_old - 1) + d_write * (keep_in - 1)
    d_master_forget = tl.sum(d_forget + d_overlap * master_in, axis=1)
    d_master_in = -tl.sum(d_write + d_overlap * master_forget, axis=1)
    forget = keep_old * overlap + (master_forget - overlap)
    write = keep_in * overlap + (master_in - overlap)
    tl.store(d_cell + row * hidden_size + place, dc * forget, is_neuron)

    # cumsum backwards is a sum from the right; softmax backwards is p * (d - <p, d>).
    d_in = tl.sum(d_master_in, axis=0) - tl.cumsum(d_master_in, axis=0)
    if not REVERSED:
        d_in += d_master_in
    d_fg = tl.sum(d_master_forget, axis=0) - tl.cumsum(d_master_forget, axis=0) + d_master_forget
    d = d_gates + at * width
    tl.store(d + unit, share_in * (d_in - tl.sum(share_in * d_in, axis=0)), is_unit)
    tl.store(d + CHUNKS + unit, share_forget * (d_fg - tl.sum(share_forget * d_fg, axis=0)), is_unit)
    d += 2 * CHUNKS
    tl.store(d + place, dh * tanh_cell * out * (1 - out), is_neuron)
    tl.store(d + hidden_size + place, dc * write * (1 - new * new), is_neuron)
    tl.store(d + 2 * hidden_size + place, d_write * overlap * keep_in * (1 - keep_in), is_neuron)
    tl.store(d + 3 * hidden_size + place, d_forget * overlap * keep_old * (1 - keep_old), is_neuron)


@triton.jit(do_not_specialize=["ignored"])
def _softmax_gradient_row(
    scores: tl.tensor,
    bias: tl.tensor,
    targets: tl.tensor,
    losses: tl.tensor,
    scale: tl.tensor,
    ignored: tl.tensor,
    CLASSES: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
) -> None:
    """Turn one row of scores into its gradient, and note its loss."""
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(targets + row)
    counts = target != ignored
    lane = tl.arange(0, BLOCK)
    x = scores + row * CLASSES
    top = tl.full((BLOCK,), -float("inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, CLASSES, BLOCK):
        inside = start + lane < CLASSES
        logits = tl.load(x + start + lane, inside, -float("inf")).to(tl.float32)
        logits += tl.load(bias + start + lane, inside, 0)
        higher = tl.maximum(top, logits)
        # Lanes that hold nothing yet: -inf - -inf would be NaN.
        shift = tl.where(higher == -float("inf"), 0.0, higher)
        total = total * tl.exp(top - shift) + tl.exp(logits - shift)
        top = higher
    highest = tl.max(top, axis=0)
    normaliser = highest + tl.log(tl.sum(total * tl.exp(top - highest), axis=0))
    place = tl.where(counts, target, 0)
    picked = tl.load(x + place).to(tl.float32) + tl.load(bias + place)
    tl.store(losses + row, tl.where(counts, normaliser - picked, 0.0))
    weight = tl.where(counts, tl.load(scale), 0.0)
    for start in range(0, CLASSES, BLOCK):
        inside = start + lane < CLASSES
        logits = tl.load(x + start + lane, inside, 0).to(tl.float32)
        logits += tl.load(bias + start + lane, inside, 0)
        gradient = tl.exp(logits - normaliser) - tl.where(start + lane == place, 1.0, 0.0)
        tl.store(x + start + lane, gradient * weight, inside)


def fused_softmax_gradient_(
    scores: Tensor, bias: Tensor, targets: Tensor, ignore_index: int, scale: Tensor
) -> Tensor:
    """Turn scores into the gradient of `scale` times the summed cross-entropy of `softmax(scores + bias)`, in place.

    Args:
        scores: `(rows, classes)`, contiguous.
        bias: `(classes,)` of float32.
        targets: `(rows,)`; rows with `ignore_index` don't count and get zeros.
        ignore_index: See there.
        scale: One number, on the device.

    Returns:
        The loss of each row, `(rows,)` of float32.
    """
    rows, classes = scores.shape
    losses = torch.empty(rows, dtype=torch.float32, device=scores.device)
    block = min(_CLASSES, triton.next_power_of_2(classes))
    _softmax_gradient_row[(rows,)](
        scores, bias, targets, losses, scale, ignore_index, CLASSES=classes, BLOCK=block, num_warps=8
    )
    return losses


class FusedKind(NamedTuple):
    """What the recurrence is like.

    Attributes:
        chunk_size: Neurons of a master unit.
        dtype: Of the matrix products.
        reversed: The master input gate is a cumulative sum from the right.
    """

    chunk_size: int
    dtype: torch.dtype
    reversed: bool


class _Shape:
    """Constants of the kernels for one layer."""

    def __init__(self, hidden_size: int, kind: FusedKind) -> None:
        chunk_size = kind.chunk_size
        chunks = hidden_size // chunk_size
        units, neurons = triton.next_power_of_2(chunks), triton.next_power_of_2(chunk_size)
        warps = min(16, max(1, units * neurons // 128))
        self.constants = {"CHUNKS": chunks, "SIZE": chunk_size, "UNITS": units, "NEURONS": neurons}
        self.constants["REVERSED"] = kind.reversed
        self.constants["num_warps"] = warps


def fused_scan(
    inputs: Tensor,
    weight: Tensor,
    hidden: Tensor,
    cell: Tensor,
    kind: FusedKind,
    *,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the recurrence; see `ordtool.parsing.onlstm.scan.ordered_scan`.

    Args:
        inputs: `(seq, batch, gates)`, one step of one row at least.
        weight: `(gates, hidden)`.
        hidden: `(batch, hidden)`.
        cell: `(batch, hidden)`.
        kind: Size of its chunks, type of its products, form of its input gate.
        keep: Remember what the backward pass needs.

    Returns:
        Hidden states `(seq, batch, hidden)`, the last cell state and distances `(seq, batch)`.
    """
    if keep:
        states, last, distances = _FusedScan.apply(inputs, weight, hidden, cell, kind)
        return states, last, distances
    hidden_states, cells, _, distances = _run_forward(inputs, weight, hidden, cell, kind, keep=False)
    return hidden_states[1:].to(inputs.dtype), cells[0].to(inputs.dtype), distances


def _run_forward(
    inputs: Tensor,
    weight: Tensor,
    hidden: Tensor,
    cell: Tensor,
    kind: FusedKind,
    *,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states of `dtype`, cells of float32, saved activations (none unless `keep`), distances."""
    inputs, dtype = inputs.contiguous(), kind.dtype
    seq, batch, width = inputs.shape
    size = hidden.shape[1]
    gates = inputs.new_empty((seq, batch, width) if keep else (1,), dtype=dtype)
    cells = inputs.new_empty(seq + 1 if keep else 1, batch, size, dtype=torch.float32)
    hidden_states = inputs.new_empty(seq + 1, batch, size, dtype=dtype)
    distances = inputs.new_empty(seq, batch, dtype=torch.float32)
    hidden_states[0] = hidden
    cells[0] = cell
    recurrent = weight.to(dtype).t().contiguous()
    product = inputs.new_empty(batch, width, dtype=dtype)
    constants = _Shape(size, kind).constants
    for t in range(seq):
        torch.mm(hidden_states[t], recurrent, out=product)
        _forward_step[(batch,)](
            inputs, product, gates, hidden_states, cells, distances, t, batch, KEEP=keep, **constants
        )
    return hidden_states, cells, gates, distances


class _FusedScan(torch.autograd.Function):
    """The recurrence with its hand-written gradient; differentiable once."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        hidden: Tensor,
        cell: Tensor,
        kind: FusedKind,
    ) -> tuple[Tensor, Tensor, Tensor]:
        hidden_states, cells, gates, distances = _run_forward(inputs, weight, hidden, cell, kind, keep=True)
        ctx.save_for_backward(weight, gates, hidden_states, cells)
        ctx.kind = kind
        ctx.mark_non_differentiable(distances)
        # Copies: the buffers must stay as they are for the backward pass even if the caller edits the output.
        states = hidden_states[1:].to(inputs.dtype, copy=True)
        return states, cells[-1].to(inputs.dtype, copy=True), distances

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_states: Tensor, d_cell: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        weight, gates, hidden_states, cells = ctx.saved_tensors
        seq, batch, width = gates.shape
        recurrent = weight.to(ctx.kind.dtype).contiguous()
        d_states = d_states.contiguous()
        d_gates = torch.empty_like(gates)
        carried = d_cell.to(torch.float32, copy=True).contiguous()
        product = torch.zeros_like(hidden_states[0])
        constants = _Shape(weight.shape[1], ctx.kind).constants
        for t in range(seq - 1, -1, -1):
            _backward_step[(batch,)](d_states, product, carried, gates, cells, d_gates, t, batch, **constants)
            if t or ctx.needs_input_grad[2]:
                torch.mm(d_gates[t], recurrent, out=product)
        d_weight = None
        if ctx.needs_input_grad[1]:
            previous = hidden_states[:-1].reshape(seq * batch, -1)
            d_weight = torch.mm(d_gates.view(seq * batch, width).t(), previous).to(weight.dtype)
        dtype = d_states.dtype
        return d_gates.to(dtype), d_weight, product.to(dtype), carried.to(dtype), None
