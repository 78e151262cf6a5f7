r"""One pass over all pairs of rows: every sum that HSIC, CKA and the null distribution's variance are made of.

For kernels $K^{(1)}, \dots, K^{(p)}$ over the same $n$ rows the pass collects the products $\sum_{i \ne j}
K^{(a)}_{ij} K^{(b)}_{ij}$ and the row sums, block by block (`block_sums`) or from features. Each kernel's
typical value is taken away first, which changes no centred quantity and saves the digits that a float32 sum
of numbers near 1 would lose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ordtool.errors import OrdtoolError
from ordtool.independence.block_sums import BLOCK, Pair, PartialSums, sum_blocks
from ordtool.independence.kernels import FeatureKernel, Kernel
from ordtool.io.stages import stage
from ordtool.progress import SILENT, Progress

if TYPE_CHECKING:
    from ordtool.independence.device_kernels import DeviceKernel

Array = NDArray[Any]
Float64Array = NDArray[np.float64]


@dataclass(frozen=True)
class KernelSums:
    r"""Sums over pairs of rows, for several kernels over the same rows.

    Attributes:
        kernels: What they are the sums of.
        offsets: $c_a$, the typical value that was taken away from $K^{(a)}$ in all that follows, `(kernels,)`.
        products: $\sum_{i \ne j} K^{(a)}_{ij} K^{(b)}_{ij}$, `(kernels, kernels)`; NaN for pairs not asked for.
        row_sums: $\sum_{j \ne i} K^{(a)}_{ij}$, `(kernels, rows)`.
        diagonals: $K^{(a)}_{ii}$, `(kernels, rows)`.
        from_features: Whether the products come from features, $O(n d^2)$, rather than from pairs of rows.
        device: `cpu`, or the CUDA device for what goes over pairs of rows.
    """

    kernels: tuple[Kernel, ...]
    offsets: Float64Array
    products: Float64Array
    row_sums: Float64Array
    diagonals: Float64Array
    from_features: bool
    device: str = "cpu"

    @property
    def rows(self) -> int:
        """$n$."""
        return self.kernels[0].rows

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
        norms = [self.raw_estimate(i, i, estimator) for i in (a, b)]
        if min(norms) <= 0:
            return None
        return self.raw_estimate(a, b, estimator) / float(np.sqrt(norms[0]) * np.sqrt(norms[1]))

    def raw_estimate(self, a: int, b: int, estimator: str) -> float:
        """The statistic over the kernels' scales, as tests take it."""
        return self._biased(a, b) if estimator == "biased" else self._unbiased(a, b)

    def says_nothing(self, a: int, estimator: str) -> bool:
        """Whether the statistic of kernel `a` with any other is 0, whatever the order of its rows."""
        return self.kernels[a].constant or (estimator != "biased" and self._is_zero_centred[a])

    @cached_property
    def _is_zero_centred(self) -> list[bool]:
        r"""Which kernels U-centring makes zero, up to rounding: $K_{ij} = u_i + u_j$ for all $i \ne j$.

        So it is where all rows are equally far apart, as ids in unit vectors are, and where all but one are the same.
        """
        zero = []
        for a, kernel in enumerate(self.kernels):
            square, rounding = self._u_product(a, a), self.rounding(a)
            if square <= rounding and kernel.features is not None and kernel.dtype != np.float64:
                # float32 products are too rough to tell; few kernels come here.
                features = kernel.features.astype(np.float64)
                exact = kernel_sums([FeatureKernel(features - features.mean(axis=0))], [])
                square = exact._u_product(0, 0)
                rounding = kernel.rounding(float(exact.products[0, 0]), float(exact.diagonals[0].sum()))
            zero.append(square <= rounding)
        return zero

    def rounding(self, a: int) -> float:
        """The sum of squares that rounding alone may leave of kernel `a` where centring makes it zero."""
        n, kernel, offset = self.rows, self.kernels[a], self.offsets[a]
        squares = self.products[a, a] + 2 * offset * self.row_sums[a].sum() + n * (n - 1) * offset**2
        rounding = kernel.rounding(float(squares), float(self.diagonals[a].sum() + n * offset))
        # What is left is a difference of sums: of the products and of the row sums; or, of features, of two more.
        cancelled = 64 * np.finfo(np.float64).eps if kernel.dtype == np.float64 else 2e-6
        rounding += cancelled * (self.row_sums[a] @ self.row_sums[a]) / (n - 2)
        if self.from_features:
            rounding += 10 * cancelled * (self.products[a, a] + self.diagonals[a] @ self.diagonals[a])
        return float(rounding)

    def _u_product(self, a: int, b: int) -> float:
        """The sum of products of two U-centred matrices."""
        n = self.rows
        k, l_ = self.row_sums[a], self.row_sums[b]
        return float(self.products[a, b] - 2 * (k @ l_) / (n - 2) + k.sum() * l_.sum() / ((n - 1) * (n - 2)))

    def _unbiased(self, a: int, b: int) -> float:
        if self.says_nothing(a, "unbiased") or self.says_nothing(b, "unbiased"):
            return 0.0
        return self._u_product(a, b) / (self.rows * (self.rows - 3))

    def _biased(self, a: int, b: int) -> float:
        if self.says_nothing(a, "biased") or self.says_nothing(b, "biased"):
            return 0.0
        n = self.rows
        k, l_ = self.row_sums[a] + self.diagonals[a], self.row_sums[b] + self.diagonals[b]
        total = self.products[a, b] + self.diagonals[a] @ self.diagonals[b]
        return float(total - 2 * (k @ l_) / n + k.sum() * l_.sum() / n**2) / n**2

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

    def centring(self, a: int, estimator: str) -> tuple[Float64Array, Float64Array]:
        r"""Return $u$ and the diagonal with which $A_{ij} = K_{ij} - u_i - u_j$ is centred.

        For the biased estimator $A = HKH$. For the unbiased one $A$ is the U-centred matrix (Székely & Rizzo
        2014, def. 2), whose diagonal is 0, with $\mathrm{HSIC}_u = \sum_{i \ne j} A_{ij} B_{ij} / (n(n-3))$.
        Either has rows that sum to 0, so under a permutation only this one sum changes.

        Returns:
            $u$ and the diagonal of $A$, each `(rows,)`.
        """
        n = self.rows
        if estimator == "biased":
            k = self.row_sums[a] + self.diagonals[a]
            u = k / n - k.sum() / (2 * n**2)
            return u + self.offsets[a] / 2, self.centred_diagonal(a)
        k = self.row_sums[a]
        u = k / (n - 2) - k.sum() / (2 * (n - 1) * (n - 2))
        return u + self.offsets[a] / 2, np.zeros(n)

    def is_cheap_in_features(self, pair: Pair) -> bool:
        """Whether products of features are fewer than products of rows."""
        left, right = (self.kernels[i].features for i in pair)
        if left is None or right is None:
            return False
        return bool(left.shape[1] * right.shape[1] <= self.rows)

    def _scaled(self, a: int, b: int, value: float) -> float:
        first, second = self.kernels[a], self.kernels[b]
        with np.errstate(over="ignore", under="ignore"):
            scaled = float(np.float64(value) * first.scale * second.scale)
        lost = scaled == 0 and value != 0 and not (first.constant or second.constant)
        if lost or not np.isfinite(scaled):
            raise OrdtoolError(
                f"the statistic is too {'small' if lost else 'large'} for a float",
                f"{'multiply' if lost else 'divide'} the vectors by a constant; p and CKA don't change",
            )
        return scaled


