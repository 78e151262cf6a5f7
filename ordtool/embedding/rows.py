"""Vectors as rows of an array: what is taken, what is refused, what comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordtool.embedding.statistics import DataError, FloatArray


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
        kind = (
            "Complex data not supported" if array.dtype.kind == "c" else f"{array.dtype} is not a real dtype"
        )
        raise DataError(kind, hint="vectors are real numbers: float32 is usual")
    if array.ndim != 2:
        raise DataError(
            f"Expected 2D array, got {array.ndim}D array instead. Reshape your data to (rows, columns)",
            hint="one vector x is x[None, :]",
        )
    for axis, noun in enumerate(("sample", "feature")):
        if array.shape[axis] == 0:
            raise DataError(
                f"found array with 0 {noun}(s) (shape={array.shape}) while a minimum of 1 is required."
            )
    return array


def _as_float(array: NDArray[Any]) -> FloatArray:
    try:
        return array.astype(np.float64)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            f"argument must be a string or a real number, and an array of objects was given: {error}"
        ) from None


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
