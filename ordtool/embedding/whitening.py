r"""Whitening: the linear map after which vectors have no preferred direction.

BERT-whitening (Su, Cao, Liu & Ou 2021, arXiv:2103.15316, algorithm 1) and its two softening exponents
(Su 2022, kexue.fm/9079): with the mean $\mu$ of the vectors and $\Sigma(\beta) = U \Lambda U^\top$, the mean of
$(x - \beta \mu)(x - \beta \mu)^\top$,

$$\tilde x = (x - \beta \mu) \, U_k \Lambda_k^{-\gamma / 2}.$$

$\beta = \gamma = 1$ whitens; $\beta = \gamma = 0$ with $k < d$ only rotates and cuts, which keeps the geometry of a
tuned model almost whole. Deviations: sums are divided by $n - 1$, directions without variance are cut (the paper divides
by them), and the signs of eigenvectors are fixed so that the same data gives the same map.
"""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Unpack

import numpy as np
from numpy.typing import NDArray

from ordtool.embedding.affine_map import AffineMap, exact_dtype
from ordtool.embedding.statistics import (
    DataError,
    Float64Array,
    FloatArray,
    Moments,
    MomentsOf,
    accumulate,
    as_rows,
    check_scale,
    describe_source,
    output_dtype,
    row_chunks,
)
from ordtool.embedding.whitening_file import StoredWhitening, read_stored, to_bytes
from ordtool.embedding.whitening_solver import (
    ParameterError,
    WhiteningConfig,
    WhiteningMap,
    WhiteningOptions,
    solve,
)
from ordtool.errors import OrdtoolError, close_match_hint
from ordtool.io.atomic import atomic_output
from ordtool.progress import SILENT, Progress

OUTPUTS = ("default", "pandas", "polars")

_DEFAULTS: dict[str, Any] = {option.name: option.default for option in fields(WhiteningConfig)}


