"""The elementwise part of one ON-LSTM step: PyTorch operations, and the choice between them and numba.

A kernel set offers `forward_step(...)` and `backward_step(...)`: each takes the buffers of a whole
window once and returns a function of the step, so that nothing is looked up inside the loop.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["FUSED", "TorchKernels", "choose_kernels", "numba_available", "triton_fits"]

FUSED = "triton"
"""Stands for kernels that are the whole step, product and all; see `kernels_triton`."""
# Neurons of a layer that one program still holds in registers.
_LARGEST_TILE = 16_384


@cache
def numba_available() -> bool:
    """Whether numba can be imported (the `fast` extra)."""
    return importlib.util.find_spec("numba") is not None


@cache
def _triton_available() -> bool:
    return importlib.util.find_spec("triton") is not None


def triton_fits(sample: Tensor) -> bool:
    """Whether Triton's kernels run on tensors like `sample`: on CUDA, and on a CPU where Triton is told to interpret."""
    runs = sample.device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1"
    return runs and sample.dtype in (torch.float32, torch.bfloat16, torch.float16) and _triton_available()


def choose_kernels(
    kernel: str, sample: Tensor, hidden_size: int = 1, chunk_size: int = 1, *, reversed: bool = False
) -> Any:
    """Pick the kernel set for tensors like `sample`.

    Args:
        kernel: `auto` (triton on CUDA, numba on the CPU, where they can run; else torch), `torch`, `numba` or `triton`.
        sample: A tensor of the type and on the device of the computation.
        hidden_size: Neurons of the layer.
        chunk_size: Neurons of a master unit.
        reversed: The master input gate is a cumulative sum from the right.

    Returns:
        Kernels as `TorchKernels`, or `FUSED`.

    Raises:
        ValueError: An unknown name, or `numba` or `triton` where they can't run.
    """
    if kernel == FUSED or (kernel == "auto" and sample.device.type == "cuda"):
        # Both sides of the tile are padded to powers of two.
        padded = [1 << (side - 1).bit_length() for side in (hidden_size // chunk_size, chunk_size)]
        fused = triton_fits(sample) and padded[0] * padded[1] <= _LARGEST_TILE
        if kernel == FUSED and not fused:
            raise ValueError(
                f"the triton kernel needs triton and CUDA, found {sample.dtype} on {sample.device}"
            )
        return FUSED if fused else TorchKernels(reversed)
    fits = sample.device.type == "cpu" and sample.dtype == torch.float32
    if kernel == "torch" or (kernel == "auto" and not (fits and numba_available())):
        return TorchKernels(reversed)
    if kernel not in ("auto", "numba"):
        raise ValueError(f"unknown kernel {kernel!r}; choices: auto, torch, numba, triton")
    if not numba_available():
        raise ValueError("the numba kernel needs numba: pip install 'ordtool[fast]'")
    if not fits:
        raise ValueError(
            f"the numba kernel works on float32 on the CPU, found {sample.dtype} on {sample.device}"
        )
    from ordtool.parsing.onlstm.kernels_numba import NumbaKernels

    return NumbaKernels(reversed)


class TorchKernels:
    """The step as PyTorch operations, on any device and floating type.

    Args:
        reversed: The master input gate is a cumulative sum from the right, see `ordered_scan`.
    """

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
        """Return `step(t, slot, cell_slot)`.

        It turns the pre-activations in `gates[slot]` into activations in place and writes
        `hidden_states[t + 1]`, `cells[cell_slot]`, `tanh_cells[slot]` and `distances[t]`.
        """
        size = cells.shape[-1]
        chunks = size // chunk_size

        def step(t: int, slot: int, cell_slot: int) -> None:
            gate = gates[slot]
            batch = gate.shape[0]
            master = gate[:, : 2 * chunks].view(batch, 2, chunks)
            master.copy_(torch.softmax(master, dim=-1))
            neurons = gate[:, 2 * chunks :].view(batch, 4, chunks, chunk_size)
            neurons[:, 0].sigmoid_()
            neurons[:, 1].tanh_()
            neurons[:, 2:].sigmoid_()
            out, new, keep_in, keep_old = neurons.unbind(1)
            cumulative = master.cumsum(dim=-1)
            master_in = self._master_in(master, cumulative)
            master_forget = cumulative[:, 1].unsqueeze(-1)
            overlap = master_in * master_forget
            forget = keep_old * overlap + (master_forget - overlap)
            write = keep_in * overlap + (master_in - overlap)
            previous = cells[cell_slot - 1].view(batch, chunks, chunk_size)
            cell = cells[cell_slot].view(batch, chunks, chunk_size)
            torch.addcmul(forget * previous, write, new, out=cell)
            tanh_cell = tanh_cells[slot].view(batch, chunks, chunk_size)
            torch.tanh(cell, out=tanh_cell)
            torch.mul(out, tanh_cell, out=hidden_states[t + 1].view(batch, chunks, chunk_size))
            distances[t] = 1 - cumulative[:, 1].mean(dim=-1)

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
        """Return `step(t)`: writes gradients of the pre-activations to `d_gates[t]` and passes `d_cell` one step back."""
        size = cells.shape[-1]
        chunks = size // chunk_size

        def step(t: int) -> None:
            gate = gates[t]
            batch = gate.shape[0]
            shape = (batch, chunks, chunk_size)
            master = gate[:, : 2 * chunks].view(batch, 2, chunks)
            out, new, keep_in, keep_old = gate[:, 2 * chunks :].view(batch, 4, chunks, chunk_size).unbind(1)
            cumulative = master.cumsum(dim=-1)
            master_in = self._master_in(master, cumulative)
            master_forget = cumulative[:, 1].unsqueeze(-1)
            overlap = master_in * master_forget
            forget = keep_old * overlap + (master_forget - overlap)
            write = keep_in * overlap + (master_in - overlap)
            tanh_cell = tanh_cells[t].view(shape)
            dh = d_hidden.view(shape)
            dc = d_cell.view(shape) + dh * out * (1 - tanh_cell * tanh_cell)
            d_forget = dc * cells[t].view(shape)
            d_write = dc * new
            d_overlap = d_forget * (keep_old - 1) + d_write * (keep_in - 1)
            d_master_forget = (d_forget + d_overlap * master_in).sum(dim=-1)
            d_master_in = (d_write + d_overlap * master_forget).sum(dim=-1)
            target = d_gates[t]
            neurons = target[:, 2 * chunks :].view(batch, 4, chunks, chunk_size)
            neurons[:, 0] = dh * tanh_cell * out * (1 - out)
            neurons[:, 1] = dc * write * (1 - new * new)
            neurons[:, 2] = d_write * overlap * keep_in * (1 - keep_in)
            neurons[:, 3] = d_forget * overlap * keep_old * (1 - keep_old)
            d_cumulative = torch.stack((-d_master_in, d_master_forget), dim=1)
            # cumsum backwards is a sum from the right; softmax backwards is p * (d - <p, d>).
            d_master = d_cumulative.flip(-1).cumsum(dim=-1).flip(-1)
            if self.reversed:
                d_master[:, 0] += d_master_in
            d_master = master * (d_master - (master * d_master).sum(dim=-1, keepdim=True))
            target[:, : 2 * chunks].view(batch, 2, chunks).copy_(d_master)
            torch.mul(dc, forget, out=d_cell.view(shape))

        return step

    def _master_in(self, master: Tensor, cumulative: Tensor) -> Tensor:
        """Return the master input gate `(batch, chunks, 1)` from both softmaxes and their cumulative sums."""
        falling = 1 - cumulative[:, 0]
        return (falling + master[:, 0] if self.reversed else falling).unsqueeze(-1)
