"""The product of one row with a matrix, at the pace of memory, compiled by numba (the `fast` extra).

A model that writes one text reads all of its weights for each token and does one multiplication and one addition with
each. The libraries behind torch are made for products of many rows; with one row they take in 10 GB of weights a
second on an AMD processor whose memory gives 40. A plain loop over the rows of the matrix, in vector code and shared among
threads, gets there. Sums are in float32, in another order than the libraries': the last bits differ.

bfloat16 is unknown to numba. Its 16 bits are the upper half of a float32.
"""

from __future__ import annotations

from threading import Lock

import numba
import numpy as np
import torch
from torch import Tensor

__all__ = ["multiply"]

# "reassoc" lets LLVM keep several partial sums, without which there is no vector code; NaN and infinity stay as they are.
_compile = numba.njit(
    cache=True, fastmath={"contract", "reassoc"}, nogil=True, error_model="numpy", parallel=True
)
# numba's plainest pool of threads doesn't bear two callers at once.
_alone = Lock()


@_compile
def _whole(matrices: tuple[np.ndarray, ...], row: np.ndarray, out: np.ndarray, parts: int) -> None:
    """Out = the matrices, one above the other, times row; each part takes its share of each matrix."""
    for part in numba.prange(parts):
        start = 0
        for matrix in matrices:
            rows, size = matrix.shape
            for i in range(rows * part // parts, rows * (part + 1) // parts):
                total = np.float32(0.0)
                for j in range(size):
                    total += matrix[i, j] * row[j]
                out[start + i] = total
            start += rows


@_compile
def _halved(matrices: tuple[np.ndarray, ...], row: np.ndarray, out: np.ndarray, parts: int) -> None:
    """The same with matrices of the bits of bfloat16."""
    for part in numba.prange(parts):
        start = 0
        for matrix in matrices:
            rows, size = matrix.shape
            for i in range(rows * part // parts, rows * (part + 1) // parts):
                total = np.float32(0.0)
                for j in range(size):
                    total += np.uint32(np.uint32(matrix[i, j]) << np.uint32(16)).view(np.float32) * row[j]
                out[start + i] = total
            start += rows


def multiply(states: Tensor, *matrices: Tensor) -> Tensor:
    """Give `states @ matrix.T` for a single row and each of the matrices, one product after the other in one row.

    Threads meet once a call, which takes them as long as a small product: so matrices that read the same row come together.

    Args:
        states: `(..., in)` with one row in all, of the matrices' dtype.
        matrices: `(out, in)` each, all float32 or all bfloat16, on the CPU and in one piece.

    Returns:
        `(..., sum of out)` of the same dtype; sums are float32.
    """
    row = states.detach().reshape(-1).float().numpy()
    out = np.empty(sum(len(matrix) for matrix in matrices), dtype=np.float32)
    parts = torch.get_num_threads()
    with _alone:
        if states.dtype == torch.float32:
            _whole(tuple(matrix.detach().numpy() for matrix in matrices), row, out, parts)
        else:
            bits = tuple(matrix.detach().view(torch.uint16).numpy() for matrix in matrices)
            _halved(bits, row, out, parts)
    return torch.from_numpy(out).to(states.dtype).view(*states.shape[:-1], -1)
