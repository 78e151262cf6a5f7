r"""HSIC from random groups of rows: a fraction of the work, and a confidence interval.

The rows are put into a random order and cut into groups of $B$; HSIC is taken in each group alone. The
groups are independent of each other, so their mean has a standard error that can be read off, which the
statistic over all rows has not. The price is precision: only $nB$ of $n^2$ pairs are looked at (Zhang et
al. 2018, section 4, the block test).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordtool.errors import OrdtoolError
from ordtool.independence.gamma import (
    NullMoments,
    UCentredMoments,
    pair_variance,
    permutation_skewness,
    u_centred,
)
from ordtool.independence.kernels import Kernel
from ordtool.independence.validation import MIN_ROWS
from ordtool.io.stages import stage
from ordtool.parallel import ordered_map
from ordtool.progress import SILENT, Progress

Array = NDArray[Any]
Float64Array = NDArray[np.float64]

MIN_GROUPS = 8
_GROUP_ROWS = (16, 512)


@dataclass(frozen=True, slots=True)
class SubsampledHsic:
    """HSIC estimated from groups of rows.

    Attributes:
        statistic: The mean of the groups' unbiased statistics, itself unbiased.
        low: Lower end of the confidence interval for the HSIC of the population.
        high: Its upper end.
        cka: The same mean over the root of the two variables' own.
        p_value: The chance of such a mean or a larger one under independence.
        groups: How many groups there were.
        group_rows: Rows a group.
    """

    statistic: float
    low: float
    high: float
    cka: float | None
    p_value: float
    groups: int
    group_rows: int


def default_group_rows(rows: int) -> int:
    r"""Return $\sqrt{n}$, within limits."""
    return min(max(math.isqrt(rows), _GROUP_ROWS[0]), _GROUP_ROWS[1])


def subsampled_hsic(
    left: Kernel,
    right: Kernel,
    *,
    group_rows: int | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress = SILENT,
) -> SubsampledHsic:
    r"""Estimate HSIC from random groups of rows, with a confidence interval and a test.

    The interval is Student's over the groups. The p-value doesn't rest on it: inside each group the
    unbiased statistic has an exactly known mean, variance and skewness under permutations (`gamma`), they
    add up over groups, and a Pearson III curve with them gives the tail.

    Args:
        left: Kernel of the one variable.
        right: Kernel of the other, over the same rows.
        group_rows: $B$; None takes $\sqrt n$ within 16 to 512.
        confidence: Of the interval, between 0 and 1.
        seed: Of the order of the rows.
        threads: Threads to use.
        progress: Told of groups as they are done.

    Raises:
        OrdtoolError: If the groups would be too small or too few, or the confidence isn't one.
    """
    n = left.rows
    group_rows = default_group_rows(n) if group_rows is None else group_rows
    _check(n, group_rows, confidence)
    groups = n // group_rows
    order = np.random.default_rng([seed, 0x424C4B]).permutation(n)
    jobs = [np.sort(order[g * group_rows : (g + 1) * group_rows]) for g in range(groups)]
    progress.start("groups", groups, "groups")
    values = np.zeros((groups, 5))
    with stage("groups", values=values) as at:
        progress.advance(at.done)
        for found in ordered_map(lambda index: _one_group(left, right, index), jobs[at.done :], threads):
            values[at.done] = found
            at.reach(at.done + 1)
            progress.advance()
    progress.close()
    scale = left.scale * right.scale
    crossed, own_left, own_right = values[:, :3].T
    moments = [NullMoments(0.0, float(variance), float(skewness)) for variance, skewness in values[:, 3:]]
    mean = float(crossed.mean())
    half = _half_width(crossed, confidence)
    return SubsampledHsic(
        statistic=mean * scale,
        low=(mean - half) * scale,
        high=(mean + half) * scale,
        cka=_ratio(mean, float(own_left.mean()), float(own_right.mean())),
        p_value=_mean_of(moments).p_value(mean),
        groups=groups,
        group_rows=group_rows,
    )


def _check(rows: int, group_rows: int, confidence: float) -> None:
    if not 0 < confidence < 1:
        raise OrdtoolError(
            f"a confidence of {confidence:g} is not possible", "give one between 0 and 1: 0.95"
        )
    if group_rows < MIN_ROWS:
        raise OrdtoolError(f"groups of {group_rows} rows are too small", f"HSIC needs {MIN_ROWS} rows")
    if rows // group_rows < MIN_GROUPS:
        raise OrdtoolError(
            f"{rows} rows make {rows // group_rows} groups of {group_rows}, and {MIN_GROUPS} are needed",
            "use smaller groups, or the exact statistic with `test=permutation`",
        )


def _one_group(left: Kernel, right: Kernel, index: NDArray[np.intp]) -> list[float]:
    """Return HSIC of the group and of each variable with itself, and the first one's null variance and skewness."""
    b = len(index)
    matrices = [_centred_group(kernel, index) for kernel in (left, right)]
    products = [float(np.vdot(matrices[i], matrices[j])) for i, j in ((0, 1), (0, 0), (1, 1))]
    if left.constant or right.constant:
        products = [0.0, 0.0, 0.0]
    scale = b * (b - 3)
    variance = products[1] * products[2] * pair_variance(b) / scale**2
    centred_moments = (UCentredMoments.from_centred(matrices[0]), UCentredMoments.from_centred(matrices[1]))
    skewness = permutation_skewness(b, centred_moments)
    return [*(product / scale for product in products), variance, skewness]


def _centred_group(kernel: Kernel, index: NDArray[np.intp]) -> Float64Array:
    everything = slice(0, len(index))
    matrix = kernel.subset(index).block(everything, everything).astype(np.float64)
    diagonal = matrix.diagonal()
    squares = float(np.vdot(matrix, matrix) - diagonal @ diagonal)
    return u_centred(matrix, kernel.rounding(squares, float(diagonal.sum())))


def _half_width(values: Float64Array, confidence: float) -> float:
    from scipy.special import stdtrit

    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(stdtrit(len(values) - 1, 0.5 + confidence / 2)) * error


def _ratio(crossed: float, left: float, right: float) -> float | None:
    return crossed / math.sqrt(left * right) if left > 0 and right > 0 else None


def _mean_of(moments: Sequence[NullMoments]) -> NullMoments:
    """Return the moments of the mean of independent statistics: their cumulants add up."""
    count = len(moments)
    variance = sum(m.variance for m in moments)
    third = sum(m.skewness * m.variance**1.5 for m in moments)
    skewness = third / variance**1.5 if variance > 0 else 0.0
    return NullMoments(0.0, variance / count**2, skewness)
