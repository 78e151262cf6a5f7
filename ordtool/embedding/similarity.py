"""How well cosine similarities of vectors agree with people: STS, raw and whitened."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordtool import correlation
from ordtool.embedding.statistics import DataError, Float64Array, FloatArray, as_rows, check_finite_rows
from ordtool.embedding.whitening import Whitening, parameter_names
from ordtool.errors import UsageError, close_match_hint
from ordtool.progress import SILENT, Progress

_TRUTH = {"1": True, "true": True, "0": False, "false": False}
OPTIONAL = ("task", "part", "dims")
TRANSDUCTIVE = "the scored sentences themselves (transductive)"


@dataclass(frozen=True, slots=True)
class SimilarityRow:
    """Agreement of one kind of vectors with the gold scores.

    Attributes:
        vectors: What was scored: the model and its pooling, or a file.
        transform: `raw`, `whitened`, the setting as written, or the transform's file.
        spearman: Rank correlation of cosines and scores, percent; None where it is undefined.
        pearson: Linear correlation of the same, percent.
        pairs: How many pairs.
        fitted_on: What the transform was fitted on; None for raw vectors.
        task: Of a folder of tasks: the task.
        part: The task's part, or `all` (its pairs together), `mean` or `weighted mean` (of the parts' figures).
        dims: How many columns were kept, where several numbers were compared.
    """

    vectors: str
    transform: str
    spearman: float | None
    pearson: float | None
    pairs: int
    fitted_on: str | None
    task: str | None = None
    part: str | None = None
    dims: int | None = None

    def to_dict(self, optional: Collection[str] = ()) -> dict[str, Any]:
        """The fields by name, correlations to four digits after the point; of the last three those that are asked for."""
        fields = asdict(self)
        for name in OPTIONAL:
            if name not in optional:
                del fields[name]
        for name in ("spearman", "pearson"):
            fields[name] = None if fields[name] is None else round(fields[name], 4)
        return fields


# Cosines of float64 vectors are this exact.
ROUNDING = 1e-14


def cosine_similarities(left: NDArray[Any], right: NDArray[Any]) -> Float64Array:
    """Cosine of each row of `left` with the same row of `right`, `(n, dim)` each, in float64; 0 for a zero row."""
    left, right = _scaled(left), _scaled(right)
    products = np.einsum("ij,ij->i", left, right)
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)


def _scaled(rows: NDArray[Any]) -> Float64Array:
    """Divide each row by a power of two near its largest number: squares are then neither too large nor lost."""
    rows = np.asarray(rows, dtype=np.float64)
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0)
    return np.ldexp(rows, -np.frexp(largest)[1])


def correlations(similarities: Float64Array, gold: Float64Array) -> tuple[float | None, float | None]:
    """Spearman's and Pearson's correlation in percent; None where either side is constant or there is one pair.

    Ties get their average rank. Cosines that differ by no more than rounding are constant: so are those of vectors that
    are all far from zero in one direction.
    """
    if np.ptp(similarities) <= ROUNDING:
        return None, None
    spearman, pearson = correlation.spearman(similarities, gold), correlation.pearson(similarities, gold)
    return _percent(spearman), _percent(pearson)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def score_similarity(
    left: NDArray[Any],
    right: NDArray[Any],
    gold: Sequence[float] | Float64Array,
    *,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    transform: Whitening | None = None,
    transform_name: str = "whitened",
    vectors: str = "vectors",
    progress: Progress = SILENT,
) -> list[SimilarityRow]:
    """Score raw vectors, whitened ones, and those of every setting.

    Args:
        left: Vectors of the first sentences, `(n, dim)`.
        right: Vectors of the second ones, `(n, dim)`.
        gold: The scores of the pairs, on any scale.
        settings: Options of `Whitening` by a name for the row.
        transform: A fitted whitening; its statistics serve the settings too. None fits on the rows of both
            sides, which is transductive, and the rows say so.
        transform_name: The name of the transform's row.
        vectors: What the vectors are, for the rows.
        progress: Warned of what is weak about a fit.

    Returns:
        A row for the raw vectors, one for the transform or the plain whitening, one a setting.

    Raises:
        DataError: Sides of different shape, another number of scores, a NaN or an infinity (rows named), or vectors
            that can't be whitened.
    """
    left, right = as_rows(left), as_rows(right)
    scores = np.asarray(gold, dtype=np.float64)
    if left.shape != right.shape or left.shape[0] != scores.shape[0]:
        raise DataError(
            f"{scores.shape[0]} pairs, and vectors of shapes {left.shape} and {right.shape}",
            hint="there must be a vector for each sentence of each pair",
        )
    for side in (left, right):
        check_finite_rows(side, 0)

    def row(name: str, pair: tuple[FloatArray, FloatArray], fitted_on: str | None) -> SimilarityRow:
        spearman, pearson = correlations(cosine_similarities(*pair), scores)
        return SimilarityRow(vectors, name, spearman, pearson, len(scores), fitted_on)

    rows = [row("raw", (left, right), None)]
    fitted = transform if transform is not None else fit_on_pairs(left, right)
    wanted = {transform_name: fitted} | {
        name: fitted.with_options(**{**DEFAULTS, **options}) for name, options in (settings or {}).items()
    }
    for name, whitening in wanted.items():
        for note in whitening.notes_:
            progress.warn(f"{name}: {note}")
        rows.append(row(name, (whitening.transform(left), whitening.transform(right)), fitted.fitted_on_))
    return rows


# A setting names all that is not the default, whatever the transform at hand was made with.
DEFAULTS: Mapping[str, Any] = Whitening().get_params()


def fit_on_pairs(left: NDArray[Any], right: NDArray[Any]) -> Whitening:
    """Fit a whitening on both sides of the pairs that are scored, `(n, dim)` each."""
    whitening = Whitening().partial_fit(left).partial_fit(right)
    whitening.fitted_on_ = TRANSDUCTIVE
    return whitening


def mean_rows(parts: Sequence[Sequence[SimilarityRow]]) -> list[SimilarityRow]:
    """Average the figures of a task's parts, as they are and weighted by their pairs.

    Args:
        parts: The rows of each part; all parts have the same rows.

    Returns:
        For each row its `mean` and its `weighted mean`; a figure that a part doesn't have, its mean doesn't either.
    """
    rows = []
    for part, weights in (("mean", [1] * len(parts)), ("weighted mean", [part[0].pairs for part in parts])):
        for same in zip(*parts, strict=True):
            rows.append(
                replace(
                    same[0],
                    spearman=_average([row.spearman for row in same], weights),
                    pearson=_average([row.pearson for row in same], weights),
                    pairs=sum(row.pairs for row in same),
                    part=part,
                )
            )
    return rows


def _average(values: Sequence[float | None], weights: Sequence[int]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.average(known, weights=weights)) if len(known) == len(values) else None


def parse_setting(text: str) -> dict[str, Any]:
    """Read `beta=0,gamma=0,dims=128` into options of `Whitening`.

    Raises:
        UsageError: An unknown option or a value that is no number.
    """
    options: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if name not in parameter_names() or name == "normalize":
            choices = [known for known in parameter_names() if known != "normalize"]
            raise UsageError(f"unknown option {name!r} in setting {text!r}", close_match_hint(name, choices))
        if not equals or not value:
            raise UsageError(f"setting {text!r}: {name} has no value", "for example: beta=0,gamma=0,dims=128")
        options[name] = _value(name, value, text)
    Whitening(**options).config()
    return options


def _value(name: str, value: str, text: str) -> Any:
    if name in ("method", "covariance") or value == "oas":
        return value
    if name == "standardize" and value.lower() in _TRUTH:
        return _TRUTH[value.lower()]
    try:
        return int(value) if name in ("dims", "remove") else float(value)
    except ValueError:
        raise UsageError(
            f"setting {text!r}: {name} must be a number, found {value!r}",
            "for example: beta=0,gamma=0,dims=128",
        ) from None
