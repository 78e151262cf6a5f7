r"""The null distribution from its moments: no permutation is drawn.

Over all $n!$ permutations of the rows of $y$ the statistic has moments that are sums over $x$ alone times
sums over $y$ alone. The first two are exact here, from the sums that the statistic itself needed. The
third, which centred_moments the tail, is exact up to `SKEWNESS_ROWS` rows and taken from that many of them beyond. A
shifted gamma distribution (Pearson type III) with the same mean, variance and skewness then gives the
p-value.

Gretton et al. 2007 match two asymptotic moments of the biased statistic with an unshifted gamma, which ties
the skewness to the ratio of spread and mean; on kernels with a long flat spectrum, such as a gaussian one
in many dimensions, that is far off. Permutation moments with a Pearson III curve are what Kazi-Aoual et al.
1995 and Josse et al. 2008 do for linear kernels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordtool.independence.kernel_sums import KernelSums
from ordtool.independence.kernels import Kernel

Array = NDArray[Any]
Float64Array = NDArray[np.float64]

SKEWNESS_ROWS = 512
"""Above this number of rows the skewness is that of so many of them."""


@dataclass(frozen=True, slots=True)
class NullMoments:
    """Mean, variance and skewness of a statistic under permutations."""

    mean: float
    variance: float
    skewness: float

    def p_value(self, observed: float) -> float:
        """Return the chance of `observed` or more under a Pearson III curve with these moments; 1 without variance."""
        return float(self.tails(np.array([observed]))[0])

    def tails(self, values: Float64Array) -> Float64Array:
        """Return the same for many values."""
        if not self.variance > 0:
            return np.ones(len(values))
        return pearson3_tail((values - self.mean) / math.sqrt(self.variance), self.skewness)


def pearson3_tail(z: Float64Array, skewness: float) -> Float64Array:
    r"""Return $P(Z \ge z)$ for a standardised Pearson III variable.

    With $k = 4 / \gamma^2$, $Z = (G - k) / \sqrt k$ for a gamma variable $G$ of shape $k$; mirrored for a
    negative skewness $\gamma$, normal at 0.

    Returns:
        Probabilities; those too small for a float come out as the smallest one.
    """
    from scipy.special import gammainc, gammaincc, ndtr

    if abs(skewness) < 1e-3:
        tails = ndtr(-z)
    else:
        shape = 4 / skewness**2
        points = np.maximum(shape + math.copysign(1, skewness) * z * math.sqrt(shape), 0.0)
        tails = gammaincc(shape, points) if skewness > 0 else gammainc(shape, points)
    return np.clip(tails, np.finfo(np.float64).tiny, 1.0)


@dataclass(frozen=True, slots=True)
class UCentredMoments:
    r"""Means over pairs and triples of different rows of a U-centred matrix $A$, whose rows sum to 0.

    Attributes:
        rows: $n$.
        square: $\sum_{i \ne j} A_{ij}^2 / n(n-1)$.
        cube: $\sum_{i \ne j} A_{ij}^3 / n(n-1)$.
        triangle: $\operatorname{tr} A^3 / n(n-1)(n-2)$.
    """

    rows: int
    square: float
    cube: float
    triangle: float

    @classmethod
    def from_matrix(cls, matrix: Array) -> UCentredMoments:
        """Take the means of a kernel matrix of shape `(rows, rows)`."""
        return cls.from_centred(u_centred(matrix))

    @classmethod
    def from_centred(cls, centred: Array) -> UCentredMoments:
        """Take them of a matrix that is U-centred already."""
        n = len(centred)
        squared = centred * centred
        product = centred @ centred.T  # symmetric, which halves the work where numpy can see it
        return cls(
            n,
            float(squared.sum(dtype=np.float64)) / (n * (n - 1)),
            float(np.vdot(squared, centred)) / (n * (n - 1)),
            float(np.vdot(product, centred)) / (n * (n - 1) * (n - 2)),
        )

    @classmethod
    def from_kernel(cls, kernel: Kernel) -> UCentredMoments:
        """Take them of a kernel, or of `SKEWNESS_ROWS` of its rows if it has more."""
        if kernel.rows > SKEWNESS_ROWS:
            index = np.random.default_rng(0).choice(kernel.rows, SKEWNESS_ROWS, replace=False)
            kernel = kernel.subset(np.sort(index))
        everything = slice(0, kernel.rows)
        return cls.from_matrix(kernel.block(everything, everything))


def u_centred(matrix: Array, rounding: float = 0.0) -> Array:
    r"""Centre a symmetric matrix so that its diagonal and all row sums are 0 (Székely & Rizzo 2014, def. 2).

    Args:
        matrix: `(rows, rows)`.
        rounding: A result whose sum of squares is no larger is zero.
    """
    n = len(matrix)
    centred = matrix - matrix.mean(dtype=matrix.dtype)
    np.fill_diagonal(centred, 0)
    sums = centred.sum(axis=1, dtype=np.float64)
    u = (sums / (n - 2) - sums.sum() / (2 * (n - 1) * (n - 2))).astype(matrix.dtype)
    centred -= u[:, None]
    centred -= u
    np.fill_diagonal(centred, 0)
    if rounding and np.square(centred, dtype=np.float64).sum() <= rounding:
        centred[...] = 0
    return np.asarray(centred)


CentredMomentsPair = tuple[UCentredMoments, UCentredMoments]


def null_moments(
    sums: KernelSums, a: int, b: int, centred_moments: CentredMomentsPair, estimator: str
) -> NullMoments:
    """Return the moments of the `biased` or `unbiased` statistic under permutations, over the kernels' scales."""
    form = biased_moments if estimator == "biased" else unbiased_moments
    return form(sums, a, b, centred_moments)


