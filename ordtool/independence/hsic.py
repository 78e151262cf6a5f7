r"""HSIC: how much do two sets of vectors depend on each other, and could it be chance?

$$\mathrm{HSIC} = \lVert E[\phi(x) \otimes \psi(y)] - E[\phi(x)] \otimes E[\psi(y)] \rVert^2$$

for the feature maps of two kernels (Gretton et al. 2005). It is 0 for independent variables and, with kernels
such as the gaussian, for no others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ordtool.independence.adjustment import holm
from ordtool.independence.aggregation import aggregated_test
from ordtool.independence.conditional import conditional_sums, gamma_p_value, local_permutations
from ordtool.independence.config import DRAWN, HsicConfig, HsicOptions, HsicResult
from ordtool.independence.features import random_features
from ordtool.independence.gamma import UCentredMoments, null_moments
from ordtool.independence.kernel_sums import KernelSums, kernel_sums
from ordtool.independence.kernels import WITH_BANDWIDTH, Kernel, PrecomputedKernel, fit_kernel
from ordtool.independence.normalized import normalized_matrix
from ordtool.independence.permutation import null_sample
from ordtool.independence.subsampling import subsampled_hsic
from ordtool.independence.validation import as_rows, check_aligned, compute_dtype, encode_labels
from ordtool.io.stages import once, part, seconds_before
from ordtool.parallel import ordered_map
from ordtool.progress import SILENT, Progress

Array = NDArray[Any]
Pair = tuple[int, int]

__all__ = ["HsicConfig", "HsicResult", "compare", "hsic"]


def hsic(
    x: ArrayLike,
    y: ArrayLike,
    config: HsicConfig | None = None,
    *,
    given: ArrayLike | None = None,
    progress: Progress = SILENT,
    **options: Unpack[HsicOptions],
) -> HsicResult:
    """Measure and test the dependence between two sets of vectors, once a third is known if one is given.

    Args:
        x: `(rows, dim)`, or `(rows,)` for numbers, or strings, which are class labels; row i belongs to row i of `y`.
        y: `(rows, other dim)`, likewise.
        config: How; None is the default.
        given: Vectors or labels z, likewise: the dependence that is left when z is known (KCI; see `conditional`).
        progress: Told of the work.
        **options: Fields of `HsicConfig`, instead of or on top of `config`.

    Returns:
        The statistic, CKA, and the p-value of the test.

    Raises:
        UsageError: For options that make no sense.
        OrdtoolError: For rows that don't match, fewer than four of them, NaN or infinities.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> x = rng.standard_normal((200, 2))
        >>> hsic(x, x**2).p_value < 0.01
        True
    """
    config = replace(config or HsicConfig(), **options)
    variables = [("x", _as_vectors(x, "x")), ("y", _as_vectors(y, "y"))]
    known = None if given is None else ("given", _as_vectors(given, "given"))
    return compare(variables, [(0, 1)], config, given=known, progress=progress)[0]


def _as_vectors(given: ArrayLike, name: str) -> Array:
    """Return strings, which are class labels, as unit vectors, and all else as an array."""
    array = np.asanyarray(given)
    words = array.dtype.kind in "UT" or (
        array.dtype.kind == "O" and all(isinstance(one, str) for one in array.flat)
    )
    return encode_labels(array, name)[0] if words else array


def compare(
    variables: Sequence[tuple[str, Array]],
    pairs: Sequence[Pair],
    config: HsicConfig,
    *,
    given: tuple[str, Array] | None = None,
    progress: Progress = SILENT,
) -> list[HsicResult]:
    """Measure and test the dependence of several pairs in one pass over the rows.

    Args:
        variables: Names and vectors, all of the same number of rows.
        pairs: Which to compare, as indices, left and right.
        config: How.
        given: Name and vectors of what is known; None compares without.
        progress: Told of the work, and warned of variables that depend on nothing.

    Returns:
        One result a pair, in their order, with `p_adjusted` where there are several. A variable whose rows are all
        the same, or all equally far from each other, depends on nothing: its statistic is 0, its CKA None and its
        p-value 1.

    Raises:
        UsageError: For options that make no sense.
        OrdtoolError: As `hsic`.
    """
    started = time.perf_counter()
    names = [name for name, _ in variables]
    everything = [*variables, *([] if given is None else [given])]
    check_aligned([rows for _, rows in everything], [name for name, _ in everything])
    checked = [as_rows(rows, name) for name, rows in everything]
    if given is not None:
        config.check_given()
        answers = _one_by_one(pairs, lambda pair: _conditional(checked, pair, config, progress))
    elif config.test == "aggregated":
        answers = _one_by_one(pairs, lambda pair: _aggregated(checked, pair, config, progress))
    else:
        answers = _single(checked, pairs, config, progress)
    seconds = seconds_before() + time.perf_counter() - started
    _warn(names, pairs, answers, progress)
    return _adjust(
        [
            replace(
                _result(config, names[a], names[b], len(checked[0]), answer, seconds),
                given=None if given is None else given[0],
            )
            for (a, b), answer in zip(pairs, answers, strict=True)
        ]
    )


def _adjust(results: list[HsicResult]) -> list[HsicResult]:
    """Correct p-values for the number of pairs, where there are several."""
    p_values = [result.p_value for result in results if result.p_value is not None]
    if len(results) < 2 or len(p_values) < len(results):
        return results
    return [replace(result, p_adjusted=p) for result, p in zip(results, holm(p_values), strict=True)]


_WARNINGS = {
    "constant": "all rows are the same, and a constant depends on nothing (statistic 0, p 1)",
    "equidistant": "to this kernel all rows are equally far from each other (or all but one the same), "
    "so they can't depend on anything (statistic 0, p 1)",
}


def _warn(
    names: Sequence[str], pairs: Sequence[Pair], answers: Sequence[_Answer], progress: Progress
) -> None:
    """Warn once of each variable that depends on nothing, and say why."""
    reasons = {
        index: reason
        for pair, answer in zip(pairs, answers, strict=True)
        for index, reason in zip(pair, answer.degenerate, strict=True)
        if reason is not None
    }
    for index, reason in sorted(reasons.items()):
        progress.warn(f"{names[index]}: {_WARNINGS[reason]}")


@dataclass(frozen=True, slots=True)
class _Answer:
    statistic: float
    cka: float | None
    p_value: float | None
    bandwidths: tuple[float | None, float | None]
    degenerate: tuple[str | None, str | None]
    interval: tuple[float, float] | None = None


def _one_by_one(pairs: Sequence[Pair], answer: Callable[[Pair], _Answer]) -> list[_Answer]:
    """Answer for each pair apart; a resumed run takes up the answers of the interrupted one."""
    answers = []
    for number, pair in enumerate(pairs):
        with part(f"pair-{number}"):
            found = once("answer", lambda pair=pair: asdict(answer(pair)))  # type: ignore[misc]
        lists = {name: tuple(value) for name, value in found.items() if isinstance(value, list)}
        answers.append(_Answer(**{**found, **lists}))
    return answers


def _result(config: HsicConfig, x: str, y: str, rows: int, answer: _Answer, seconds: float) -> HsicResult:
    kernels = config.kernels()
    return HsicResult(
        x=x,
        y=y,
        n=rows,
        kernel=kernels[0] if kernels[0] == kernels[1] else ",".join(kernels),
        bandwidth_x=answer.bandwidths[0],
        bandwidth_y=answer.bandwidths[1],
        estimator=config.estimator,
        statistic=answer.statistic,
        cka=answer.cka,
        test=config.test,
        p_value=answer.p_value,
        permutations=config.permutations if config.test in DRAWN else None,
        seed=config.seed,
        seconds=round(seconds, 6),
        interval=answer.interval,
        random_features=config.random_features,
        multiples=config.multiples if tuple(config.multiples) != (1.0,) else None,
    )


def _single(
    checked: Sequence[Array], pairs: Sequence[Pair], config: HsicConfig, progress: Progress
) -> list[_Answer]:
    plain, placed = _fit_sides(checked, pairs, config)
    if config.test == "block":
        return _one_by_one(placed, lambda pair: _block(plain[pair[0]], plain[pair[1]], config, progress))
    kernels = plain
    estimator, factor = _summed_estimator(config.estimator, len(checked[0]))
    if estimator == "normalized":
        kernels = [PrecomputedKernel(normalized_matrix(kernel, config.epsilon)) for kernel in plain]
        # tr(K' L') of centred matrices is n^2 times their biased statistic.
        estimator, factor = "biased", float(kernels[0].rows ** 2)
    sums = kernel_sums(
        kernels, placed, threads=config.threads, device=config.device, kept="sums", progress=progress
    )
    p_values = _p_values(sums, placed, estimator, config, progress)
    return [
        _Answer(
            statistic=sums.estimate(a, b, estimator) * factor,
            cka=sums.cka(a, b, estimator),
            p_value=p_value,
            bandwidths=(plain[a].bandwidth, plain[b].bandwidth),
            degenerate=(_degenerate(plain[a], sums, a, estimator), _degenerate(plain[b], sums, b, estimator)),
        )
        for (a, b), p_value in zip(placed, p_values, strict=True)
    ]


def _summed_estimator(estimator: str, rows: int) -> tuple[str, float]:
    """Return the estimator whose sums are taken, and what its statistic is multiplied by."""
    if estimator == "gretton":
        return "biased", (rows / (rows - 1)) ** 2
    return estimator, 1.0


def _degenerate(kernel: Kernel, sums: KernelSums, index: int, estimator: str) -> str | None:
    """Return why a variable depends on nothing; None if it may depend."""
    if kernel.constant:
        return "constant"
    return "equidistant" if sums.says_nothing(index, estimator) else None


def _fit_sides(
    checked: Sequence[Array], pairs: Sequence[Pair], config: HsicConfig
) -> tuple[list[Kernel], list[Pair]]:
    """Fit each variable once a side, or once in all where both sides take the same kernel."""
    names, bandwidths = config.kernels(), config.bandwidths()
    same = names[0] == names[1] and bandwidths[0] == bandwidths[1]
    numbers: dict[Pair, int] = {}
    for pair in pairs:
        for side, variable in enumerate(pair):
            numbers.setdefault((variable, 0 if same else side), len(numbers))

    def fit(key: Pair) -> Kernel:
        variable, side = key
        return _fit(checked[variable], names[side], bandwidths[side], variable, config)

    kernels = list(ordered_map(fit, list(numbers), config.threads))
    return kernels, [(numbers[left, 0], numbers[right, 0 if same else 1]) for left, right in pairs]


def _fit(rows: Array, name: str, bandwidth: float | None, variable: int, config: HsicConfig) -> Kernel:
    dtype = compute_dtype(rows, config.dtype)
    if config.random_features is not None and name in WITH_BANDWIDTH:
        return random_features(rows, name, bandwidth, config.random_features, config.seed, variable, dtype)
    return fit_kernel(rows, name, bandwidth, dtype, config.multiples)


def _p_values(
    sums: KernelSums,
    pairs: Sequence[Pair],
    estimator: str,
    config: HsicConfig,
    progress: Progress,
) -> Sequence[float | None]:
    if config.test == "none":
        return [None] * len(pairs)
    if config.test == "gamma":
        centred_moments = [UCentredMoments.from_kernel(kernel) for kernel in sums.kernels]
        return [
            null_moments(sums, a, b, (centred_moments[a], centred_moments[b]), estimator).p_value(
                sums.raw_estimate(a, b, estimator)
            )
            for a, b in pairs
        ]
    sample = null_sample(
        sums,
        pairs,
        permutations=config.permutations,
        seed=config.seed,
        estimator=estimator,
        scheme=config.scheme,
        threads=config.threads,
        progress=progress,
    )
    return [float(p_value) for p_value in sample.p_values()]


def _block(left: Kernel, right: Kernel, config: HsicConfig, progress: Progress) -> _Answer:
    estimate = subsampled_hsic(
        left,
        right,
        group_rows=config.group_rows,
        confidence=config.confidence,
        seed=config.seed,
        threads=config.threads,
        progress=progress,
    )
    return _Answer(
        estimate.statistic,
        estimate.cka,
        estimate.p_value,
        (left.bandwidth, right.bandwidth),
        ("constant" if left.constant else None, "constant" if right.constant else None),
        (estimate.low, estimate.high),
    )


def _conditional(checked: Sequence[Array], pair: Pair, config: HsicConfig, progress: Progress) -> _Answer:
    """Answer for a pair given the last of the variables."""
    z, double = checked[-1], np.dtype(np.float64)
    left, right = (
        fit_kernel(checked[variable], name, bandwidth, double, config.multiples)
        for variable, name, bandwidth in zip(pair, config.kernels(), config.bandwidths(), strict=True)
    )
    bandwidths = (left.bandwidth, right.bandwidth)
    constant = ("constant" if left.constant else None, "constant" if right.constant else None)
    p_value: float | None = None if config.test == "none" else 1.0
    if any(constant):
        return _Answer(0.0, None, p_value, bandwidths, constant)
    sums = conditional_sums(left, right, z, device=config.device, progress=progress)
    if config.test == "gamma":
        p_value = gamma_p_value(sums)
    elif config.test == "permutation":
        p_value = local_permutations(
            sums, z, config.permutations, config.seed, progress, device=config.device
        )
    statistic = sums.statistic(config.estimator) * left.scale * right.scale
    return _Answer(statistic, None, p_value, bandwidths, constant)


def _aggregated(checked: Sequence[Array], pair: Pair, config: HsicConfig, progress: Progress) -> _Answer:
    sides = [
        _grid(checked[variable], name, config) for variable, name in zip(pair, config.kernels(), strict=True)
    ]
    estimator, factor = _summed_estimator(config.estimator, len(checked[pair[0]]))
    test = aggregated_test(
        sides[0],
        sides[1],
        permutations=config.permutations,
        seed=config.seed,
        estimator=estimator,
        scheme=config.scheme,
        threads=config.threads,
        progress=progress,
    )
    best = [side[index] for side, index in zip(sides, test.best, strict=True)]
    sums = kernel_sums(best, [(0, 1)], threads=config.threads)
    return _Answer(
        sums.estimate(0, 1, estimator) * factor,
        sums.cka(0, 1, estimator),
        test.p_value,
        (best[0].bandwidth, best[1].bandwidth),
        (_degenerate(best[0], sums, 0, estimator), _degenerate(best[1], sums, 1, estimator)),
    )


def _grid(rows: Array, name: str, config: HsicConfig) -> list[Kernel]:
    """Fit a kernel at each multiple of its median bandwidth; once if it has no bandwidth."""
    dtype = compute_dtype(rows, config.dtype)
    first = fit_kernel(rows, name, dtype=dtype)
    if first.bandwidth is None:
        return [first]
    return [fit_kernel(rows, name, first.bandwidth * multiple, dtype) for multiple in config.grid]
