r"""Whitening: the linear map after which vectors have no preferred direction.

BERT-whitening (Su, Cao, Liu & Ou 2021, arXiv:2103.15316, eq. 5-8) and its two softening exponents
(Su 2022, kexue.fm/9079): with the mean $\mu$ and the covariance $\Sigma = U \Lambda U^\top$ of the vectors,

$$\tilde x = (x - \beta \mu) \, U_k \Lambda_k^{-\gamma / 2}.$$

$\beta = \gamma = 1$ whitens; $\beta = \gamma = 0$ with $k < d$ only rotates and cuts, which keeps the geometry of a
tuned model almost whole. Deviations: the covariance is the unbiased one, directions without variance are cut
(the paper divides by them), and the signs of eigenvectors are fixed so that the same data gives the same map.
"""

from __future__ import annotations

import inspect
import math
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ordtool.embedding.statistics import (
    DataError,
    Float64Array,
    FloatArray,
    Moments,
    accumulate,
    check_finite_rows,
    row_chunks,
)
from ordtool.errors import UsageError, close_match_hint
from ordtool.progress import SILENT, Progress

METHODS = ("pca", "zca", "cholesky", "abtt")
RANK_TOLERANCE = 1e-10


class WhiteningWarning(UserWarning):
    """The map was fitted, and something about the data or the options makes it weaker than it looks."""


class ParameterError(UsageError, ValueError):
    """An option of `Whitening` that has no meaning; a `ValueError` too, as numerical libraries expect."""


@dataclass(frozen=True, slots=True)
class Solution:
    """What the statistics give for one set of options.

    Attributes:
        kernel: `(dim, width)`, float64; `(x - beta * mean) @ kernel` is the transform.
        eigenvalues: of the covariance, all of them, largest first, `(dim,)`.
        rank: how many directions have a variance above `RANK_TOLERANCE` of the largest.
        shrinkage: the weight that was used, also when it was estimated.
        notes: what a person should know about this fit, a line each.
    """

    kernel: Float64Array
    eigenvalues: Float64Array
    rank: int
    shrinkage: float
    notes: tuple[str, ...]


