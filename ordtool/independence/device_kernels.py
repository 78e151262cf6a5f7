r"""Kernels on a GPU: the same sums over pairs of rows and the same rotations as on a CPU, in blocks of a card's size.

Products are in the dtype of the kernel (float32 as float32, not in a GPU's shorter formats), sums over them in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ordtool.progress import SILENT, Progress

Pair = tuple[int, int]

# Numbers of a block of pairs, and of a band of distances with all that is made of it.
_BLOCK = 8192
_BAND_ROWS = 512
_BAND_NUMBERS = 1 << 26
_LEAST_WIDTH = 16


@contextmanager
def exact_products() -> Iterator[None]:
    """Let float32 products be float32's meanwhile."""
    before = torch.get_float32_matmul_precision()
    if before != "highest":
        torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        if before != "highest":
            torch.set_float32_matmul_precision(before)


@dataclass(frozen=True, slots=True)
class DeviceKernel:
    r"""A kernel's rows on a device: $K_{ij} = f(a_i^\top b_j)$, or $f(-\lVert a_i - b_j \rVert_1)$.

    Attributes:
        left: $a$, `(rows, dim)`.
        right: $b$, `(rows, dim)`.
        factors: $f(e) = \sum \exp(\mathrm{factor} \, e)$; None: $f(e) = e$.
        cityblock: Take absolute differences, not products.
    """

    left: torch.Tensor
    right: torch.Tensor
    factors: tuple[float, ...] | None = None
    cityblock: bool = False

    @classmethod
    def of(
        cls,
        left: NDArray[Any],
        right: NDArray[Any],
        device: torch.device,
        factors: Sequence[float] | None = None,
        *,
        cityblock: bool = False,
    ) -> DeviceKernel:
        """Copy rows to a device, once where both sides are the same."""
        there = torch.from_numpy(np.ascontiguousarray(right)).to(device)
        other = there if left is right else torch.from_numpy(np.ascontiguousarray(left)).to(device)
        return cls(other, there, None if factors is None else tuple(factors), cityblock)

    def block(self, rows: slice, columns: slice) -> torch.Tensor:
        """Return a rectangle of the kernel's matrix, as a new tensor."""
        left, right = self.left[rows], self.right[columns]
        return self.apply(-torch.cdist(left, right, p=1) if self.cityblock else left @ right.T)

    def apply(self, exponent: torch.Tensor) -> torch.Tensor:
        """Return $f$ of numbers, which may be overwritten."""
        if self.factors is None:
            return exponent
        if self.factors == (1.0,):
            return exponent.exp_()
        total = (exponent * self.factors[0]).exp_()
        for factor in self.factors[1:]:
            total += (exponent * factor).exp_()
        return total


