"""Rows that a kernel can be taken of: checked, centred, brought to one scale; class labels as rows."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordtool.errors import OrdtoolError

Array = NDArray[Any]

MIN_ROWS = 4
"""Below this the unbiased estimator divides by zero."""
MAX_CLASSES = 1000
CHUNK = 4096


def as_rows(array: Array, name: str = "x") -> Array:
    """Check that `array` holds finite real vectors, and return it as rows of the dtype it has.

    Args:
        array: Vectors of shape `(rows, dim)`, or numbers of shape `(rows,)`.
        name: What to call it in messages.

    Returns:
        A view of the input, of shape `(rows, dim)`.

    Raises:
        OrdtoolError: For fewer than four rows, no columns, NaN, infinities, or numbers that aren't real.
    """
    rows = np.asanyarray(array)
    if rows.dtype.kind not in "fiub":
        raise OrdtoolError(f"{name}: holds {rows.dtype}, and real numbers are expected")
    if rows.ndim == 1:
        rows = rows[:, None]
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise OrdtoolError(f"{name}: has shape {array.shape}, and (rows, dim) is expected")
    if len(rows) < MIN_ROWS:
        raise OrdtoolError(
            f"{name}: has {len(rows)} rows, and HSIC needs {MIN_ROWS}",
            "the unbiased estimator divides by n (n - 3); dozens of rows are needed to see anything",
        )
    _check_finite(rows, name)
    return rows


def compute_dtype(rows: Array, dtype: str = "auto") -> np.dtype[Any]:
    """Return the dtype to compute in: float64 for float64 rows and float32 for all others, if it is `auto`."""
    if dtype == "auto":
        dtype = "float64" if rows.dtype == np.float64 else "float32"
    return np.dtype(dtype)


def check_rows(array: Array, name: str = "x", dtype: str = "auto") -> Array:
    """Return what `as_rows` gives, in the dtype that `compute_dtype` gives.

    Raises:
        OrdtoolError: As `as_rows`, and for numbers that the dtype doesn't hold.
    """
    rows = as_rows(array, name)
    target = compute_dtype(rows, dtype)
    if rows.dtype == target:
        return rows
    with np.errstate(over="ignore"):
        converted = rows.astype(target)
    if not np.isfinite(converted).all():
        raise OrdtoolError(f"{name}: has numbers too large for {target}", "divide them by a constant")
    return converted


def _check_finite(rows: Array, name: str) -> None:
    if rows.dtype.kind != "f":
        return
    for start in range(0, len(rows), CHUNK):
        fine = np.isfinite(rows[start : start + CHUNK]).all(axis=1)
        if not fine.all():
            row = start + int(np.argmin(fine))
            column = int(np.argmin(np.isfinite(rows[row])))
            raise OrdtoolError(
                f"{name}: row {row} holds {float(rows[row, column])} in column {column}",
                "remove such rows from every file, so that they stay aligned",
            )


def check_aligned(arrays: Sequence[Sized], names: Sequence[str]) -> int:
    """Check that all arrays have the same number of rows, and give that number.

    Raises:
        OrdtoolError: Naming the first two that differ.
    """
    for array, name in zip(arrays, names, strict=True):
        if len(array) != len(arrays[0]):
            raise OrdtoolError(
                f"{names[0]} has {len(arrays[0])} rows and {name} has {len(array)}",
                "row i of every file must belong to the same item",
            )
    return len(arrays[0])


def one_hot(labels: Sequence[Any] | Array, name: str = "labels") -> NDArray[np.float32]:
    """Write class labels as unit vectors, `(rows, classes)`, the classes in sorted order.

    Args:
        labels: One label a row: all integers, or anything that has a text form.
        name: What to call them in messages.

    Raises:
        OrdtoolError: If there are too many classes for labels to be what they are.
    """
    return encode_labels(labels, name)[0]


def encode_labels(
    labels: Sequence[Any] | Array, name: str = "labels"
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Return what `one_hot` gives, and the names of the classes."""
    values = labels if isinstance(labels, np.ndarray) else _comparable(labels)
    classes, index = np.unique(values, return_inverse=True)
    if len(classes) > MAX_CLASSES or len(classes) == len(index) > 1:
        raise OrdtoolError(
            f"{name}: {len(classes)} different labels in {len(index)} rows",
            "if they are numbers rather than classes, save them as floats of shape (rows, 1)",
        )
    encoded = np.zeros((len(index), len(classes)), dtype=np.float32)
    encoded[np.arange(len(index)), index.ravel()] = 1
    return encoded, tuple(str(label) for label in classes.tolist())