def unbiased_moments(sums: KernelSums, a: int, b: int, centred_moments: CentredMomentsPair) -> NullMoments:
    r"""Moments of the unbiased statistic, over the kernels' scales.

    The mean is 0. With $S_A = \sum_{i \ne j} A_{ij}^2 = n(n-3) \mathrm{HSIC}_u(x, x)$ and $(n)_k =
    n(n-1)\dots(n-k+1)$, the variance of $\sum_{i \ne j} A_{ij} B_{\pi i, \pi j}$ is $S_A S_B \left[ 2/(n)_2
    + 4/(n)_3 + 4/(n)_4 \right]$.
    """
    n = sums.rows
    return NullMoments(0.0, unbiased_variance(sums, a, b), permutation_skewness(n, centred_moments))


def unbiased_variance(sums: KernelSums, a: int, b: int) -> float:
    """Return the unbiased statistic's variance under permutations; 0 where centring leaves nothing but rounding."""
    n = sums.rows
    squares = [max(sums.centred_square(index), 0.0) for index in (a, b)]
    return squares[0] * squares[1] * pair_variance(n) / (n * (n - 3)) ** 2


def biased_moments(sums: KernelSums, a: int, b: int, centred_moments: CentredMomentsPair) -> NullMoments:
    r"""Moments of the biased statistic $\operatorname{tr}(KHLH)/n^2$, over the kernels' scales.

    Mean and variance are those of Kazi-Aoual et al. 1995 in the traces $T = \operatorname{tr} A$, $T_2 =
    \operatorname{tr} A^2$ and $S_2 = \sum_i A_{ii}^2$ of $A = HKH$: the mean $T T' / (n-1)$, and the
    variance $\frac{2 ((n-1) T_2 - T^2)((n-1) T'_2 - T'^2)}{(n-1)^2 (n+1)(n-2)} + \frac{(n(n+1) S_2 -
    (n-1)(T^2 + 2 T_2)) (n(n+1) S'_2 - (n-1)(T'^2 + 2 T'_2))}{(n+1) n (n-1)(n-2)(n-3)}$. The skewness is the
    unbiased statistic's.
    """
    n = sums.rows
    traces = [float(sums.centred_diagonal(index).sum()) for index in (a, b)]
    mean = traces[0] * traces[1] / (n - 1)
    return NullMoments(mean / n**2, biased_variance(sums, a, b), permutation_skewness(n, centred_moments))


