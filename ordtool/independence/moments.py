r"""One pass over all pairs of rows: every sum that HSIC, CKA and the null distribution's variance are made of.

For kernels $K^{(1)}, \dots, K^{(p)}$ over the same $n$ rows the pass collects the products $\sum_{i \ne j}
K^{(a)}_{ij} K^{(b)}_{ij}$ and the row sums; memory is $O(pn)$ beside the blocks. Only blocks on and above
the diagonal are computed. Each kernel's typical value is taken away first, which changes no centred
quantity and saves the digits that a float32 sum of numbers near 1 would lose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordtool.errors import OrdtoolError
from ordtool.independence.kernels import Kernel
from ordtool.parallel import ordered_map
from ordtool.progress import SILENT, Progress

Array = NDArray[Any]
Float64Array = NDArray[np.float64]
Pair = tuple[int, int]

BLOCK = 384


@dataclass(frozen=True)
class PairSums:
    r"""Sums over pairs of rows, for several kernels over the same rows.

    Attributes:
        rows: $n$. offsets: $c_a$, the typical value that was taken away from $K^{(a)}$ in all that follows.
        products: $\sum_{i \ne j} K^{(a)}_{ij} K^{(b)}_{ij}$, `(kernels, kernels)`; NaN for pairs not asked
        for. row_sums: $\sum_{j \ne i} K^{(a)}_{ij}$, `(kernels, rows)`. diagonals: $K^{(a)}_{ii}$,
        `(kernels, rows)`. scales: What each kernel has to be multiplied by. constant: Which kernels belong
        to rows that are all the same.
    """

    rows: int
    offsets: Float64Array
    products: Float64Array
    row_sums: Float64Array
    diagonals: Float64Array
    scales: Float64Array
    constant: NDArray[np.bool_]

    def unbiased(self, a: int, b: int) -> float:
        r"""The U-statistic of Song et al. 2012, eq. 5, of two kernels.

        $$\frac{1}{n(n-3)} \Big[ \sum_{i \ne j} K_{ij} L_{ij} + \frac{\mathbf 1^\top K \mathbf 1 \; \mathbf 1^\top L
        \mathbf 1}{(n-1)(n-2)} - \frac{2}{n-2} \mathbf 1^\top K L \mathbf 1 \Big]$$ with zero diagonals.
        """
        return self._scaled(a, b, self._unbiased(a, b))

    def biased(self, a: int, b: int) -> float:
        r"""The V-statistic $\operatorname{tr}(KHLH)/n^2$ of two kernels."""
        return self._scaled(a, b, self._biased(a, b))

    def estimate(self, a: int, b: int, estimator: str) -> float:
        """`biased` or `unbiased`, by name."""
        return self.biased(a, b) if estimator == "biased" else self.unbiased(a, b)

    def cka(self, a: int, b: int, estimator: str) -> float | None:
        r"""$\mathrm{HSIC}_{ab} / \sqrt{\mathrm{HSIC}_{aa} \mathrm{HSIC}_{bb}}$ with the given estimator.

        Returns:
            A number in $[-1, 1]$ ($[0, 1]$ if biased); None where a variance is 0.
        """
        form = self._biased if estimator == "biased" else self._unbiased
        norms = form(a, a), form(b, b)
        if self.constant[a] or self.constant[b] or min(norms) <= 0:
            return None
        return form(a, b) / float(np.sqrt(norms[0]) * np.sqrt(norms[1]))

    def _unbiased(self, a: int, b: int) -> float:
        n = self.rows
        k, l_ = self.row_sums[a], self.row_sums[b]
        total = self.products[a, b] - 2 * (k @ l_) / (n - 2) + k.sum() * l_.sum() / ((n - 1) * (n - 2))
        return 0.0 if self.constant[a] or self.constant[b] else float(total / (n * (n - 3)))

    def _biased(self, a: int, b: int) -> float:
        n = self.rows
        k, l_ = self.row_sums[a] + self.diagonals[a], self.row_sums[b] + self.diagonals[b]
        total = self.products[a, b] + self.diagonals[a] @ self.diagonals[b]
        total += -2 * (k @ l_) / n + k.sum() * l_.sum() / n**2
        return 0.0 if self.constant[a] or self.constant[b] else float(total / n**2)

    def centred_diagonal(self, a: int) -> Float64Array:
        r"""$(HKH)_{ii}$, shape `(rows,)`, over the kernel's scale."""
        n = self.rows
        k = self.row_sums[a] + self.diagonals[a]
        return np.asarray(self.diagonals[a] - 2 * k / n + k.sum() / n**2)

    def centred_square(self, a: int) -> float:
        r"""$\sum_{i \ne j} A_{ij}^2$ of the U-centred matrix, over the kernel's scale."""
        return self._unbiased(a, a) * self.rows * (self.rows - 3)

    def centred_full_square(self, a: int) -> float:
        r"""$\operatorname{tr} (HKH)^2$, over the kernel's scale."""
        return self._biased(a, a) * self.rows**2

    def raw_estimate(self, a: int, b: int, estimator: str) -> float:
        """The statistic over the kernels' scales, as tests take it."""
        return self._biased(a, b) if estimator == "biased" else self._unbiased(a, b)

    def _scaled(self, a: int, b: int, value: float) -> float:
        with np.errstate(over="ignore"):
            scaled = float(value * self.scales[a] * self.scales[b])
        if not np.isfinite(scaled):
            raise OrdtoolError(
                "the statistic is too large for a float",
                "divide the vectors by a constant; p and CKA don't change",
            )
        return scaled


