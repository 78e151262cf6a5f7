r"""The permutation distribution of HSIC, thousands of permutations at a time.

Under independence the rows of $y$ may be shuffled against those of $x$, so the statistic is compared with
its values after shuffles. Every value is a sum over all pairs, which costs $O(n^2)$ and, worse, gathers
$n^2$ numbers from memory.

**Shuffles that share their work.** Put the rows into a random order $\sigma$, and $y$'s rows into the same
order shifted by $s$ places, round and round. The shifts $s = 0, \dots, n - 1$ are a group of permutations,
conjugated by a random one. A test against a group is exact (Hemerik & Goeman 2018, theorem 1; Koning &
Hemerik 2024 for small groups), and so is one against random members of it. In that order the pairs $(i, i +
\delta)$ of each distance $\delta$ are a sequence which a shift only rotates:

$$T(s) = \sum_{\delta = 1}^{n-1} \sum_i K_{i, i + \delta} L_{i + s, i + s + \delta}$$

is a sum of circular correlations. One Fourier transform over every $\delta \le n/2$ gives $T$ for all $n$
shifts in $O(n^2 \log n)$ together, instead of $O(n^2)$ each. More than $n - 1$ permutations are drawn from
further cosets: the shifts after another uniformly random permutation of $y$, which keeps the test exact,
since the whole set has the same distribution seen from each of its members.

**Independent shuffles**, the textbook's, are there too: for few rows, and to compare with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ordtool.errors import OrdtoolError, UsageError, close_match_hint
from ordtool.independence.cyclic import coset_statistics
from ordtool.independence.gamma import null_variance
from ordtool.independence.kernel_sums import KernelSums
from ordtool.independence.shuffles import shuffle_statistics
from ordtool.progress import SILENT, Progress

Float64Array = NDArray[np.float64]
Pair = tuple[int, int]

SCHEMES = ("auto", "cyclic", "independent")
FEW_ROWS = 64
"""Below this many rows `auto` draws independent shuffles."""
MAX_PERMUTATIONS = 10_000_000
# Statistics whose difference is rounding count as equal: ties are frequent where the data are labels.
_TIE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-10}


@dataclass(frozen=True)
class NullSample:
    """Statistics of a pair of variables under permutations.

    Attributes:
        values: The observed statistic, then one a permutation; `(pairs, 1 + permutations)`.
        tie: Differences below this many standard deviations are rounding.
        scheme: `cyclic` or `independent`.
    """

    values: Float64Array
    tie: float
    scheme: str

    def p_values(self) -> Float64Array:
        r"""Return $(1 + \#\{T_\pi \ge T\}) / (1 + B)$ for each pair, ties counted, `(pairs,)`."""
        observed, others = self.values[:, :1], self.values[:, 1:]
        slack = self.tie * others.std(axis=1, keepdims=True)
        at_least = (others >= observed - slack).sum(axis=1)
        return np.asarray((1 + at_least) / (1 + others.shape[1]))


def null_sample(
    sums: KernelSums,
    pairs: Sequence[Pair],
    *,
    permutations: int = 1000,
    seed: int = 0,
    estimator: str = "unbiased",
    scheme: str = "auto",
    threads: int | None = None,
    progress: Progress = SILENT,
) -> NullSample:
    """Return the statistic of each pair of kernels, as observed and under permutations of the second.

    The same permutations serve all pairs, so a pair's p-value is the same beside other pairs and alone.

    Args:
        sums: Of the kernels.
        pairs: Indices of the kernels to compare.
        permutations: How many.
        seed: Of the permutations.
        estimator: `biased` or `unbiased`.
        scheme: `cyclic`, `independent`, or `auto`: independent below `FEW_ROWS` rows.
        threads: Threads to use; None is one a core.
        progress: Told of the work as it is done.

    Raises:
        UsageError: For an unknown scheme.
        OrdtoolError: If the number of permutations is not possible.
    """
    check_scheme(scheme)
    check_permutations(permutations)
    if scheme == "auto":
        scheme = "cyclic" if sums.rows >= FEW_ROWS else "independent"
    rng = np.random.default_rng([seed, 0x48534943])
    draw = coset_statistics if scheme == "cyclic" else shuffle_statistics
    values = draw(sums, pairs, permutations, rng, estimator, threads, progress)
    for row, (a, b) in enumerate(pairs):
        if sums.says_nothing(a, estimator) or sums.says_nothing(b, estimator):
            values[row] = 0
        elif null_variance(sums, a, b, estimator) == 0:
            values[row] = values[row, 0]
    dtype = np.result_type(*(kernel.dtype for kernel in sums.kernels))
    return NullSample(values, _TIE.get(np.dtype(dtype), 1e-5), scheme)


def check_scheme(scheme: str) -> None:
    """Raise a UsageError for an unknown scheme."""
    if scheme not in SCHEMES:
        raise UsageError(f"unknown scheme {scheme!r}", close_match_hint(scheme, SCHEMES))


def check_permutations(permutations: int) -> None:
    """Raise an OrdtoolError for a number of permutations that can't be drawn."""
    if not 1 <= permutations <= MAX_PERMUTATIONS:
        raise OrdtoolError(
            f"{permutations} permutations are not possible", f"give a number from 1 to {MAX_PERMUTATIONS}"
        )
