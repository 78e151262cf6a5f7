r"""From statistics to the matrix of a whitening: eigenvalues, rank, shrinkage and the four methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from ordtool.embedding.statistics import EQUAL, DataError, Float64Array, Moments
from ordtool.errors import UsageError, close_match_hint

METHODS = ("pca", "zca", "cholesky", "abtt")
COVARIANCES = ("shifted", "centred")
RANK_TOLERANCE = 1e-10
# Fewer rows than this many times the columns, and the smallest variances are mostly estimation error.
FEW = 2
# Standard deviations that differ less than this don't push a direction below the tolerance.
MIXED_SCALES = 1e3
# Columns that vary less than this beside the usual one, and are few, are dead: a model left in them what rounding leaves.
DEAD = 1e-6
FEW_DEAD = 20


class ParameterError(UsageError, ValueError):
    """An option of a whitening that has no meaning; a `ValueError` too, as numerical libraries expect."""


@dataclass(frozen=True, slots=True)
class WhiteningConfig:
    """The options of a whitening; `Whitening` explains each."""

    dims: int | None = None
    beta: float = 1.0
    gamma: float = 1.0
    method: str = "pca"
    ridge: float = 0.0
    shrinkage: float | str | None = None
    normalize: bool = False
    remove: int | None = None
    standardize: bool = False
    covariance: str = "shifted"

    def __post_init__(self) -> None:
        """Check that the options make sense.

        Raises:
            ParameterError: naming the option, what was found and what it may be.
        """
        _check_numbers(self)
        for name in ("normalize", "standardize"):
            if not isinstance(value := getattr(self, name), bool | np.bool_):
                raise ParameterError(f"`{name}` must be True or False, found {value!r}")
            object.__setattr__(self, name, bool(value))
        if self.dims is not None and self.method != "pca":
            raise ParameterError(
                f"`dims` goes with `method` pca: {self.method} keeps the input's axes",
                "use `method` pca, or leave out `dims`",
            )
        if self.remove is not None and self.method != "abtt":
            raise ParameterError(
                "`remove` goes with `method` abtt", "use `method` abtt, or `dims` to keep fewer directions"
            )


class WhiteningOptions(TypedDict, total=False):
    """The fields of `WhiteningConfig` but for `dims`, as keywords of `Whitening`."""

    beta: float
    gamma: float
    method: str
    ridge: float
    shrinkage: float | str | None
    normalize: bool
    remove: int | None
    standardize: bool
    covariance: str


@dataclass(frozen=True, slots=True)
class WhiteningMap:
    """What the statistics give for one set of options.

    Attributes:
        kernel: `(dim, width)`, float64; `(x - beta * mean) @ kernel` is the transform.
        condition: the largest over the smallest factor by which the map stretches a direction it keeps.
        eigenvalues: of the matrix that is whitened, all of them, largest first, `(dim,)`.
        rank: how many directions have an eigenvalue above `RANK_TOLERANCE` of the largest.
        shrinkage: the weight that was used, also when it was estimated.
        notes: what a person should know about this fit, a line each.
    """

    kernel: Float64Array
    condition: float
    eigenvalues: Float64Array
    rank: int
    shrinkage: float
    notes: tuple[str, ...]


def solve(moments: Moments, options: WhiteningConfig) -> WhiteningMap:
    """Turn statistics into the map that `options` ask for.

    Raises:
        DataError: fewer than two rows, rows that are all equal, or a covariance that `cholesky` cannot invert.
    """
    covariance = _whitened_matrix(moments, options)
    constant = _constant_columns(moments)
    if constant.all():
        raise DataError(
            f"all {moments.count:,} rows are equal: there is no direction to whiten",
            hint="check the vectors: numpy.load(f).std(axis=0)",
        )
    deviations = np.where(constant, np.inf, np.sqrt(moments.covariance().diagonal()))
    values, vectors = eigen(
        covariance / np.outer(deviations, deviations) if options.standardize else covariance
    )
    rank = _rank(values)
    shrinkage = (
        oas_shrinkage(values, moments.count) if options.shrinkage == "oas" else float(options.shrinkage or 0)
    )
    conditioned = (1 - shrinkage) * values + shrinkage * values.mean() + options.ridge
    usable = _rank(conditioned)
    with np.errstate(divide="ignore"):
        scales = np.where(np.arange(values.size) < usable, conditioned, np.inf) ** (-options.gamma / 2)
    if options.gamma == 0:
        scales[usable:] = 0.0
    kernel = _KERNELS[options.method](vectors, scales, usable, options)
    if options.standardize:
        kernel /= deviations[:, None]
    kept = scales[: min(usable, options.dims or usable)]
    condition = 1.0 if options.method == "abtt" else float(kept.max() / kept.min())
    mixed = usable < values.size and not options.standardize and _loses_by_scale(covariance, deviations, rank)
    notes = tuple(_notes(moments, options, (rank, usable), deviations, mixed))
    return WhiteningMap(kernel, condition, values, rank, shrinkage, notes)


def _whitened_matrix(moments: Moments, options: WhiteningConfig) -> Float64Array:
    r"""Return the matrix whose directions are whitened, `(dim, dim)`.

    `shifted`: $\Sigma(\beta) = \frac{1}{n-1} \sum_i (x_i - \beta \mu)(x_i - \beta \mu)^\top$, which is the covariance plus
    $\frac{n}{n-1} (1 - \beta)^2 \mu \mu^\top$, so that no row is read again (Su 2022, kexue.fm/9079, whose factor is
    $1/n$: it has the same directions, and cosines are the same). `centred`: the covariance, whatever `beta` is.
    """
    matrix = moments.covariance()
    left = 1 - options.beta
    if options.covariance == "centred" or left == 0:
        return matrix
    mean = left * np.sqrt(moments.count / (moments.count - 1)) * moments.mean
    return matrix + np.outer(mean, mean)


def _rank(values: Float64Array) -> int:
    return int((values > RANK_TOLERANCE * values[0]).sum())


def _loses_by_scale(covariance: Float64Array, deviations: Float64Array, rank: int) -> bool:
    """Whether directions are cut for no other reason than that their columns are small beside others."""
    used = np.isfinite(deviations) & ~_dead_columns(deviations)
    varying = deviations[used]
    if varying.max() < MIXED_SCALES * varying.min():
        return False
    return _rank(eigen(covariance[np.ix_(used, used)] / np.outer(varying, varying))[0]) > rank


def _dead_columns(deviations: Float64Array) -> NDArray[np.bool_]:
    """Return which columns vary so little that they tell nothing, `(dim,)`; constant ones, whose deviation is inf, aside.

    None are where there would be many: then they have another unit.
    """
    dead: NDArray[np.bool_] = deviations < DEAD * np.median(deviations[np.isfinite(deviations)])
    return dead if FEW_DEAD * dead.sum() <= dead.size else np.zeros_like(dead)


def eigen(covariance: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Eigenvalues, largest first and none below zero, and eigenvectors with fixed signs as columns.

    An eigenvector's entry of largest magnitude is made positive, so that the same data gives the same vectors.
    """
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    largest = np.abs(vectors).argmax(axis=0)
    return values, np.ascontiguousarray(vectors * np.sign(vectors[largest, np.arange(largest.size)]))


