"""The conditional test's sums over pairs of rows and its permutations on a GPU, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ordtool.independence.device_kernels import exact_products
from ordtool.progress import SILENT, Progress

if TYPE_CHECKING:
    from ordtool.independence.device_kernels import DeviceKernel

Float64Array = NDArray[np.float64]

# Numbers of a matrix of some rows by all: 512 MB.
_NUMBERS = 1 << 26


@torch.inference_mode()
def pair_sums(
    residuals: tuple[Float64Array, Float64Array],
    regressions: tuple[tuple[Float64Array, Float64Array], tuple[Float64Array, Float64Array]],
    given: DeviceKernel,
    progress: Progress = SILENT,
) -> NDArray[np.float64]:
    r"""Return what `conditional.conditional_sums` adds up over pairs of rows.

    Args:
        residuals: Of x and of y, `(rows, columns)`.
        regressions: Of x and of y: the basis $U$, `(rows, rank)`, and the diagonal of $2 g - g^2$ of $R^2 = I - \frac1n -
            U (2 g - g^2) U^\top$.
        given: The kernel of z, on the device.
        progress: Told of pairs.

    Returns:
        $\sum_{ij} A_{ij} B_{ij}$, the same over the diagonal, the squares of what is beside the diagonal,
        $\sum_{ij} K_{z,ij} (R_x^2)_{ij} (R_y^2)_{ij}$, and $\sum_i (R_x^2)_{ii} (R_y^2)_{ii}$.
    """
    device, n = given.left.device, len(residuals[0])
    left, right = (torch.from_numpy(np.ascontiguousarray(part)).to(device) for part in residuals)
    bases = [torch.from_numpy(np.ascontiguousarray(basis)).to(device) for basis, _ in regressions]
    weights = [torch.from_numpy(np.ascontiguousarray(weight)).to(device) for _, weight in regressions]
    sums = torch.zeros(5, dtype=torch.float64, device=device)
    block = max(1, _NUMBERS // n)
    progress.start("pairs", n * n, "pairs")
    with exact_products():
        for start in range(0, n, block):
            part = slice(start, min(start + block, n))
            z = given.block(part, slice(0, n)).double()
            products = (left[part] @ left.T).mul_(right[part] @ right.T).mul_(z)
            diagonal = products.diagonal(start)
            squares = products.square().sum() - diagonal.square().sum()
            sums[:3] += torch.stack((products.sum(), diagonal.sum(), squares))
            spread = _squared(bases[0], weights[0], part).mul_(_squared(bases[1], weights[1], part))
            sums[3:] += torch.stack(((spread * z).sum(), spread.diagonal(start).sum()))
            progress.advance((part.stop - part.start) * n)
    progress.close()
    return sums.cpu().numpy()


def _squared(basis: torch.Tensor, weights: torch.Tensor, rows: slice) -> torch.Tensor:
    """Return some rows of the square of a residual matrix, `(some, rows)`."""
    part = (basis[rows] * weights) @ -basis.T
    part -= 1 / len(basis)
    part.diagonal(rows.start).add_(1)
    return part


def permuted_statistics(
    left: Float64Array, right: Float64Array, device: Any
) -> Callable[[NDArray[np.intp]], Float64Array]:
    r"""Return what computes $\lVert F^\top G_\pi \rVert^2$ on a device for permutations $\pi$, `(count, rows)`.

    Args:
        left: $F$, `(rows, columns)`.
        right: $G$, whose rows are permuted, `(rows, columns)`.
        device: A torch.device.
    """
    features = torch.from_numpy(np.ascontiguousarray(left.T)).to(device)
    permuted = torch.from_numpy(np.ascontiguousarray(right)).to(device)

    @torch.inference_mode()
    def statistics(orders: NDArray[np.intp]) -> Float64Array:
        index = torch.from_numpy(np.ascontiguousarray(orders)).to(device)
        found: Float64Array = (features @ permuted[index]).square().sum((1, 2)).cpu().numpy()
        return found

    return statistics