def biased_variance(sums: KernelSums, a: int, b: int) -> float:
    """Return the biased statistic's variance under permutations; 0 where it is the same for all of them."""
    n, precision = sums.rows, float(np.finfo(np.float64).eps)
    spread, uneven = [], []
    for index in (a, b):
        diagonal = sums.centred_diagonal(index)
        t1, t2, s2 = float(diagonal.sum()), sums.centred_full_square(index), float(diagonal @ diagonal)
        rounding = sums.rounding(index)
        spread.append(_unless_rounding((n - 1) * t2 - t1**2, (n - 1) * (rounding + 64 * precision * t2)))
        uneven.append(
            _unless_rounding(
                n * (n + 1) * s2 - (n - 1) * (t1**2 + 2 * t2), (n + 1) * (rounding + 64 * precision * n * s2)
            )
        )
    variance = 2 * spread[0] * spread[1] / ((n - 1) ** 2 * (n + 1) * (n - 2))
    variance += uneven[0] * uneven[1] / ((n + 1) * n * (n - 1) * (n - 2) * (n - 3))
    return max(variance, 0.0) / n**4


def _unless_rounding(difference: float, rounding: float) -> float:
    return difference if abs(difference) > rounding else 0.0


def null_variance(sums: KernelSums, a: int, b: int, estimator: str) -> float:
    """Return the variance of the `biased` or `unbiased` statistic under permutations, over the kernels' scales."""
    form = biased_variance if estimator == "biased" else unbiased_variance
    return form(sums, a, b)


def pair_variance(n: int) -> float:
    """Return the factor between the product of two sums of squares and the variance of the permuted sum."""
    return 2 / _falling(n, 2) + 4 / _falling(n, 3) + 4 / _falling(n, 4)


def permutation_skewness(n: int, centred_moments: CentredMomentsPair) -> float:
    """Return the skewness of the permuted sum of products of two U-centred matrices; 0 where one is 0."""
    squares = [moments.square * _falling(n, 2) for moments in centred_moments]
    variance = squares[0] * squares[1] * pair_variance(n)
    return third_moment(n, centred_moments) / variance**1.5 if variance > 0 else 0.0


def third_moment(n: int, centred_moments: CentredMomentsPair) -> float:
    r"""Return $E_\pi (\sum_{i \ne j} A_{ij} B_{\pi i, \pi j})^3$.

    Three pairs of rows form one of eight graphs: a triple edge, a double edge with a touching or a separate
    edge, a triangle, a star, a path, a path of two with a separate edge, or three separate edges. A
    permutation takes each to any other of its kind, so the moment is the sum over the kinds of $8 \, s_A
    s_B / N$: the kind's sums of products over the number of its members. As the rows of $A$ sum to 0, every
    $s_A$ is a combination of $\sum A_{ij}^3$ and $\operatorname{tr} A^3$.
    """
    sums = []
    for moments in centred_moments:
        c, t = moments.cube * _falling(n, 2), moments.triangle * _falling(n, 3)
        sums.append((c / 2, -3 * c, 1.5 * c, t, 2 * c, 3 * (c - t), 3 * (t - 2 * c), 2 * c - t))
    f2, f3, f4, f5, f6 = (_falling(n, k) for k in range(2, 7))
    members = (f2 / 2, 3 * f3, 0.75 * f4, f3, f4, 3 * f4, 1.5 * f5, f6 / 8)
    return 8 * sum(a * b / count for a, b, count in zip(*sums, members, strict=True) if count)


def _falling(n: int, k: int) -> float:
    return float(math.prod(range(n - k + 1, n + 1)))