class WhiteningWarning(UserWarning):
    """The map was fitted, and something about the data or the options makes it weaker than it looks."""


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
        standardize: divide every column by its standard deviation first, for columns of different units; the
            eigenvalues are those of the correlations. Constant columns become 0.
        covariance: what is whitened where `beta` is less than 1. `shifted`: $\Sigma(\beta)$, to which what is left of the
            mean belongs, as in the article; the first columns keep lengths and inner products best. `centred`: the
            covariance, in which the mean has no part; the first columns keep distances best.

    Attributes:
        moments_: the statistics of all rows seen, which `merge` adds up.
        mean_: `(dim,)`, float64.
        kernel_: `(dim, width)`, float64: `transform(x)` is `(x - beta * mean_) @ kernel_`.
        eigenvalues_: of the covariance, or of $\Sigma(\beta)$, largest first, `(dim,)`.
        rank_: directions that vary.
        shrinkage_: the shrinkage that was used.
        n_samples_seen_: rows seen.
        n_features_in_: columns of the input.
        fitted_on_: what the rows were, for people.
        notes_: what to know about the fit, a line each; `fit` also issues them as `WhiteningWarning`.
    """

    _map: WhiteningMap | None

    dims: int | None
    beta: float
    gamma: float
    method: str
    ridge: float
    shrinkage: float | str | None
    normalize: bool
    remove: int | None
    standardize: bool
    covariance: str

    def __init__(self, dims: int | None = None, **options: Unpack[WhiteningOptions]) -> None:
        for name in options:
            if name not in _DEFAULTS:
                raise TypeError(f"Whitening() got an unexpected keyword argument {name!r}")
        for name, value in (_DEFAULTS | {"dims": dims} | options).items():
            setattr(self, name, value)

    # ------------------------------------------------------------------ fitting

    def fit(
        self,
        X: Any,
        y: object = None,
        *,
        threads: int | None = None,
        device: str = "cpu",
        progress: Progress = SILENT,
    ) -> Whitening:
        """Fit on the rows of `X`, `(n, dim)`; an array, or a memory map larger than memory.

        Args:
            X: The rows.
            y: Not used.
            threads: CPU threads; None: one a core.
            device: Where products are computed: `cpu`, or a CUDA device.
            progress: Advanced by the rows done; the caller starts the bar.

        Raises:
            DataError: fewer than two rows, a NaN or an infinity (rows named by index), or rows that are all equal.
            ParameterError: an option without meaning.
        """
        self.config()
        array = as_rows(X)
        self._forget()
        moments = accumulate(array, threads=threads, moments_of=_moments_on(device), progress=progress)
        check_scale(moments, array)
        self._set_moments(moments, describe_source(X, array.shape[0]))
        for note in self.solve().notes:
            warnings.warn(note, WhiteningWarning, stacklevel=2)
        return self

    def partial_fit(self, X: Any, y: object = None) -> Whitening:
        """Add the rows of `X` to what was seen; the map is solved when it is next needed.

        Raises:
            DataError: as in `fit`, or another width than before; then none of the rows is added.
            ParameterError: an option without meaning.
        """
        self.config()
        array = as_rows(X)
        if hasattr(self, "moments_"):
            self._check_width(array)
        # A copy: bad rows must leave what was seen as it is, and `with_options` shares it.
        seen = self.moments_.copy() if hasattr(self, "moments_") else None
        moments = accumulate(array, moments=seen)
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
        whitening.config()
        whitening._set_moments(moments, fitted_on or f"{moments.count:,} rows")
        whitening.solve()
        return whitening

    def with_options(self, **params: Any) -> Whitening:
        """The same statistics with other options, for example `w.with_options(beta=0, gamma=0, dims=128)`."""
        self._check_fitted()
        return Whitening.from_moments(self.moments_, self.fitted_on_, **{**self.get_params(), **params})

    def solve(self) -> WhiteningMap:
        """The map of the current statistics; computed once."""
        self._check_fitted()
        if self._map is None:
            self._map = solve(self.moments_, self.config())
        return self._map

    def _set_moments(self, moments: Moments, fitted_on: str) -> None:
        self.moments_ = moments
        self.n_features_in_ = moments.dim
        self.n_samples_seen_ = moments.count
        self.fitted_on_ = fitted_on
        self._map = None

    def _forget(self) -> None:
        for name in [name for name in vars(self) if name.endswith("_") or name == "_map"]:
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
        """Variances along the principal directions (with what is left of the mean), largest first, `(dim,)`."""
        return self.solve().eigenvalues

    @property
    def rank_(self) -> int:
        """Directions with an eigenvalue above `RANK_TOLERANCE` of the largest."""
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
        return self._framed(self._transform(X), X)

    def _transform(self, X: Any) -> FloatArray:
        self._check_fitted()
        array = as_rows(X)
        self._check_width(array)
        output = np.empty((array.shape[0], self.kernel_.shape[1]), dtype=output_dtype(array))
        start = 0
        for rows in self.iter_transform(array):
            output[start : start + rows.shape[0]] = rows
            start += rows.shape[0]
        return output

    def inverse_transform(self, X: Any) -> FloatArray:
        r"""Map rows of `transform`, `(n, width)`, back to `(n, dim)`: float64 for float64 input, else float32.

        $\hat x = y K^+ + \beta \mu + (1 - \beta) \mu (I - K K^+)$ for the map
        $y = (x - \beta \mu) K$: the vector itself where no direction was left out, else with the mean's part in those.

        Raises:
            DataError: another width than that of `transform`.
            ParameterError: rows were scaled to length 1, which loses their lengths.
        """
        if self.normalize:
            raise ParameterError("rows of length 1 can't be mapped back", "fit with normalize=False")
        array, kernel = as_rows(X), self.kernel_
        if array.shape[1] != kernel.shape[1]:
            raise DataError(f"X has {array.shape[1]} columns, and transform gives {kernel.shape[1]}")
        back = np.linalg.pinv(kernel)
        rest = (1 - self.beta) * self.mean_
        offset = self.beta * self.mean_ + rest - rest @ kernel @ back
        return (array @ back + offset).astype(output_dtype(array), copy=False)

    def iter_transform(
        self, array: NDArray[Any], *, threads: int | None = None, device: str = "cpu"
    ) -> Iterator[FloatArray]:
        """Transform chunk by chunk, for what is larger than memory; raises as `transform`."""
        self._check_width(array)
        dtype = output_dtype(array)
        solved = self.solve()
        shift = self.beta * self.mean_
        affine = AffineMap.of(solved.kernel, shift, exact_dtype(solved, dtype), normalize=self.normalize)
        return affine.apply_each(row_chunks(array), dtype, threads=threads, device=device)

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
        self._check_fitted()
        data = to_bytes(StoredWhitening(self.config(), self.moments_, self.solve(), self.fitted_on_))
        if hasattr(path, "write"):
            path.write(data)
            return
        with atomic_output(path, force=force) as file:
            file.write(data)

    @classmethod
    def load(cls, path: str | Path) -> Whitening:
        """Read what `save` wrote.

        Raises:
            OrdtoolError: the file is missing, damaged, or something else.
        """
        stored = read_stored(path)
        whitening = cls(**asdict(stored.config))
        whitening._set_moments(stored.moments, stored.fitted_on)
        whitening._map = stored.map
        return whitening

    # ------------------------------------------------------------------ scikit-learn's manners

    def config(self) -> WhiteningConfig:
        """Return the options as one frozen value.

        Raises:
            ParameterError: an option without meaning.
        """
        return WhiteningConfig(**self.get_params())

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

    def set_output(self, *, transform: str | None = None) -> Whitening:
        """Choose what `transform` gives.

        Args:
            transform: `default` (an array), or `pandas` or `polars` (a frame with the names of
                `get_feature_names_out`); None changes nothing.

        Raises:
            ParameterError: there is no output of that name, or the package isn't installed.
        """
        if transform is None:
            return self
        if transform not in OUTPUTS:
            raise ParameterError(f"unknown output {transform!r}", close_match_hint(transform, OUTPUTS))
        if transform != "default" and find_spec(transform) is None:
            raise ParameterError(f"{transform} isn't installed", f"pip install {transform}")
        self._sklearn_output_config = {"transform": transform}  # the name that scikit-learn's `clone` copies
        return self

    def _framed(self, rows: FloatArray, X: Any) -> Any:
        """Give an array as what was chosen by `set_output`, or else in scikit-learn's own configuration."""
        library = sys.modules.get("sklearn")
        usual = library.get_config()["transform_output"] if library is not None else "default"
        chosen = getattr(self, "_sklearn_output_config", {}).get("transform", usual)
        if chosen == "default":
            return rows
        frames, names = import_module(chosen), self.get_feature_names_out()
        if chosen == "pandas":
            return frames.DataFrame(rows, columns=names, index=getattr(X, "index", None))
        return frames.DataFrame(rows, schema=names.tolist(), orient="row")

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
        """Names of the output columns: `whitening0`, `whitening1`, ..."""
        return np.array([f"whitening{column}" for column in range(self.kernel_.shape[1])], dtype=object)

    def __repr__(self) -> str:
        """The constructor call, with what differs from the defaults."""
        given = [f"{name}={value!r}" for name, value in self.get_params().items() if value != _DEFAULTS[name]]
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