@torch.inference_mode()
def block_sums(
    kernels: Sequence[DeviceKernel],
    pairs: Sequence[Pair],
    offsets: NDArray[Any],
    progress: Progress = SILENT,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Return $\sum_{i \ne j} K_{ij} L_{ij}$ of pairs of kernels, and the sums of rows, both without the diagonal.

    Args:
        kernels: Over the same rows.
        pairs: Which to multiply.
        offsets: Taken away from each kernel's values.
        progress: Told of pairs of rows.

    Returns:
        `(pairs,)` and `(kernels, rows)`.
    """
    n, device = len(kernels[0].left), kernels[0].left.device
    products = torch.zeros(len(pairs), dtype=torch.float64, device=device)
    row_sums = torch.zeros(len(kernels), n, dtype=torch.float64, device=device)
    with exact_products():
        for i in range(0, n, _BLOCK):
            for j in range(i, n, _BLOCK):
                rows, columns = slice(i, min(i + _BLOCK, n)), slice(j, min(j + _BLOCK, n))
                blocks = []
                for number, kernel in enumerate(kernels):
                    block = kernel.block(rows, columns).sub_(float(offsets[number]))
                    if i == j:
                        block.fill_diagonal_(0)
                    row_sums[number, rows] += block.sum(1, dtype=torch.float64)
                    if i != j:
                        row_sums[number, columns] += block.sum(0, dtype=torch.float64)
                    blocks.append(block)
                for number, (a, b) in enumerate(pairs):
                    total = (blocks[a] * blocks[b]).sum(dtype=torch.float64)
                    products[number] += total if i == j else 2 * total
                progress.advance(len(blocks[0]) * blocks[0].shape[1] * (0.5 if i == j else 1))
    return products.cpu().numpy(), row_sums.cpu().numpy()


class DeviceBands:
    r"""The summed spectra of all sequences $K_{i, i + \delta}$, $0 < \delta \le n / 2$, of pairs of kernels in an order.

    Args:
        left: For each first kernel of a pair the kernel, its order of rows and its centring in that order, `(rows,)`.
        right: For each second one.
        pairs: Keys of `left` and `right`.
    """

    def __init__(
        self,
        left: dict[int, tuple[DeviceKernel, NDArray[np.intp], NDArray[Any]]],
        right: dict[int, tuple[DeviceKernel, NDArray[np.intp], NDArray[Any]]],
        pairs: Sequence[Pair],
    ) -> None:
        self._pairs = pairs
        self._same = left is right
        self._rows = len(next(iter(left.values()))[1])
        sides = len(left) + (0 if self._same else len(right))
        width = _BAND_NUMBERS // (self._rows * sides) // _LEAST_WIDTH * _LEAST_WIDTH
        self._width = min(max(width, _LEAST_WIDTH), 2 * _BAND_ROWS)
        self._blocks = -(-self._rows // _BAND_ROWS)
        self._left = {name: self._around(*side) for name, side in left.items()}
        self._right = (
            self._left if self._same else {name: self._around(*side) for name, side in right.items()}
        )

    def _around(
        self, kernel: DeviceKernel, order: NDArray[np.intp], centring: NDArray[Any]
    ) -> tuple[DeviceKernel, torch.Tensor]:
        """Put a kernel's rows in the order, round and round as far as a band reaches."""
        device = kernel.left.device
        reach = self._blocks * _BAND_ROWS + self._rows // 2 + self._width + 1
        around = torch.arange(reach, device=device) % self._rows
        index = torch.from_numpy(order).to(device)[around]
        left = kernel.left[index[: self._blocks * _BAND_ROWS]]
        placed = DeviceKernel(left, kernel.right[index], kernel.factors, kernel.cityblock)
        u = torch.from_numpy(np.ascontiguousarray(centring)).to(device, kernel.right.dtype)[around]
        return placed, u

    @torch.inference_mode()
    def __call__(self, progress: Progress = SILENT) -> NDArray[np.complex128]:
        """Return the spectra, `(pairs, rows // 2 + 1)`; `progress` is told of rows, `rows` in all."""
        last = self._rows // 2
        total: torch.Tensor | int = 0
        with exact_products():
            for first in range(1, last + 1, self._width):
                width = min(self._width, last + 1 - first)
                left = {name: self._spectrum(*side, first, width) for name, side in self._left.items()}
                right = left
                if not self._same:
                    right = {name: self._spectrum(*side, first, width) for name, side in self._right.items()}
                # vecdot conjugates its first argument.
                parts = [torch.linalg.vecdot(left[a], right[b], dim=0) for a, b in self._pairs]
                total = total + torch.stack(parts).to(torch.complex128)
                progress.advance(self._rows * width / last)
        assert isinstance(total, torch.Tensor)
        return np.asarray(total.cpu().numpy())

    def _spectrum(self, kernel: DeviceKernel, u: torch.Tensor, first: int, width: int) -> torch.Tensor:
        """Return the transforms of the centred sequences, `(width, rows // 2 + 1)`."""
        n = self._rows
        band = self._band(kernel, first, width)
        band -= u[:n, None]
        band -= u[first : first + n + width - 1].unfold(0, width, 1)
        if 2 * (first + width - 1) == n:
            band[:, -1] *= 0.5**0.5  # a pair at half a round is met twice
        return torch.fft.rfft(band.T.contiguous())

    def _band(self, kernel: DeviceKernel, first: int, width: int) -> torch.Tensor:
        """Return $K_{i, i + first + k}$ at `[i, k]`, `(rows, width)`: diagonals of blocks that overlap."""
        reach = _BAND_ROWS + width - 1
        stop = first + (self._blocks - 1) * _BAND_ROWS + reach
        left = kernel.left.view(self._blocks, _BAND_ROWS, -1)
        windows = kernel.right[first:stop].unfold(0, reach, _BAND_ROWS)  # (blocks, dim, reach)
        if kernel.cityblock:
            exponent = -torch.cdist(left, windows.transpose(1, 2).contiguous(), p=1)
        else:
            exponent = left @ windows
        shape = (self._blocks, _BAND_ROWS, width)
        diagonals = exponent.contiguous().as_strided(shape, (_BAND_ROWS * reach, reach + 1, 1))
        return kernel.apply(diagonals.contiguous()).view(-1, width)[: self._rows]