class Whitening:
    r"""Whiten vectors: zero mean, unit variance in every direction, no correlation.

    An estimator in scikit-learn's manner that doesn't need scikit-learn. It is fitted in one pass over any
    number of rows, in any number of parts.

    Args:
        dims: output columns, the `k` directions of most variance (`pca` only); None keeps all that vary.
        beta: how much of the mean is subtracted, 0 to 1.
        gamma: how much of the spread is equalised, 0 to 1; the spectrum becomes $\lambda^{1 - \gamma}$.
        method: `pca` (rotate to principal axes and scale), `zca` (the same, rotated back: nearest to the
            input), `cholesky` (triangular, $LL^\top = \Sigma^{-\gamma}$) or `abtt` (all-but-the-top: subtract the
            mean and the `remove` strongest directions, Mu & Viswanath 2018; `gamma` has no part in it).
        ridge: added to every eigenvalue, in units of variance.
        shrinkage: weight of $\frac{\operatorname{tr} \Sigma}{d} I$ in the covariance, 0 to 1, or `oas` to estimate it
            (Chen, Wiesel, Eldar & Hero 2010, eq. 23); for few rows.
        normalize: scale every output row to length 1 (cosine similarities don't need it).
        remove: directions that `abtt` removes; None is a hundredth of the width, at least 1.

    Attributes:
        moments_: the statistics of all rows seen, which `merge` adds up.
        mean_: `(dim,)`, float64.
        kernel_: `(dim, width)`, float64: `transform(x)` is `(x - beta * mean_) @ kernel_`.
        eigenvalues_: of the covariance, largest first, `(dim,)`.
        rank_: directions that vary.
        shrinkage_: the shrinkage that was used.
        n_samples_seen_: rows seen.
        n_features_in_: columns of the input.
        fitted_on_: what the rows were, for people.
        notes_: what to know about the fit, a line each; `fit` also issues them as `WhiteningWarning`.
    """

    def __init__(
        self,
        dims: int | None = None,
        *,
        beta: float = 1.0,
        gamma: float = 1.0,
        method: str = "pca",
        ridge: float = 0.0,
        shrinkage: float | str | None = None,
        normalize: bool = False,
        remove: int | None = None,
    ) -> None:
        self.dims = dims
        self.beta = beta
        self.gamma = gamma
        self.method = method
        self.ridge = ridge
        self.shrinkage = shrinkage
        self.normalize = normalize
        self.remove = remove

    # ------------------------------------------------------------------ fitting

    def fit(self, X: Any, y: object = None, *, progress: Progress = SILENT) -> Whitening:
        """Fit on the rows of `X`, `(n, dim)`; an array, or a memory map larger than memory.

        Raises:
            DataError: fewer than two rows, a NaN or an infinity (rows named by index), or rows that are all equal.
            ParameterError: an option without meaning.
        """
        check_parameters(self)
        array = as_rows(X)
        self._forget()
        self._set_moments(accumulate(array, progress=progress), describe_source(X, array.shape[0]))
        for note in self.solve().notes:
            warnings.warn(note, WhiteningWarning, stacklevel=2)
        return self

    def partial_fit(self, X: Any, y: object = None) -> Whitening:
        """Add the rows of `X` to what was seen; the map is solved when it is next needed.

        Raises:
            DataError: as in `fit`, or another width than before.
            ParameterError: an option without meaning.
        """
        check_parameters(self)
        array = as_rows(X)
        if hasattr(self, "moments_"):
            self._check_width(array)
        moments = getattr(self, "moments_", Moments.empty(array.shape[1]))
        accumulate(array, moments=moments)
        self._set_moments(moments, f"{moments.count:,} rows in parts")
        return self

    def fit_transform(self, X: Any, y: object = None) -> FloatArray:
        """Fit on `X` and transform it."""
        return self.fit(X).transform(X)

    @classmethod
    def from_moments(cls, moments: Moments, fitted_on: str = "", **params: Any) -> Whitening:
        """A fitted whitening from statistics, such as those of another one: no data is read again.

        Raises:
            DataError: fewer than two rows, or no variance at all.
            ParameterError: an option without meaning.
        """
        whitening = cls(**params)
        check_parameters(whitening)
        whitening._set_moments(moments, fitted_on or f"{moments.count:,} rows")
        whitening.solve()
        return whitening

    def with_options(self, **params: Any) -> Whitening:
        """The same statistics with other options, for example `w.with_options(beta=0, gamma=0, dims=128)`."""
        self._check_fitted()
        return Whitening.from_moments(self.moments_, self.fitted_on_, **{**self.get_params(), **params})

    def solve(self) -> Solution:
        """The map of the current statistics; computed once."""
        self._check_fitted()
        if self._solution is None:
            self._solution = solve(self.moments_, self)
        return self._solution

    def _set_moments(self, moments: Moments, fitted_on: str) -> None:
        self.moments_ = moments
        self.n_features_in_ = moments.dim
        self.n_samples_seen_ = moments.count
        self.fitted_on_ = fitted_on
        self._solution: Solution | None = None

    def _forget(self) -> None:
        for name in [name for name in vars(self) if name.endswith("_") or name == "_solution"]:
            delattr(self, name)

    # ------------------------------------------------------------------ what was fitted

    @property
    def mean_(self) -> Float64Array:
        """Mean of the rows, `(dim,)`."""
        self._check_fitted()
        return self.moments_.mean

    @property
    def kernel_(self) -> Float64Array:
        """The matrix of the map, `(dim, width)`."""
        return self.solve().kernel

    @property
    def eigenvalues_(self) -> Float64Array:
        """Variances along the principal directions, largest first, `(dim,)`."""
        return self.solve().eigenvalues

    @property
    def rank_(self) -> int:
        """Directions with a variance above `RANK_TOLERANCE` of the largest."""
        return self.solve().rank

    @property
    def shrinkage_(self) -> float:
        """The shrinkage that was used."""
        return self.solve().shrinkage

    @property
    def notes_(self) -> tuple[str, ...]:
        """What to know about this fit, a line each."""
        return self.solve().notes

    # ------------------------------------------------------------------ transforming

    def transform(self, X: Any) -> FloatArray:
        """Map the rows of `X`, `(n, dim)`, to `(n, width)`: float64 for float64 input, else float32.

        Raises:
            DataError: another width than the one fitted on, or a NaN or an infinity (rows named by index).
        """
        self._check_fitted()
        array = as_rows(X)
        self._check_width(array)
        output = np.empty((array.shape[0], self.kernel_.shape[1]), dtype=output_dtype(array))
        start = 0
        for rows in self.iter_transform(array):
            output[start : start + rows.shape[0]] = rows
            start += rows.shape[0]
        return output

    def iter_transform(self, array: NDArray[Any]) -> Iterator[FloatArray]:
        """Transform chunk by chunk, for what is larger than memory; raises as `transform`."""
        self._check_width(array)
        dtype = output_dtype(array)
        kernel = self.kernel_.astype(dtype)
        shift = self.beta * self.mean_
        rounded = shift.astype(dtype)
        # What float32 cannot say of a large mean is put back after the product.
        correction = ((rounded.astype(np.float64) - shift) @ self.kernel_).astype(dtype)
        start = 0
        for chunk in row_chunks(array):
            rows = (chunk.astype(dtype, copy=False) - rounded) @ kernel
            rows += correction
            if not math.isfinite(float(rows.sum())):
                check_finite_rows(chunk, start)
            if self.normalize:
                normalize_rows(rows)
            start += chunk.shape[0]
            yield rows

    def _check_width(self, array: NDArray[Any]) -> None:
        if array.ndim != 2 or array.shape[1] != self.n_features_in_:
            # The wording "X has ... features, but ..." is what scikit-learn's tools look for.
            found = array.shape[1] if array.ndim == 2 else array.shape
            raise DataError(
                f"X has {found} features, but Whitening is expecting {self.n_features_in_} features as input",
                hint=f"the transform was fitted on {self.fitted_on_}; vectors must come from the same model and settings",
            )

    # ------------------------------------------------------------------ files

    def save(self, path: str | Path | BinaryIO, *, force: bool = True) -> None:
        """Write one safetensors file with the map, its statistics and its options; see `load`."""
        from ordtool.embedding.whitening_file import save_whitening

        save_whitening(self, path, force=force)

    @classmethod
    def load(cls, path: str | Path) -> Whitening:
        """Read what `save` wrote.

        Raises:
            OrdtoolError: the file is missing, damaged, or something else.
        """
        from ordtool.embedding.whitening_file import load_whitening

        return load_whitening(path)

    # ------------------------------------------------------------------ scikit-learn's manners

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The options by name."""
        return {name: getattr(self, name) for name in parameter_names()}

    def set_params(self, **params: Any) -> Whitening:
        """Set options by name; they count from the next fit on.

        Raises:
            ParameterError: there is no option of that name.
        """
        for name, value in params.items():
            if name not in parameter_names():
                raise ParameterError(
                    f"invalid parameter {name!r} for Whitening", close_match_hint(name, parameter_names())
                )
            setattr(self, name, value)
        return self

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
        """Names of the output columns: `whitening0`, `whitening1`, ..."""
        return np.array([f"whitening{column}" for column in range(self.kernel_.shape[1])], dtype=object)

    def __repr__(self) -> str:
        """The constructor call, with what differs from the defaults."""
        defaults = {name: p.default for name, p in inspect.signature(Whitening).parameters.items()}
        given = [f"{name}={value!r}" for name, value in self.get_params().items() if value != defaults[name]]
        return f"Whitening({', '.join(given)})"

    def __sklearn_is_fitted__(self) -> bool:
        """Whether there are statistics to transform with."""
        return hasattr(self, "moments_")

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn asks of an estimator; only scikit-learn calls this, so it is there."""
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type="transformer",
            target_tags=TargetTags(required=False),
            transformer_tags=TransformerTags(preserves_dtype=["float64", "float32"]),
            input_tags=InputTags(),
        )

    def _check_fitted(self) -> None:
        if not hasattr(self, "moments_"):
            raise _not_fitted_error()