def oas_shrinkage(eigenvalues: Float64Array, count: int) -> float:
    """Oracle-approximating shrinkage of a covariance (Chen et al. 2010, eq. 23), from its eigenvalues.

    The weight doesn't depend on the covariance's scale, so `n` or `n - 1` in its denominator is the same.
    """
    square_trace, trace_square = float((eigenvalues**2).sum()), float(eigenvalues.sum()) ** 2
    dim = eigenvalues.size
    numerator = (1 - 2 / dim) * square_trace + trace_square
    denominator = (count + 1 - 2 / dim) * (square_trace - trace_square / dim)
    return 1.0 if denominator <= 0 else min(1.0, numerator / denominator)


def _pca(vectors: Float64Array, scales: Float64Array, usable: int, options: WhiteningConfig) -> Float64Array:
    width = min(usable, options.dims or usable)
    return np.ascontiguousarray(vectors[:, :width] * scales[:width])


def _zca(vectors: Float64Array, scales: Float64Array, usable: int, options: WhiteningConfig) -> Float64Array:
    return (vectors * scales) @ vectors.T


def _cholesky(
    vectors: Float64Array, scales: Float64Array, usable: int, options: WhiteningConfig
) -> Float64Array:
    if usable < scales.size and options.gamma != 0:
        raise DataError(
            f"cholesky needs a covariance of full rank, and this one has rank {usable} of {scales.size}",
            hint="add `shrinkage` 0.1, or use `method` pca or zca, which leave out what does not vary",
        )
    # LL^T = Sigma^-gamma; QR gives L without forming the product, which would square the condition number.
    upper = np.linalg.qr((vectors * scales).T, mode="r")
    return np.ascontiguousarray((upper * np.sign(np.diagonal(upper))[:, None]).T)