def pair_sums(
    kernels: Sequence[Kernel],
    pairs: Sequence[Pair],
    *,
    threads: int | None = None,
    progress: Progress = SILENT,
) -> PairSums:
    r"""Collect the sums of the given pairs of kernels, and of each with itself.

    Args:
        kernels: Kernels over the same number of rows.
        pairs: Which of them to compare, as indices.
        threads: Threads to use; None is one a core.
        progress: Told of pairs of rows as they are done.

    Returns:
        The sums. Kernels that are all given by features take $O(n d^2)$ where that is less than $O(n^2 d)$.
    """
    wanted = sorted({(min(p), max(p)) for p in pairs} | {(i, i) for i in range(len(kernels))})
    if _features_are_cheaper(kernels, wanted):
        products, row_sums = _by_features(kernels, wanted)
        offsets = np.zeros(len(kernels))
    else:
        offsets = np.array([kernel.typical_value() for kernel in kernels])
        products, row_sums = _by_blocks(kernels, wanted, offsets, threads, progress)
    return PairSums(
        rows=kernels[0].rows,
        offsets=offsets,
        products=products,
        row_sums=row_sums,
        diagonals=np.stack([kernel.diagonal() for kernel in kernels]) - offsets[:, None],
        scales=np.array([kernel.scale for kernel in kernels]),
        constant=np.array([kernel.constant for kernel in kernels]),
    )


def _features_are_cheaper(kernels: Sequence[Kernel], wanted: Sequence[Pair]) -> bool:
    widths = [kernel.features.shape[1] for kernel in kernels if kernel.features is not None]
    if len(widths) < len(kernels):
        return False
    by_features = sum(widths[a] * widths[b] for a, b in wanted)
    return by_features < kernels[0].rows * sum(widths) / 2


def _by_features(kernels: Sequence[Kernel], wanted: Sequence[Pair]) -> tuple[Float64Array, Float64Array]:
    features = [kernel.features for kernel in kernels if kernel.features is not None]
    diagonals = np.stack([kernel.diagonal() for kernel in kernels])
    products = np.full((len(kernels), len(kernels)), np.nan)
    for a, b in wanted:
        cross = cross_product(features[a], features[b])
        products[a, b] = products[b, a] = np.vdot(cross, cross) - diagonals[a] @ diagonals[b]
    return products, -diagonals


def cross_product(left: Array, right: Array) -> Float64Array:
    r"""Give $\Phi^\top \Psi$ over rows, float32 products summed in float64; `(left dim, right dim)`."""
    total = np.zeros((left.shape[1], right.shape[1]))
    for start in range(0, len(left), BLOCK):
        total += left[start : start + BLOCK].T @ right[start : start + BLOCK]
    return total


def _by_blocks(
    kernels: Sequence[Kernel],
    wanted: Sequence[Pair],
    offsets: Float64Array,
    threads: int | None,
    progress: Progress,
) -> tuple[Float64Array, Float64Array]:
    n = kernels[0].rows
    jobs = [(i, j) for i in range(0, n, BLOCK) for j in range(i, n, BLOCK)]
    dtype = np.result_type(*(kernel.dtype for kernel in kernels))
    work = _BlockSums(kernels, wanted, offsets.astype(dtype), dtype)
    products = np.zeros(len(wanted))
    row_sums = np.zeros((len(kernels), n))
    progress.start("pairs", n * (n + 1) // 2, "pairs")
    for (i, j), (dots, across, down) in zip(jobs, ordered_map(work, jobs, threads), strict=True):
        products += dots if i == j else 2 * dots
        row_sums[:, i : i + BLOCK] += across
        if i != j:
            row_sums[:, j : j + BLOCK] += down
        progress.advance(across.shape[1] * down.shape[1] * (0.5 if i == j else 1))
    progress.close()
    matrix = np.full((len(kernels), len(kernels)), np.nan)
    for (a, b), product in zip(wanted, products, strict=True):
        matrix[a, b] = matrix[b, a] = product
    return matrix, row_sums


class _BlockSums:
    """The sums of one block, for all kernels; blocks on the diagonal without their diagonal."""

    def __init__(
        self,
        kernels: Sequence[Kernel],
        wanted: Sequence[Pair],
        offsets: Array,
        dtype: np.dtype[Any],
    ) -> None:
        self._kernels = kernels
        self._wanted = wanted
        self._offsets = offsets
        self._dtype = dtype

    def __call__(self, corner: Pair) -> tuple[Float64Array, Float64Array, Float64Array]:
        i, j = corner
        rows, columns = slice(i, i + BLOCK), slice(j, j + BLOCK)
        blocks = [self._block(index, rows, columns) for index in range(len(self._kernels))]
        across = np.stack([_row_sums(block) for block in blocks])
        down = across if i == j else np.stack([_row_sums(block.T) for block in blocks])
        dots = [np.vecdot(blocks[a], blocks[b]).sum(dtype=np.float64) for a, b in self._wanted]
        return np.array(dots), across, down

    def _block(self, index: int, rows: slice, columns: slice) -> Array:
        kernel = self._kernels[index]
        block = kernel.block(rows, columns)
        block -= self._offsets[index].astype(block.dtype)
        if rows == columns:
            np.fill_diagonal(block, 0)
        return block


def _row_sums(block: Array) -> Float64Array:
    return np.asarray(block @ np.ones(block.shape[1], dtype=block.dtype), dtype=np.float64)
