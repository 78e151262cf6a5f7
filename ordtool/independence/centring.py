"""How kernels are centred, so that under a permutation of one of them a single sum changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordtool.independence.kernels import Kernel
from ordtool.independence.moments import PairSums

Float64Array = NDArray[np.float64]
Pair = tuple[int, int]


def centring(sums: PairSums, index: int, estimator: str) -> tuple[Float64Array, Float64Array]:
    r"""Give $u$ and the diagonal with which $A_{ij} = K_{ij} - u_i - u_j$ is centred.

    For the biased estimator $A = HKH$. For the unbiased one $A$ is the U-centred matrix (Székely & Rizzo
    2014, def. 2), whose diagonal is 0, with $\mathrm{HSIC}_u = \sum_{i \ne j} A_{ij} B_{ij} / (n(n-3))$.
    Either has rows that sum to 0, so under a permutation only this one sum changes.

    Returns:
        $u$ and the diagonal of $A$, each `(rows,)`.
    """
    n = sums.rows
    if estimator == "biased":
        k = sums.row_sums[index] + sums.diagonals[index]
        u = k / n - k.sum() / (2 * n**2)
        return u + sums.offsets[index] / 2, sums.centred_diagonal(index)
    k = sums.row_sums[index]
    u = k / (n - 2) - k.sum() / (2 * (n - 1) * (n - 2))
    return u + sums.offsets[index] / 2, np.zeros(n)


def normaliser(rows: int, estimator: str) -> float:
    """Give what the sum over pairs is divided by."""
    return float(rows**2 if estimator == "biased" else rows * (rows - 3))


def is_cheap_in_features(kernels: Sequence[Kernel], pair: Pair) -> bool:
    """Say whether products of features are fewer than products of rows."""
    left, right = (kernels[i].features for i in pair)
    if left is None or right is None:
        return False
    return bool(left.shape[1] * right.shape[1] <= kernels[0].rows)


def from_cross_products(
    squares: Any, diagonal_products: Any, traces: tuple[float, float], rows: int, estimator: str
) -> Any:
    r"""Turn $\lVert \Phi^\top P \Psi \rVert^2$ of centred features into the statistic.

    Args:
        squares: The squared norms.
        diagonal_products: $\sum_i \lVert \phi_i \rVert^2 \lVert \psi_{\pi i} \rVert^2$, of the same shape.
        traces: $\sum_i \lVert \phi_i \rVert^2$ and $\sum_i \lVert \psi_i \rVert^2$.
        rows: $n$.
        estimator: `biased` or `unbiased`.
    """
    if estimator == "biased":
        return squares / normaliser(rows, estimator)
    corrected = squares - rows / (rows - 2) * diagonal_products
    corrected += traces[0] * traces[1] / ((rows - 1) * (rows - 2))
    return corrected / normaliser(rows, estimator)