def _comparable(labels: Sequence[Any]) -> Array:
    """Return integers as integers, so that 10 comes after 9, and everything else as texts."""
    if all(type(label) is int and abs(label) < 1 << 62 for label in labels):
        return np.array(labels, dtype=np.int64)
    return np.array([str(label) for label in labels])


def standardised(rows: Array, dtype: np.dtype[Any] | None = None) -> tuple[Array, float]:
    """Centre rows on their mean and divide them by their root mean square distance from it, in float64.

    Kernels see distances, so a common shift is free, and it keeps float32 exact where the mean is
    large beside the spread; the common scale keeps squares far from overflow. The first row is taken
    away before anything is rounded, so that small differences of large numbers keep their digits.

    Args:
        rows: Finite numbers of shape `(rows, dim)`.
        dtype: Of the result; None takes `compute_dtype(rows)`.

    Returns:
        The new rows, and the unit they are in: `old distance = unit * new distance`. The unit is 0, and
        the rows all zero, if all rows are the same.
    """
    result = np.empty(rows.shape, dtype or compute_dtype(rows))
    if is_constant(rows):
        result[...] = 0
        return result, 0.0
    chunks = [slice(i, i + CHUNK) for i in range(0, len(rows), CHUNK)]
    largest = max(max(float(rows[c].max()), -float(rows[c].min())) for c in chunks)
    power = 2.0 ** -np.clip(np.frexp(largest)[1], -1000, 1000)
    shifted = _Shifted(rows, power)
    mean = sum((shifted[c].sum(axis=0) for c in chunks), np.zeros(rows.shape[1])) / len(rows)
    # The spread itself may be small beside the numbers, so that its square would be too small for a float.
    unit = max(float(np.abs(shifted[c] - mean).max()) for c in chunks)
    square = sum(float(np.square((shifted[c] - mean) / unit).sum()) for c in chunks)
    spread = unit * float(np.sqrt(square / len(rows)))
    for chunk in chunks:
        result[chunk] = (shifted[chunk] - mean) / spread
    return result, float(spread / power)


class _Shifted:
    """Rows less the first one, times a power of two: exact where they are near it."""

    def __init__(self, rows: Array, power: float) -> None:
        self._rows = rows
        self._power = power
        self._first = rows[0].astype(np.float64) * power

    def __getitem__(self, chunk: slice) -> NDArray[np.float64]:
        rows = self._rows[chunk]
        if rows.dtype.kind in "iu" and rows.dtype.itemsize == 8:
            return _less_first(rows, self._rows[0]) * self._power
        return rows.astype(np.float64) * self._power - self._first


def _less_first(rows: Array, first: Array) -> NDArray[np.float64]:
    """Subtract integers of 64 bits, of which a float holds 53, by their upper and lower halves."""
    upper = (rows >> 32).astype(np.float64) - (first >> 32).astype(np.float64)
    lower = (rows & 0xFFFFFFFF).astype(np.float64) - (first & 0xFFFFFFFF).astype(np.float64)
    return upper * 2.0**32 + lower


def is_constant(rows: Array) -> bool:
    """Whether all rows are the same."""
    return all(bool((rows[i : i + CHUNK] == rows[0]).all()) for i in range(0, len(rows), CHUNK))
