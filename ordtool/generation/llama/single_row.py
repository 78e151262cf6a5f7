"""The product of one row with matrices, at the pace of memory, compiled by numba (the `fast` extra).

A model that writes one text reads all of its weights for each token and does one multiplication and one addition with
each. The libraries behind torch are made for products of many rows; with one row they take in 10 GB of weights a
second on an AMD processor, one of whose cores can read 22. A plain loop over the rows of the matrix in vector code
gets there. Sums are in float32, in another order than the libraries': the last bits differ.

The loop stays on one thread. Threads that meet over a hundred times a token wait for each other by spinning; where other
work has one of the cores, each meeting costs a time slice, and a token took thirty times as long.

bfloat16 is unknown to numba. Its 16 bits are the upper half of a float32.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

__all__ = ["multiply"]

# "reassoc" lets LLVM keep several partial sums, without which there is no vector code; NaN and infinity stay as they are.
_compile = numba.njit(cache=True, fastmath={"contract", "reassoc"}, nogil=True, error_model="numpy")


@_compile
def _whole(matrix: np.ndarray, row: np.ndarray, out: np.ndarray) -> None:
    """Out = matrix row, all in float32."""
    for i in range(matrix.shape[0]):
        total = np.float32(0.0)
        for j in range(matrix.shape[1]):
            total += matrix[i, j] * row[j]
        out[i] = total


@_compile
def _halved(matrix: np.ndarray, row: np.ndarray, out: np.ndarray) -> None:
    """The same with a matrix of the bits of bfloat16."""
    for i in range(matrix.shape[0]):
        total = np.float32(0.0)
        for j in range(matrix.shape[1]):
            total += np.uint32(np.uint32(matrix[i, j]) << np.uint32(16)).view(np.float32) * row[j]
        out[i] = total


def multiply(states: Tensor, matrix: Tensor) -> Tensor:
    """Return `states @ matrix.T` for a single row, as `torch.nn.functional.linear` does.

    Args:
        states: `(..., in)` with one row in all, of the matrix's dtype.
        matrix: `(out, in)`, float32 or bfloat16, on the CPU and in one piece.

    Returns:
        `(..., out)` of the same dtype; sums are float32.
    """
    row = states.detach().reshape(-1).float().numpy()
    out = np.empty(matrix.shape[0], dtype=np.float32)
    if matrix.dtype == torch.float32:
        _whole(matrix.detach().numpy(), row, out)
    else:
        _halved(matrix.detach().view(torch.uint16).numpy(), row, out)
    return torch.from_numpy(out).to(states.dtype).view(*states.shape[:-1], -1)