def kernel_sums(
    kernels: Sequence[Kernel],
    pairs: Sequence[Pair],
    *,
    threads: int | None = None,
    device: str = "cpu",
    kept: str | None = None,
    progress: Progress = SILENT,
) -> KernelSums:
    r"""Collect the sums of the given pairs of kernels, and of each with itself.

    Args:
        kernels: Kernels over the same number of rows.
        pairs: Which of them to compare, as indices.
        threads: Threads to use; None is one a core.
        device: `cpu`, or a CUDA device for pairs of rows.
        kept: The name of the stage, so that an interrupted sum is gone on with; see `ordtool.io.stages`.
        progress: Told of pairs of rows as they are done.

    Returns:
        The sums. Kernels that are all given by features take $O(n d^2)$ where that is less than $O(n^2 d)$.
    """
    every_pair = sorted({(min(p), max(p)) for p in pairs} | {(i, i) for i in range(len(kernels))})
    from_features = _features_are_cheaper(kernels, every_pair)
    if from_features:
        offsets = np.zeros(len(kernels))
        products, row_sums = _by_features(kernels, every_pair)
    else:
        offsets = np.array([kernel.typical_value() for kernel in kernels])
        found = PartialSums.empty(len(kernels), len(every_pair), kernels[0].rows)
        there = on_device(kernels, device)
        with stage(kept, products=found.products, row_sums=found.row_sums) as at:
            if there is None:
                sum_blocks(found, at, (kernels, every_pair, offsets), threads, progress)
            elif not at.done:
                found.merge(_device_sums(there, every_pair, offsets, progress))
                at.reach(1)
        products, row_sums = _as_matrix(len(kernels), every_pair, found.products), found.row_sums
    return KernelSums(
        kernels=tuple(kernels),
        offsets=offsets,
        products=products,
        row_sums=row_sums,
        diagonals=np.stack([kernel.diagonal() for kernel in kernels]) - offsets[:, None],
        from_features=from_features,
        device=device,
    )


