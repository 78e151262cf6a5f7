r"""Conditional independence: do x and y still depend on each other once z is known?

The kernel conditional independence test (KCI; Zhang, Peters, Janzing & Schölkopf 2011). With features $\phi(x)$, $\psi(y)$
and $\zeta(z)$ of three kernels, x and y are independent given z if and only if

$$E\big[(\phi(x) - E[\phi(x) | z]) \otimes \zeta(z) \otimes (\psi(y) - E[\psi(y) | z])\big] = 0.$$

Both expectations are kernel ridge regressions on z, whose residuals are $R_x \phi$ and $R_y \psi$ for symmetric matrices
$R$. The statistic is the squared norm of the mean, $\frac{1}{n^2} \sum_{ij} A_{ij} B_{ij}$ for
$A = R_x K R_x \circ K_z$ and $B = R_y L R_y$ (Pogodin et al. 2022, section 3: the paper of 2011 regresses
$\phi(x) \otimes \zeta(z)$ whole, which is the same in the limit and harder to learn).

A bad regression makes the test wrong, not weak: what is left of z in both residuals is taken for dependence. So

- bandwidth and ridge are chosen for x and for y apart, by the leave-one-out error of the regression, which is at hand for
  every ridge once a matrix is decomposed;
- regressions that use up many degrees of freedom leave residuals that are too small and depend on each other. Under
  independence given z, and with equal variances, the mean of $\sum_{ij} A_{ij} B_{ij}$ is $c \sum_i A_{ii} B_{ii}$, with

$$c = \frac{\sum_{ij} K_{z,ij} (R_x^2)_{ij} (R_y^2)_{ij}}{\sum_i (R_x^2)_{ii} (R_y^2)_{ii}},$$

  and the null distribution is stretched by $c$. (This is ours; the papers leave it out.)

Kernels stand as features by incomplete Cholesky decompositions, so that no matrix of all pairs is held.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordtool.independence.gamma import NullMoments
from ordtool.independence.kernel_sums import on_device
from ordtool.independence.kernels import Kernel, fit_kernel
from ordtool.io.stages import stage
from ordtool.progress import SILENT, Progress
from ordtool.runtime import resolve_device

Float64Array = NDArray[np.float64]

RIDGES = tuple(np.geomspace(1e-3, 1e3, 13))
"""Ridges that are tried, in units of the kernel's diagonal."""
WIDTHS = (0.0625, 0.25, 1.0, 4.0)
"""Bandwidths of z that are tried, as multiples of the median heuristic's."""
MAX_FEATURES = 300
# Shares of a kernel's trace that its features may miss.
TOLERANCE = 1e-4
PRODUCT_TOLERANCE = 1e-3
# Leading directions of the residuals' space in which regressions are compared.
COMPARED = 20
GROUP_ROWS = 20
"""Neighbours in z within which residuals are permuted; groups have this many rows or up to twice as many."""
BLOCK = 512
SKEWNESS_ROWS = 512
_CHUNK_NUMBERS = 4_000_000


@dataclass(frozen=True, slots=True)
class Regression:
    r"""A kernel ridge regression on z with an intercept: its residual matrix is $R = I - \frac1n - U g U^\top$.

    Attributes:
        basis: $U$, orthonormal columns that sum to 0, `(rows, rank)`.
        shrink: The diagonal of $g = s / (s + \epsilon)$, `(rank,)`.
        width: The bandwidth, as a multiple of the median heuristic's.
        ridge: $\epsilon$.
        error: The mean squared leave-one-out error.
    """

    basis: Float64Array
    shrink: Float64Array
    width: float
    ridge: float
    error: float

    def residuals(self, targets: Float64Array) -> Float64Array:
        """Return $R$ times centred targets, `(rows, columns)`."""
        return targets - self.basis @ (self.shrink[:, None] * (self.basis.T @ targets))

    @property
    def double_shrink(self) -> Float64Array:
        """The diagonal of $2 g - g^2$, `(rank,)`: what the square of $R$ leaves out."""
        return 2 * self.shrink - self.shrink**2

    def squared(self, rows: slice) -> Float64Array:
        r"""Return some rows of $R^2 = I - \frac1n - U \operatorname{diag}(2 g - g^2) U^\top$, `(some, rows)`."""
        part = -(self.basis[rows] * self.double_shrink) @ self.basis.T - 1 / len(self.basis)
        place = np.arange(len(part))
        part[place, place + rows.start] += 1
        return part


