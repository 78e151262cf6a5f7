r"""One test over a grid of bandwidths: no bandwidth has to be chosen, and none is lost.

A gaussian kernel sees dependence at the scale of its bandwidth. The aggregated test looks at every pair of
bandwidths from a grid, and asks how extreme the most extreme of them is among the same for permuted rows
(Albert et al. 2022; Schrab et al. 2022, section 6).

Deviation: the papers estimate, from two sets of permutations and by bisection, the level at which single
tests have to be made so that all together keep theirs. Here one set serves both, and the answer is a
p-value. Each statistic $T_\lambda(\pi)$, of the observed order and of every permutation, is turned into the
tail probability $q_\lambda(\pi)$ of a curve with the exact moments of its kernel (`gamma`), which makes
bandwidths comparable. The test statistic is $\min_\lambda q_\lambda$, and the p-value its rank among the
same for every $\pi$. The curves don't depend on the order of the rows, so each permutation is treated just
as the observed order is: the level holds exactly, however well the curves fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ordtool.errors import OrdtoolError
from ordtool.independence.gamma import UCentredMoments, null_moments
from ordtool.independence.kernel_sums import kernel_sums
from ordtool.independence.kernels import Kernel
from ordtool.independence.permutation import null_sample
from ordtool.progress import SILENT, Progress

Float64Array = NDArray[np.float64]

GRID = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Bandwidths as multiples of the median heuristic's: the grid of Schrab et al. 2022, section 7."""


@dataclass(frozen=True, slots=True)
class AggregatedTest:
    """The result of a test over a grid of kernels.

    Attributes:
        p_value: Of the aggregated test.
        best: Which kernel of the left and which of the right stood out most.
        single_p_values: What each pair says alone, uncorrected, `(left, right)`.
    """

    p_value: float
    best: tuple[int, int]
    single_p_values: Float64Array


def aggregated_test(
    left: Sequence[Kernel],
    right: Sequence[Kernel],
    *,
    permutations: int = 1000,
    seed: int = 0,
    estimator: str = "unbiased",
    scheme: str = "auto",
    threads: int | None = None,
    progress: Progress = SILENT,
) -> AggregatedTest:
    """Test independence with every kernel of the left against every kernel of the right.

    Args:
        left: Kernels over the rows of one variable, usually one kernel at several bandwidths.
        right: Kernels over the rows of the other.
        permutations: How many; all pairs of kernels share them.
        seed: Of the permutations.
        estimator: `biased` or `unbiased`.
        scheme: As for `null_sample`.
        threads: Threads to use.
        progress: Told of the work.

    Raises:
        OrdtoolError: If there are no kernels.
    """
    if not left or not right:
        raise OrdtoolError("an aggregated test needs at least one bandwidth a side")
    kernels = [*left, *right]
    pairs = [(i, len(left) + j) for i in range(len(left)) for j in range(len(right))]
    sums = kernel_sums(kernels, pairs, threads=threads, kept="sums", progress=progress)
    sample = null_sample(
        sums,
        pairs,
        permutations=permutations,
        seed=seed,
        estimator=estimator,
        scheme=scheme,
        threads=threads,
        progress=progress,
    )
    centred_moments = [UCentredMoments.from_kernel(kernel) for kernel in kernels]
    tails = np.stack(
        [
            null_moments(sums, a, b, (centred_moments[a], centred_moments[b]), estimator).tails(values)
            for (a, b), values in zip(pairs, sample.values, strict=True)
        ]
    )
    extremes = tails.min(axis=0)
    # Statistics that differ by rounding have tails that differ by as little.
    p_value = float((extremes <= extremes[0] * (1 + 10 * sample.tie)).mean())
    # Of tails too small for a float, the highest statistic in units of its spread.
    spread = sample.values.std(axis=1)
    heights = np.divide(sample.values[:, 0], spread, out=np.zeros(len(pairs)), where=spread > 0)
    best = int(np.lexsort((-heights, tails[:, 0]))[0])
    singles = sample.p_values().reshape(len(left), len(right))
    return AggregatedTest(p_value, divmod(best, len(right)), singles)
