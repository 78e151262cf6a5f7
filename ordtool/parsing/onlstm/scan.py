"""The ordered-neuron recurrence over a window of time steps, forward and backward.

Only what truly depends on the previous step stays inside the loop over time: one
matrix product with the recurrent weight and one fused elementwise update. The product
with the inputs is made before the loop for the whole window, and the gradient of the
recurrent weight after it, each as one large matrix product.

The elementwise update has three implementations with the same numbers: PyTorch operations,
which work everywhere; numba loops, for float32 on the CPU when numba is installed; and Triton's
kernels, for CUDA, where the whole step is theirs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ordtool.parsing.onlstm.kernels_torch import FUSED, choose_kernels

__all__ = ["INPUT_GATES", "ScanOutput", "master_gates", "ordered_scan"]

INPUT_GATES = ("paper", "reversed")
"""Forms of the master input gate; see `ordered_scan`."""


class ScanOutput(NamedTuple):
    """What `ordered_scan` returns.

    Attributes:
        hidden_states: h of each step, `(seq, batch, hidden)`.
        cell: c after the last step, `(batch, hidden)`.
        distances: 1 - mean of the master forget gate at each step, `(seq, batch)`, without gradient.
    """

    hidden_states: Tensor
    cell: Tensor
    distances: Tensor


def ordered_scan(
    inputs: Tensor,
    weight: Tensor,
    hidden: Tensor,
    cell: Tensor,
    chunk_size: int,
    *,
    matmul_dtype: torch.dtype | None = None,
    kernel: str = "auto",
    input_gate: str = "paper",
) -> ScanOutput:
    """Run the ON-LSTM recurrence over a window.

    With pre-activations `z_t = inputs_t + W h_(t-1)`, split in the order master input gate, master
    forget gate (n = hidden / chunk_size units each), output, cell, input, forget (hidden units each):

        f~ = cumax(z_mf)              i~ = 1 - cumax(z_mi)        cumax(z) = cumsum(softmax(z))
        w  = f~ * i~                  (every master unit serves chunk_size neighbouring neurons)
        f^ = f * w + (f~ - w)         i^ = i * w + (i~ - w)
        c_t = f^ * c_(t-1) + i^ * tanh(z_c)
        h_t = o * tanh(c_t)

    Args:
        inputs: Contributions of the inputs to the pre-activations, biases included, `(seq, batch, 4 * hidden + 2 * n)`.
        weight: Recurrent weight W, `(4 * hidden + 2 * n, hidden)`.
        hidden: h before the first step, `(batch, hidden)`.
        cell: c before the first step, `(batch, hidden)`.
        chunk_size: Neurons that share one master gate unit; divides `hidden`.
        matmul_dtype: Element type of the recurrent matrix products (`torch.bfloat16` where the hardware
            multiplies it fast); states, gates and accumulation keep the type of `inputs`. None: the same type.
        kernel: `auto`, `torch`, `numba` or `triton`: the implementation of the elementwise part.
        input_gate: `paper` as above, or `reversed`: i~ is the cumulative sum of the softmax from the right, which begins
            at 1 and ends above 0 as f~ does in the other direction. It is 1 - cumax(z_mi) + softmax(z_mi).

    Returns:
        Hidden states, last cell state and syntactic distances; see `ScanOutput`.

    Raises:
        ValueError: Shapes that don't fit together, an unknown input gate, or a kernel that can't run here.

    Source: Shen et al. 2019, "Ordered Neurons", equations 1-5 (LSTM), 6-7 (cumax), 9-14 (update);
        Su 2019, kexue.fm 6621 (the reversed gate).
    """
    _check_shapes(inputs, weight, hidden, cell, chunk_size)
    is_reversed = _is_reversed(input_gate)
    kernels = choose_kernels(kernel, inputs, hidden.shape[1], chunk_size, reversed=is_reversed)
    dtype = matmul_dtype or inputs.dtype
    if inputs.shape[0] == 0 or inputs.shape[1] == 0:
        empty = inputs.new_zeros(inputs.shape[0], inputs.shape[1], hidden.shape[1])
        return ScanOutput(empty, cell, inputs.new_zeros(inputs.shape[:2]))
    needs_grad = torch.is_grad_enabled() and any(t.requires_grad for t in (inputs, weight, hidden, cell))
    if kernels is FUSED:
        from ordtool.parsing.onlstm.kernels_triton import FusedKind, fused_scan

        kind = FusedKind(chunk_size, dtype, is_reversed)
        return ScanOutput(*fused_scan(inputs, weight, hidden, cell, kind, keep=needs_grad))
    if not needs_grad:
        saved = _run_forward(inputs, weight, hidden, cell, chunk_size, dtype, kernels, keep=False)
        return ScanOutput(saved.hidden_states[1:], saved.cells[0], saved.distances)
    return ScanOutput(*_OrderedScan.apply(inputs, weight, hidden, cell, chunk_size, dtype, kernels))


def _is_reversed(input_gate: str) -> bool:
    if input_gate not in INPUT_GATES:
        raise ValueError(f"unknown input gate {input_gate!r}; choices: {', '.join(INPUT_GATES)}")
    return input_gate == "reversed"


def master_gates(
    inputs: Tensor, weight: Tensor, previous: Tensor, chunk_size: int, input_gate: str = "paper"
) -> tuple[Tensor, Tensor]:
    """Return the master gates of steps whose states are known.

    Args:
        inputs: As in `ordered_scan`, `(seq, batch, 4 * hidden + 2 * n)`.
        weight: Recurrent weight, `(4 * hidden + 2 * n, hidden)`.
        previous: h before each step, `(seq, batch, hidden)`.
        chunk_size: Neurons that share one master gate unit.
        input_gate: `paper` or `reversed`, see `ordered_scan`.

    Returns:
        The forget gate f~ and the input gate i~, `(seq, batch, n)` both.
    """
    units = weight.shape[1] // chunk_size
    scores = inputs[..., : 2 * units] + previous.to(inputs.dtype) @ weight[: 2 * units].t()
    into, forget = (part.softmax(dim=-1) for part in scores.split(units, dim=-1))
    falling = 1 - into.cumsum(dim=-1)
    return forget.cumsum(dim=-1), falling + into if _is_reversed(input_gate) else falling


def _check_shapes(inputs: Tensor, weight: Tensor, hidden: Tensor, cell: Tensor, chunk_size: int) -> None:
    size = hidden.shape[-1]
    if chunk_size < 1 or size % chunk_size:
        raise ValueError(f"chunk_size {chunk_size} doesn't divide the hidden size {size}")
    gates = 4 * size + 2 * (size // chunk_size)
    if inputs.dim() != 3 or inputs.shape[2] != gates:
        raise ValueError(f"inputs must be (seq, batch, {gates}), found {tuple(inputs.shape)}")
    if tuple(weight.shape) != (gates, size):
        raise ValueError(f"weight must be ({gates}, {size}), found {tuple(weight.shape)}")
    for name, state in (("hidden", hidden), ("cell", cell)):
        if tuple(state.shape) != (inputs.shape[1], size):
            raise ValueError(f"{name} must be ({inputs.shape[1]}, {size}), found {tuple(state.shape)}")


class _Saved(NamedTuple):
    """Buffers of a forward pass; `gates` holds activations: softmaxes of the master gates, then o, tanh, i, f."""

    gates: Tensor  # (seq, batch, 4h + 2n), or one step of it when nothing is kept
    hidden_states: Tensor  # (seq + 1, batch, h)
    cells: Tensor  # (seq + 1, batch, h), or the last (1, batch, h) when nothing is kept
    tanh_cells: Tensor  # (seq, batch, h)
    distances: Tensor  # (seq, batch)


def _run_forward(
    inputs: Tensor,
    weight: Tensor,
    hidden: Tensor,
    cell: Tensor,
    chunk_size: int,
    dtype: torch.dtype,
    kernels: Any,
    *,
    keep: bool,
) -> _Saved:
    seq, batch, width = inputs.shape
    size = hidden.shape[1]
    steps = seq if keep else 1
    gates = inputs.new_empty(steps, batch, width)
    cells = inputs.new_empty(steps + 1, batch, size)
    tanh_cells = inputs.new_empty(steps, batch, size)
    hidden_states = inputs.new_empty(seq + 1, batch, size)
    distances = inputs.new_empty(seq, batch)
    hidden_states[0] = hidden
    cells[0] = cell
    recurrent = weight.to(dtype).t().contiguous()
    product = inputs.new_empty(batch, width, dtype=dtype)
    forward = kernels.forward_step(gates, hidden_states, cells, tanh_cells, distances, chunk_size)
    for t in range(seq):
        torch.mm(hidden_states[t].to(dtype), recurrent, out=product)
        slot = t if keep else 0
        torch.add(inputs[t], product, out=gates[slot])
        forward(t, slot, slot + 1)
        if not keep:
            cells[0].copy_(cells[1])
    return _Saved(gates, hidden_states, cells if keep else cells[:1], tanh_cells, distances)


class _OrderedScan(torch.autograd.Function):
    """The recurrence with its hand-written gradient; differentiable once."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        hidden: Tensor,
        cell: Tensor,
        chunk_size: int,
        dtype: torch.dtype,
        kernels: Any,
    ) -> tuple[Tensor, Tensor, Tensor]:
        saved = _run_forward(inputs, weight, hidden, cell, chunk_size, dtype, kernels, keep=True)
        ctx.save_for_backward(weight, saved.gates, saved.hidden_states, saved.cells, saved.tanh_cells)
        ctx.chunk_size, ctx.dtype, ctx.kernels = chunk_size, dtype, kernels
        ctx.mark_non_differentiable(saved.distances)
        # A copy: the buffer must stay as it is for the backward pass even if the caller edits the output.
        return saved.hidden_states[1:].clone(), saved.cells[-1].clone(), saved.distances

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_states: Tensor, d_cell: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        weight, gates, hidden_states, cells, tanh_cells = ctx.saved_tensors
        seq, batch, width = gates.shape
        dtype = ctx.dtype
        recurrent = weight.to(dtype).contiguous()
        # The activations stay valid for a second backward pass (retain_graph), so gradients get a buffer of their own.
        d_gates = torch.empty_like(gates)
        narrow = d_gates if dtype == gates.dtype else torch.empty_like(gates, dtype=dtype)
        d_hidden = torch.zeros_like(hidden_states[0])
        d_cell = d_cell.contiguous().clone()
        product = recurrent.new_empty(batch, weight.shape[1])
        backward = ctx.kernels.backward_step(
            gates, cells, tanh_cells, d_gates, d_hidden, d_cell, ctx.chunk_size
        )
        for t in range(seq - 1, -1, -1):
            torch.add(d_states[t], d_hidden, out=d_hidden)
            backward(t)
            if narrow is not d_gates:
                narrow[t].copy_(d_gates[t])
            torch.mm(narrow[t], recurrent, out=product)
            d_hidden.copy_(product)
        flat = narrow.view(seq * batch, width)
        previous = hidden_states[:-1].reshape(seq * batch, -1).to(dtype)
        d_weight = torch.mm(flat.t(), previous).to(weight.dtype) if ctx.needs_input_grad[1] else None
        return d_gates, d_weight, d_hidden, d_cell, None, None, None