@dataclass(frozen=True)
class ConditionalSums:
    r"""What a test of conditional independence is made of.

    Attributes:
        left: Residuals of x's features, `(rows, columns)`.
        right: Residuals of y's.
        given: The kernel of z that weighs them.
        regressions: Those of x and of y on z.
        total: $\sum_{ij} A_{ij} B_{ij}$.
        trace: $\sum_i A_{ii} B_{ii}$.
        square: $\sum_{i \ne j} (A_{ij} B_{ij})^2$.
        stretch: $c$.
    """

    left: Float64Array
    right: Float64Array
    given: Kernel
    regressions: tuple[Regression, Regression]
    total: float
    trace: float
    square: float
    stretch: float

    @property
    def rows(self) -> int:
        """$n$."""
        return len(self.left)

    def statistic(self, estimator: str) -> float:
        r"""Return $\sum_{ij} A_{ij} B_{ij} / n^2$ (`biased`), or it less its mean under independence (`unbiased`)."""
        n = self.rows
        if estimator == "biased":
            return self.total / n**2
        return (self.total - self.stretch * self.trace) / (n * (n - 1))


def conditional_sums(
    left: Kernel, right: Kernel, z: NDArray[Any], *, device: str = "cpu", progress: Progress = SILENT
) -> ConditionalSums:
    """Regress features of x and y on z, and collect the sums over pairs of residuals.

    Args:
        left: The kernel of x.
        right: The kernel of y.
        z: `(rows, dim)`; its columns are standardised.
        device: Where sums over pairs of rows are made: `cpu`, or a CUDA device.
        progress: Told of the work.

    Raises:
        UsageError: If there is no such device.
    """
    rows = standard_columns(z)
    targets = [_centred_features(kernel) for kernel in (left, right)]
    regressions = _choose_regressions(targets, rows)
    first, second = (
        regression.residuals(target) for regression, target in zip(regressions, targets, strict=True)
    )
    given = fit_kernel(rows)
    there = on_device([given], device)
    if there is None:
        found = _pair_sums((first, second), regressions, given, progress)
    else:
        from ordtool.independence.conditional_device import pair_sums

        shapes = [(regression.basis, regression.double_shrink) for regression in regressions]
        found = pair_sums((first, second), (shapes[0], shapes[1]), there[0], progress)
    total, trace, square, stretched, plain = found.tolist()
    stretch = max(stretched / plain, 1.0) if plain > 0 else 1.0
    return ConditionalSums(
        first, second, given, (regressions[0], regressions[1]), total, trace, square, stretch
    )


def _pair_sums(
    residuals: tuple[Float64Array, Float64Array],
    regressions: Sequence[Regression],
    given: Kernel,
    progress: Progress,
) -> Float64Array:
    """As `conditional_device.pair_sums`, here."""
    n = given.rows
    found = np.zeros(5)
    progress.start("pairs", n * n, "pairs")
    with stage("sums", found=found) as at:
        progress.advance(min(at.done * BLOCK, n) * n)
        for start in range(at.done * BLOCK, n, BLOCK):
            part = slice(start, min(start + BLOCK, n))
            weights = given.block(part, slice(0, n))
            products = (residuals[0][part] @ residuals[0].T) * (residuals[1][part] @ residuals[1].T) * weights
            diagonal = np.diagonal(products, start)
            square = float(np.vdot(products, products) - diagonal @ diagonal)
            spread = regressions[0].squared(part) * regressions[1].squared(part)
            plain, stretched = float(np.diagonal(spread, start).sum()), float(np.vdot(spread, weights))
            found += [float(products.sum()), float(diagonal.sum()), square, stretched, plain]
            at.reach(at.done + 1)
            progress.advance((part.stop - part.start) * n)
    progress.close()
    return found


def standard_columns(z: NDArray[Any]) -> Float64Array:
    """Bring each column to mean 0 and standard deviation 1, and drop constant ones unless all are, `(rows, dim)`."""
    rows = z.astype(np.float64) - z[0].astype(np.float64)
    spread = rows.std(axis=0)
    varies = spread > 0
    if not varies.any():
        return np.zeros((len(rows), 1))
    return np.asarray((rows[:, varies] - rows[:, varies].mean(axis=0)) / spread[varies])