def solve(moments: Moments, options: Whitening) -> Solution:
    """Turn statistics into the map that `options` ask for.

    Raises:
        DataError: fewer than two rows, rows that are all equal, or a covariance that `cholesky` cannot invert.
    """
    values, vectors = eigen(moments.covariance())
    if values[0] <= 0:
        raise DataError(
            f"all {moments.count:,} rows are equal: there is no direction to whiten",
            hint="check the vectors: numpy.load(f).std(axis=0)",
        )
    rank = int((values > RANK_TOLERANCE * values[0]).sum())
    shrinkage = oas_shrinkage(values, moments.count) if options.shrinkage == "oas" else float(options.shrinkage or 0)
    conditioned = (1 - shrinkage) * values + shrinkage * values.mean() + options.ridge
    usable = int((conditioned > RANK_TOLERANCE * conditioned[0]).sum())
    with np.errstate(divide="ignore"):
        scales = np.where(np.arange(values.size) < usable, conditioned, np.inf) ** (-options.gamma / 2)
    if options.gamma == 0:
        scales[usable:] = 0.0
    kernel = _KERNELS[options.method](vectors, scales, usable, options)
    notes = tuple(_notes(moments, options, rank, usable))
    return Solution(kernel, values, rank, shrinkage, notes)


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

    Deviation: the covariance is the unbiased one, `n - 1` in the denominator, which changes the weight by O(1/n).
    """
    dim = eigenvalues.size
    mean_square, square_mean = float((eigenvalues**2).mean()), float(eigenvalues.mean()) ** 2
    denominator = (count + 1) * (mean_square - square_mean / dim)
    return 1.0 if denominator <= 0 else min(1.0, (mean_square + square_mean) / denominator)


def _pca(vectors: Float64Array, scales: Float64Array, usable: int, options: Whitening) -> Float64Array:
    width = min(usable, options.dims or usable)
    return np.ascontiguousarray(vectors[:, :width] * scales[:width])


def _zca(vectors: Float64Array, scales: Float64Array, usable: int, options: Whitening) -> Float64Array:
    return (vectors * scales) @ vectors.T


def _cholesky(vectors: Float64Array, scales: Float64Array, usable: int, options: Whitening) -> Float64Array:
    if usable < scales.size and options.gamma != 0:
        raise DataError(
            f"cholesky needs a covariance of full rank, and this one has rank {usable} of {scales.size}",
            hint="add --shrinkage 0.1, or use --method pca or zca, which leave out what does not vary",
        )
    # LL^T = Sigma^-gamma; QR gives L without forming the product, which would square the condition number.
    triangular = np.linalg.qr((vectors * scales).T, mode="r").T
    return np.ascontiguousarray(triangular * np.sign(np.diagonal(triangular)))


def _abtt(vectors: Float64Array, scales: Float64Array, usable: int, options: Whitening) -> Float64Array:
    dim = vectors.shape[0]
    top = vectors[:, : default_removal(dim) if options.remove is None else options.remove]
    return np.eye(dim) - top @ top.T


_KERNELS = {"pca": _pca, "zca": _zca, "cholesky": _cholesky, "abtt": _abtt}


def default_removal(dim: int) -> int:
    """Directions `abtt` removes by default: a hundredth of the width, at least one (Mu & Viswanath 2018, sec. 2.2)."""
    return max(1, dim // 100)


def _notes(moments: Moments, options: Whitening, rank: int, usable: int) -> Iterator[str]:
    dim = moments.dim
    constant = int((np.diagonal(moments.scatter) == 0).sum())
    if moments.count <= dim and rank < dim:
        if options.shrinkage in (None, 0) and options.method != "abtt" and options.gamma > 0 and _keeps_all(options, rank):
            yield (
                f"{moments.count:,} rows for {dim} columns: the covariance has rank {rank}, and whitening it spreads "
                "noise; give more rows, --shrinkage 0.3 (or oas), or fewer --dims"
            )
    elif usable < dim and options.method in ("pca", "zca"):
        reason = f" ({constant} columns are constant)" if constant else ""
        yield f"rank {rank} of {dim}{reason}: directions without variance are left out"
    if options.method == "pca" and options.dims is not None and options.dims > usable:
        yield f"{options.dims} columns were asked for and {usable} directions vary: the output has {usable} columns"


def _keeps_all(options: Whitening, rank: int) -> bool:
    return options.dims is None or 2 * options.dims > rank


def check_parameters(options: Whitening) -> None:
    """Check the options of a `Whitening`.

    Raises:
        ParameterError: naming the option, what was found and what it may be.
    """
    if options.method not in METHODS:
        raise ParameterError(f"unknown method {options.method!r}", close_match_hint(str(options.method), METHODS))
    for name, least in (("dims", 1), ("remove", 0)):
        value = getattr(options, name)
        if value is not None and (isinstance(value, bool) or int(value) != value or value < least):
            raise ParameterError(f"{name} must be an integer of {least} or more, found {value!r}")
    for name in ("beta", "gamma"):
        if not 0 <= getattr(options, name) <= 1:
            raise ParameterError(f"{name} must be from 0 to 1, found {getattr(options, name)!r}")
    if not (math.isfinite(options.ridge) and options.ridge >= 0):
        raise ParameterError(f"ridge must be 0 or more, found {options.ridge!r}")
    if isinstance(options.shrinkage, str) and options.shrinkage != "oas":
        raise ParameterError(f"shrinkage must be a number from 0 to 1 or 'oas', found {options.shrinkage!r}")
    if isinstance(options.shrinkage, (int, float)) and not 0 <= options.shrinkage <= 1:
        raise ParameterError(f"shrinkage must be from 0 to 1, found {options.shrinkage!r}")
    if options.dims is not None and options.method != "pca":
        raise ParameterError(
            f"dims goes with method pca: {options.method} keeps the input's axes", "use --method pca, or leave out --dims"
        )
    if options.remove is not None and options.method != "abtt":
        raise ParameterError("remove goes with method abtt", "use --method abtt, or --dims to keep fewer directions")


def as_rows(X: Any) -> NDArray[Any]:
    """View `X` as a real array of shape `(n, dim)` without copying; memory maps stay memory maps.

    Raises:
        DataError: another number of dimensions, no rows or columns, or not real numbers.
    """
    if hasattr(X, "toarray"):
        raise DataError("sparse input is not supported: embeddings are dense", hint="call .toarray() first")
    array = X if isinstance(X, np.ndarray) else np.asarray(X)
    if array.dtype.kind == "O":
        array = _as_float(array)
    if array.dtype.kind not in "fiub":
        kind = "Complex data not supported" if array.dtype.kind == "c" else f"{array.dtype} is not a real dtype"
        raise DataError(kind, hint="vectors are real numbers: float32 is usual")
    if array.ndim != 2:
        raise DataError(
            f"Expected 2D array, got {array.ndim}D array instead. Reshape your data to (rows, columns)",
            hint="one vector x is x[None, :]",
        )
    for axis, noun in enumerate(("sample", "feature")):
        if array.shape[axis] == 0:
            raise DataError(f"found array with 0 {noun}(s) (shape={array.shape}) while a minimum of 1 is required.")
    return array


def _as_float(array: NDArray[Any]) -> FloatArray:
    try:
        return array.astype(np.float64)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"argument must be a string or a real number, and an array of objects was given: {error}") from None


def output_dtype(array: NDArray[Any]) -> np.dtype[Any]:
    """float64 for float64 (and wider integers) input, else float32."""
    return np.dtype(np.float64 if array.dtype.itemsize > 4 else np.float32)


def normalize_rows(rows: FloatArray) -> None:
    """Scale rows to length 1 in place; rows of zeros stay."""
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
    np.divide(rows, lengths, out=rows, where=lengths > 0)


def describe_source(X: Any, rows: int) -> str:
    """`x.npy (1,000 rows)` for a memory map, else `1,000 rows`."""
    name = getattr(X, "filename", None)
    return f"{Path(name).name} ({rows:,} rows)" if name else f"{rows:,} rows"


def parameter_names() -> list[str]:
    """Names of the options, in the constructor's order."""
    return list(inspect.signature(Whitening).parameters)


def _not_fitted_error() -> Exception:
    """scikit-learn's own NotFittedError where that library is in use, so that its tools recognise it."""
    message = "this Whitening instance is not fitted yet"
    exceptions = sys.modules.get("sklearn.exceptions")
    if exceptions is None:
        return DataError(message, hint="call fit first, or Whitening.load(file)")
    error: Exception = exceptions.NotFittedError(f"{message}: call fit first, or Whitening.load(file)")
    return error