def _moments_on(device: str) -> MomentsOf | None:
    """Return what computes moments on a device; None for the CPU."""
    if device == "cpu":
        return None
    from ordtool.embedding.device_statistics import device_moments
    from ordtool.runtime import resolve_device

    return partial(device_moments, device=resolve_device(device))


def merge_whitenings(whitenings: Sequence[Whitening], **options: Any) -> Whitening:
    """One whitening of all rows that several were fitted on.

    Args:
        whitenings: Fitted on shards of one set.
        **options: Options of the result; those of the first by default.

    Raises:
        OrdtoolError: the widths differ, or the options differ and none are given.
    """
    first = whitenings[0]
    moments = first.moments_.copy()
    for number, other in enumerate(whitenings[1:], start=2):
        if other.get_params() != first.get_params() and not options:
            raise OrdtoolError(
                f"transform {number} has other options than the first: {other!r}, {first!r}",
                "say what the result should have, for example `dims=128`",
            )
        moments.merge(other.moments_)
    fitted_on = " + ".join(whitening.fitted_on_ for whitening in whitenings)
    return Whitening.from_moments(moments, fitted_on, **{**first.get_params(), **options})


def parameter_names() -> list[str]:
    """Names of the options, in the constructor's order."""
    return list(_DEFAULTS)


def _not_fitted_error() -> Exception:
    """scikit-learn's own NotFittedError where that library is in use, so that its tools recognise it."""
    message = "this Whitening instance is not fitted yet"
    exceptions = sys.modules.get("sklearn.exceptions")
    if exceptions is None:
        return DataError(message, hint="call fit first, or Whitening.load(file)")
    error: Exception = exceptions.NotFittedError(f"{message}: call fit first, or Whitening.load(file)")
    return error


# What `help` and scikit-learn ask for: the options by name, with their defaults.
Whitening.__init__.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [
        inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD),
        inspect.Parameter("dims", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None),
        *(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
            for name, default in _DEFAULTS.items()
            if name != "dims"
        ),
    ]
)