def gamma_p_value(sums: ConditionalSums) -> float:
    r"""Return the p-value by moments: nothing is drawn.

    Under independence given z the products of residuals have mean 0 in each row, whatever z does to their size, so that
    any of their signs may be turned. Over all signs $\sum_{ij} s_i s_j A_{ij} B_{ij}$ has the mean $\sum_i A_{ii} B_{ii}$,
    the variance $2 \sum_{i \ne j} (A_{ij} B_{ij})^2$ and the third central moment $8 \operatorname{tr} M^3$, $M$ being
    $A \circ B$ with an empty diagonal. The first two are those of Zhang et al. 2011, proposition 5; the third, of up to
    `SKEWNESS_ROWS` rows, replaces the one that a gamma curve through 0 would have.
    """
    if not sums.square > 0:
        return 1.0
    variance = 2 * sums.square
    curve = NullMoments(
        sums.stretch * sums.trace, sums.stretch**2 * variance, 8 * _triangles(sums) / variance**1.5
    )
    return curve.p_value(sums.total)


def _triangles(sums: ConditionalSums) -> float:
    """Return the trace of the cube, from some of the rows where there are many."""
    n = sums.rows
    index = np.arange(n)
    if n > SKEWNESS_ROWS:
        index = np.sort(np.random.default_rng(0).choice(n, SKEWNESS_ROWS, replace=False))
    some = len(index)
    everything = slice(0, some)
    left, right = sums.left[index], sums.right[index]
    products = (left @ left.T) * (right @ right.T) * sums.given.subset(index).block(everything, everything)
    np.fill_diagonal(products, 0)
    triples = n * (n - 1) * (n - 2) / (some * (some - 1) * (some - 2))
    return float(np.vdot(products @ products, products)) * triples