def _abtt(vectors: Float64Array, scales: Float64Array, usable: int, options: WhiteningConfig) -> Float64Array:
    dim = vectors.shape[0]
    top = vectors[:, : default_removal(dim) if options.remove is None else options.remove]
    return np.eye(dim) - top @ top.T


_Kernel = Callable[[Float64Array, Float64Array, int, WhiteningConfig], Float64Array]
_KERNELS: dict[str, _Kernel] = {"pca": _pca, "zca": _zca, "cholesky": _cholesky, "abtt": _abtt}


def default_removal(dim: int) -> int:
    """Directions `abtt` removes by default: a hundredth of the width, at least one (Mu & Viswanath 2018, sec. 2.2)."""
    return max(1, dim // 100)


def _notes(
    moments: Moments, options: WhiteningConfig, ranks: tuple[int, int], deviations: Float64Array, mixed: bool
) -> Iterator[str]:
    """Say what to know about a fit; `mixed`: the columns' scales cost directions."""
    dim, (rank, usable) = moments.dim, ranks
    dead = int(_dead_columns(deviations).sum())
    if mixed:
        varying = deviations[np.isfinite(deviations)]
        yield (
            f"the columns' scales differ, standard deviations from {varying.min():.2g} to {varying.max():.2g}: "
            f"beside the largest {dim - usable} of {dim} directions that do vary are cut; "
            "`standardize` puts all columns on one scale"
        )
    elif _spreads_noise(moments, options, rank):
        yield (
            f"{moments.count:,} rows for {dim} columns: the covariance has rank {rank}, its weak directions are noise, "
            "and whitening scales them up; give more rows, `shrinkage=0.3` (or oas), or fewer `dims`"
        )
    elif usable < dim and options.dims is None and options.method in ("pca", "zca"):
        constant = int((~np.isfinite(deviations)).sum())
        kinds = [f"{constant} of the columns are constant"] * bool(constant)
        kinds += [f"{dead} of the columns hardly vary"] * bool(dead)
        reason = f" ({', '.join(kinds)})" if kinds else ""
        yield f"the rank is {rank} of {dim}{reason}: directions that don't vary are left out"
    if dead and options.standardize:
        yield f"{dead} of the columns hardly vary beside the others: `standardize` makes noise as large as what they say"
    if options.method == "pca" and (options.dims or 0) > usable:
        what = "are left" if mixed else "vary"
        yield f"{options.dims} columns were asked for and {usable} directions {what}: the output has {usable} columns"


def _spreads_noise(moments: Moments, options: WhiteningConfig, rank: int) -> bool:
    """Whether directions that too few rows can't tell from noise are scaled up; worst with `n` close to `dim`."""
    whitens = options.method != "abtt" and options.gamma > 0 and not options.shrinkage and not options.ridge
    keeps_most = options.dims is None or 2 * options.dims > rank
    return whitens and keeps_most and moments.count < FEW * moments.dim


def _constant_columns(moments: Moments) -> NDArray[np.bool_]:
    """Return which columns hold one number, `(dim,)`."""
    deviations = np.sqrt(np.diagonal(moments.scatter).clip(0) / moments.count)
    constant: NDArray[np.bool_] = deviations <= EQUAL * np.abs(moments.mean)
    return constant


def _check_numbers(options: WhiteningConfig) -> None:
    if options.method not in METHODS:
        raise ParameterError(
            f"unknown method {options.method!r}", close_match_hint(str(options.method), METHODS)
        )
    if options.covariance not in COVARIANCES:
        raise ParameterError(
            f"unknown covariance {options.covariance!r}",
            close_match_hint(str(options.covariance), COVARIANCES),
        )
    for name, least in (("dims", 1), ("remove", 0)):
        value = getattr(options, name)
        if value is not None and (isinstance(value, bool) or int(value) != value or value < least):
            raise ParameterError(f"`{name}` must be an integer of {least} or more, found {value!r}")
    for name in ("beta", "gamma"):
        if not 0 <= getattr(options, name) <= 1:
            raise ParameterError(f"`{name}` must be from 0 to 1, found {getattr(options, name)!r}")
    if not (math.isfinite(options.ridge) and options.ridge >= 0):
        raise ParameterError(f"`ridge` must be 0 or more, found {options.ridge!r}")
    if options.shrinkage is None or options.shrinkage == "oas":
        return
    if isinstance(options.shrinkage, str) or not 0 <= options.shrinkage <= 1:
        raise ParameterError(
            f"`shrinkage` must be a number from 0 to 1, or 'oas', found {options.shrinkage!r}"
        )