def normaliser(rows: int, estimator: str) -> float:
    """Return what the sum over pairs of centred matrices is divided by."""
    return float(rows**2 if estimator == "biased" else rows * (rows - 3))


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


def _features_are_cheaper(kernels: Sequence[Kernel], pairs: Sequence[Pair]) -> bool:
    widths = [kernel.features.shape[1] for kernel in kernels if kernel.features is not None]
    if len(widths) < len(kernels):
        return False
    by_features = sum(widths[a] * widths[b] for a, b in pairs)
    return by_features < kernels[0].rows * sum(widths) / 2


def _by_features(kernels: Sequence[Kernel], pairs: Sequence[Pair]) -> tuple[Float64Array, Float64Array]:
    features = [kernel.features for kernel in kernels if kernel.features is not None]
    diagonals = np.stack([kernel.diagonal() for kernel in kernels])
    products = np.full((len(kernels), len(kernels)), np.nan)
    for a, b in pairs:
        cross = cross_product(features[a], features[b])
        products[a, b] = products[b, a] = np.vdot(cross, cross) - diagonals[a] @ diagonals[b]
    return products, -diagonals


def cross_product(left: Array, right: Array) -> Float64Array:
    r"""Return $\Phi^\top \Psi$ over rows, float32 products summed in float64; `(left dim, right dim)`."""
    total = np.zeros((left.shape[1], right.shape[1]))
    for start in range(0, len(left), BLOCK):
        total += left[start : start + BLOCK].T @ right[start : start + BLOCK]
    return total


def _device_sums(
    kernels: Sequence[DeviceKernel], pairs: Sequence[Pair], offsets: Float64Array, progress: Progress
) -> PartialSums:
    from ordtool.independence.device_kernels import block_sums

    n = len(kernels[0].left)
    progress.start("pairs", n * (n + 1) // 2, "pairs")
    found = PartialSums(*block_sums(kernels, pairs, offsets, progress))
    progress.close()
    return found


def _as_matrix(kernels: int, pairs: Sequence[Pair], products: Float64Array) -> Float64Array:
    matrix = np.full((kernels, kernels), np.nan)
    for (a, b), product in zip(pairs, products, strict=True):
        matrix[a, b] = matrix[b, a] = product
    return matrix


def on_device(kernels: Sequence[Kernel], device: str) -> list[DeviceKernel] | None:
    """Return kernels on a device; None if that is the CPU, or one of them can't be had elsewhere.

    Raises:
        UsageError: If there is no such device.
    """
    if device == "cpu":
        return None
    from ordtool.runtime import resolve_device

    place = resolve_device(device)
    there = [kernel.on_device(place) for kernel in kernels] if place.type == "cuda" else []
    found = [kernel for kernel in there if kernel is not None]
    # Kernels of different precision meet in products.
    alike = len(found) == len(kernels) and len({kernel.right.dtype for kernel in found}) == 1
    return found if alike else None