def local_permutations(
    sums: ConditionalSums,
    z: NDArray[Any],
    permutations: int,
    seed: int,
    progress: Progress = SILENT,
    *,
    device: str = "cpu",
) -> float:
    r"""Return the p-value by permutations of y's residuals among neighbours in z.

    Rows are divided into groups of `GROUP_ROWS` to twice as many by halving the set along the column of z that varies most
    in it, and permuted within each (local permutations: Kim, Neykov, Balakrishnan & Wasserman 2022, who permute y; of
    residuals, as Freedman & Lane 1983 do, so that within a group no trend of z is left). What z does to the residuals'
    size stays. The statistics are stretched by $c$ as the gamma curve is. Any device draws the same permutations.
    """
    if not sums.square > 0:
        return 1.0
    groups = neighbours(standard_columns(z))
    left = _weighted_features(sums)
    right = _principal(sums.right, TOLERANCE, MAX_FEATURES)
    observed = float(np.square(left.T @ right).sum())
    rng = np.random.default_rng([seed, 0x4B4349])
    n, width = right.shape
    chunk = max(1, _CHUNK_NUMBERS // (n * max(width, 1)))
    order = np.argsort(groups, kind="stable")
    statistics = _permuted(left[order], right, device)
    at_least = np.zeros(1, dtype=np.int64)
    progress.start("permutations", permutations, "permutations")
    with stage("permutations", at_least=at_least) as at:
        for start in range(0, permutations, chunk):
            count = min(chunk, permutations - start)
            drawn = rng.random((count, n))  # of what was done before too, so that what follows is the same
            if start >= at.done:
                # Sorting by group and a random number within it is a random order of each group.
                values = statistics(np.argsort(groups + drawn, axis=1))
                at_least += (sums.stretch * values >= observed * (1 - 1e-10)).sum()
                at.reach(start + count)
            progress.advance(count)
    progress.close()
    return (1 + int(at_least[0])) / (1 + permutations)


def _permuted(
    left: Float64Array, right: Float64Array, device: str
) -> Callable[[NDArray[np.intp]], Float64Array]:
    """Return what computes the statistics of permutations, see `conditional_device.permuted_statistics`."""
    place = None if device == "cpu" else resolve_device(device)
    if place is not None and place.type == "cuda":
        from ordtool.independence.conditional_device import permuted_statistics

        return permuted_statistics(left, right, place)
    transposed, (n, width) = left.T.copy(), right.shape

    def statistics(orders: NDArray[np.intp]) -> Float64Array:
        drawn = right[orders].transpose(1, 0, 2).reshape(n, len(orders) * width)
        squares: Float64Array = np.square(transposed @ drawn)
        return squares.reshape(-1, len(orders), width).sum(axis=(0, 2))

    return statistics


def neighbours(rows: Float64Array) -> NDArray[np.intp]:
    """Number the group of each row: halves of halves along the column of largest variance, `(rows,)`."""
    groups = np.zeros(len(rows), dtype=np.intp)
    waiting, number = [np.arange(len(rows))], 0
    while waiting:
        index = waiting.pop()
        if len(index) < 2 * GROUP_ROWS:
            groups[index] = number
            number += 1
            continue
        column = int(rows[index].var(axis=0).argmax())
        order = index[np.argsort(rows[index, column], kind="stable")]
        waiting += [order[: len(order) // 2], order[len(order) // 2 :]]
    return groups


def incomplete_cholesky(
    diagonal: Float64Array,
    column: Callable[[int], Float64Array],
    tolerance: float,
    most: int,
) -> Float64Array:
    r"""Return features $F$ with $F F^\top \approx K$ for a positive matrix, `(rows, at most most)`.

    Pivots are the rows that are explained worst (Bach & Jordan 2002), until `tolerance` of the trace is left.

    Args:
        diagonal: $K_{ii}$, `(rows,)`.
        column: Gives a column of $K$ by its index, `(rows,)`.
        tolerance: Share of the trace.
        most: Columns of $F$.
    """
    n, most = len(diagonal), min(most, len(diagonal))
    rest = diagonal.astype(np.float64)
    total = float(rest.sum())
    features = np.zeros((n, most))
    for rank in range(most):
        pivot = int(rest.argmax())
        if not rest.sum() > tolerance * total or not rest[pivot] > 0:
            return features[:, :rank]
        new = (column(pivot) - features[:, :rank] @ features[pivot, :rank]) / np.sqrt(rest[pivot])
        features[:, rank] = new
        rest = np.maximum(rest - new**2, 0)
        rest[pivot] = 0
    return features


def _centred_features(kernel: Kernel) -> Float64Array:
    """Return centred features of a kernel over its scale, `(rows, columns)`."""
    if kernel.features is not None:
        features = _principal(kernel.features.astype(np.float64), 0.0, MAX_FEATURES)
    else:
        features = _kernel_features(kernel)
    return np.asarray(features - features.mean(axis=0))


def _kernel_features(kernel: Kernel) -> Float64Array:
    everything = slice(0, kernel.rows)
    return incomplete_cholesky(
        kernel.diagonal(), lambda j: kernel.block(slice(j, j + 1), everything)[0], TOLERANCE, MAX_FEATURES
    )


def _weighted_features(sums: ConditionalSums) -> Float64Array:
    """Return features of x's residuals times those of z, `(rows, columns)`."""
    left, given, everything = sums.left, sums.given, slice(0, sums.rows)
    diagonal = np.einsum("ij,ij->i", left, left) * given.diagonal()
    return incomplete_cholesky(
        diagonal,
        lambda j: (left @ left[j]) * given.block(slice(j, j + 1), everything)[0],
        PRODUCT_TOLERANCE,
        MAX_FEATURES,
    )


def _principal(features: Float64Array, tolerance: float, most: int) -> Float64Array:
    """Turn features to their principal directions and keep those that matter, `(rows, at most most)`."""
    values, directions = np.linalg.eigh(features.T @ features)
    values, directions = np.maximum(values[::-1], 0), directions[:, ::-1]
    missed = values.sum() - np.cumsum(values)
    kept = min(int((missed > tolerance * values.sum()).sum()) + 1, most, len(values))
    return np.asarray(features @ directions[:, :kept])


def _choose_regressions(targets: Sequence[Float64Array], z: Float64Array) -> list[Regression]:
    """Return for each target the regression on z of the smallest leave-one-out error."""
    looked_at = [_principal(target, 1e-2, COMPARED) for target in targets]
    best: list[Regression | None] = [None] * len(targets)
    median = fit_kernel(z).bandwidth
    for width in WIDTHS:
        features = _kernel_features(fit_kernel(z, bandwidth=None if median is None else width * median))
        features -= features.mean(axis=0)
        basis, roots, _ = np.linalg.svd(features, full_matrices=False)
        kept = roots > 1e-7 * max(float(roots.max(initial=0)), 1e-300)
        basis, values = basis[:, kept], roots[kept] ** 2
        for place, target in enumerate(looked_at):
            ridge, error = _best_ridge(basis, values, target)
            chosen = best[place]
            if chosen is None or error < chosen.error:
                best[place] = Regression(basis, values / (values + ridge), width, ridge, error)
    return [chosen for chosen in best if chosen is not None]


def _best_ridge(basis: Float64Array, values: Float64Array, target: Float64Array) -> tuple[float, float]:
    """Return the ridge of the smallest leave-one-out error, and that error."""
    n = len(basis)
    projected, leverage = basis.T @ target, basis**2
    errors = []
    for ridge in RIDGES:
        shrink = values / (values + ridge)
        residuals = target - basis @ (shrink[:, None] * projected)
        own = np.maximum(1 - 1 / n - leverage @ shrink, 1e-8)
        errors.append(float((np.square(residuals).sum(axis=1) / own**2).mean()))
    place = int(np.argmin(errors))
    return RIDGES[place], errors[place]
