"""First and second moments of vectors, in one pass over any number of rows.

The naive ``E[x x^T] - mu mu^T`` in float32 loses what whitening needs: with a mean that is large beside the
spread it has errors of a part in a thousand and eigenvalues below zero. Here every chunk of rows is centred on
its own mean first, multiplied in float32, and merged with what came before in float64: the speed is that of a
float32 matrix product and the error some 5e-8 of the largest variance.

That error is still larger than the weakest variances of most models' vectors, so what is accumulated is looked at
now and then: where float32 would blur the weakest directions, chunks are multiplied in float64, which takes not
quite twice as long.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordtool.errors import OrdtoolError
from ordtool.parallel import ordered_map
from ordtool.progress import SILENT, Progress

Chunk = tuple[int, NDArray[Any]]
Float64Array = NDArray[np.float64]
FloatArray = NDArray[np.floating[Any]]

CHUNK_ROWS = 4096
# Sums of squares outside this range come near the limits of float32, where it loses digits.
SAFE_SCATTER = (1e-18, 1e30)
# A float32 product errs by some 6e-8 of the matrix's norm. Where every direction has more than this share of the
# norm, each is known to one part in 50,000 or better; where there are weaker ones, float64 is used.
FLOAT32_CONDITION = 3e-3
NAMED_ROWS = 5
# A difference this small beside the numbers themselves is what rounding leaves of numbers that are all equal.
EQUAL = 1e-13

TOO_LARGE = (
    "the squares of these numbers are too large to add up",
    "divide the vectors by a constant first",
)


_TOO_SMALL = (
    "the squares of these numbers are too small to add up",
    "multiply the vectors by a constant first",
)
# Sums of squares below this have lost digits, or are 0.
SMALLEST_SCATTER = 1e-290


class DataError(OrdtoolError, ValueError):
    """Vectors that no statistic can be taken of; a `ValueError` too, as numerical libraries expect."""


@dataclass(slots=True)
class Moments:
    r"""Count, mean and scatter matrix of a set of vectors; sets can be merged.

    With $n$ rows $x_i$, the mean is $\mu = \frac1n \sum_i x_i$ and the scatter matrix
    $S = \sum_i (x_i - \mu)(x_i - \mu)^\top$. Two sets merge exactly (Chan, Golub & LeVeque 1979, eq. 2.1):
    $S = S_a + S_b + \frac{n_a n_b}{n_a + n_b} \delta \delta^\top$ with $\delta = \mu_b - \mu_a$.

    Attributes:
        count: the number of rows.
        mean: their mean, `(dim,)`, float64.
        scatter: the sum of outer products around the mean, `(dim, dim)`, float64.
    """

    count: int
    mean: Float64Array
    scatter: Float64Array

    @classmethod
    def empty(cls, dim: int) -> Moments:
        """Moments of no rows of width `dim`."""
        return cls(0, np.zeros(dim), np.zeros((dim, dim)))

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return self.mean.shape[0]

    def update(self, rows: NDArray[Any]) -> Moments:
        """Add `rows` of shape `(n, dim)`, in place.

        Raises:
            DataError: a row has a NaN or an infinity (named by its index, counted from the first row ever
                added), or another width.
        """
        if rows.ndim != 2 or rows.shape[1] != self.dim:
            raise DataError(
                f"expected rows of {self.dim} numbers, got an array of shape {rows.shape}",
                hint="rows of one set all have the same width",
            )
        accumulate(rows, moments=self)
        return self

    def merge(self, other: Moments) -> Moments:
        """Add the rows behind `other`, in place.

        Raises:
            DataError: the widths differ.
        """
        if other.dim != self.dim:
            raise DataError(
                f"statistics of width {self.dim} and {other.dim} cannot be merged",
                hint="shards must come from the same model and settings",
            )
        self._add(other)
        return self

    def covariance(self) -> Float64Array:
        """Unbiased covariance `S / (n - 1)`, `(dim, dim)`.

        Raises:
            DataError: fewer than two rows.
        """
        if self.count < 2:
            raise DataError(
                f"a covariance needs at least two rows, found n_samples = {self.count}",
                hint="give more vectors; a few times more rows than columns is a good start",
            )
        return self.scatter / (self.count - 1)

    def copy(self) -> Moments:
        """An independent copy."""
        return Moments(self.count, self.mean.copy(), self.scatter.copy())

    def to_bytes(self) -> bytes:
        """The statistics as bytes, for another process; see `from_bytes`."""
        return b"".join([np.int64(self.count).tobytes(), self.mean.tobytes(), self.scatter.tobytes()])

    @classmethod
    def from_bytes(cls, data: bytes) -> Moments:
        """Statistics from what `to_bytes` gave."""
        numbers = np.frombuffer(data, np.float64, offset=8)
        dim = int(np.sqrt(numbers.size + 0.25) - 0.5 + 1e-9)  # dim + dim^2 of them
        count = int(np.frombuffer(data, np.int64, 1)[0])
        return cls(count, numbers[:dim].copy(), numbers[dim:].reshape(dim, dim).copy())

    def needs_float64(self) -> bool:
        """Whether a float32 product would blur the weakest directions of what was seen so far.

        True until there are twice as many rows as columns.
        """
        return self.count < 2 * self.dim or not is_well_conditioned(self.scatter, FLOAT32_CONDITION)

    def _add(self, other: Moments) -> None:
        if other.count == 0:
            return
        total = self.count + other.count
        delta = other.mean - self.mean
        self.scatter += other.scatter
        if self.count:
            # Scaling the vector, not the matrix, saves a pass over (dim, dim).
            step = delta * np.sqrt(self.count * (other.count / total))
            self.scatter += np.outer(step, step)
        self.mean += delta * (other.count / total)
        self.count = total


MomentsOf = Callable[[Iterable[Chunk], np.dtype[Any]], Moments]
"""(chunks with the index of their first row, dtype of products) -> the moments of all of them."""


def accumulate(
    array: NDArray[Any],
    *,
    moments: Moments | None = None,
    threads: int | None = None,
    moments_of: MomentsOf | None = None,
    exact: bool = False,
    progress: Progress = SILENT,
) -> Moments:
    """Moments of the rows of `array`, read once, in chunks.

    A memory map is read piece by piece and its pages are given back, so that memory does not grow with the file.
    The result is the same to the last bit on any number of threads.

    Args:
        array: `(n, dim)`, any real dtype; a `numpy.memmap` may be larger than memory.
        moments: Statistics to add to, in place; new ones by default.
        threads: CPU threads; None: one a core.
        moments_of: Gives the moments of several chunks in a dtype, on another device; None: the CPU does.
        exact: Multiply in float64 always: what is merged later then is, to 1e-12, what one pass over all rows gives.
        progress: Advanced by the number of rows done; the caller starts the bar.

    Raises:
        DataError: A row has a NaN or an infinity (named by index), or the array is not two-dimensional.
    """
    total = Moments.empty(array.shape[1]) if moments is None else moments
    first = total.count
    done, wave = 0, chunk_rows(array)
    while done < array.shape[0]:
        # Waves double, so that the precision is looked at a few times only, at the same rows on any machine.
        wide = exact or array.dtype.itemsize > 4 or total.needs_float64()
        chunks = ((first + start, rows) for start, rows in row_chunks(array, done, done + wave))
        dtype = np.dtype(np.float64 if wide else np.float32)
        parts: Iterable[Moments]
        if moments_of is None:
            work = partial(_chunk_moments, dtype=dtype)
            parts = ordered_map(work, chunks, threads)
        else:
            parts = [moments_of(chunks, dtype)]
        for part in parts:
            total._add(part)
            progress.advance(part.count)
        done += wave
        wave = done
    return total


def check_scale(moments: Moments, array: NDArray[Any]) -> None:
    """Find numbers that are so small that their squares are lost.

    Args:
        moments: Those of `array`.
        array: `(n, dim)`.

    Raises:
        DataError: If rows differ, and their moments don't show it.
    """
    if moments.scatter.diagonal().max() >= SMALLEST_SCATTER:
        return
    if array.dtype.kind in "iu" and any((rows != array[0]).any() for _, rows in row_chunks(array)):
        raise DataError(
            "these integers are so large that floats don't tell them apart", "subtract a constant first"
        )
    first = array[0].astype(np.float64)
    largest = max(float(np.abs(rows.astype(np.float64) - first).max()) for _, rows in row_chunks(array))
    if largest > EQUAL * float(np.abs(first).max()):
        raise DataError(*_TOO_SMALL)


def chunk_rows(array: NDArray[Any]) -> int:
    """Rows of a chunk: merging costs dim^2 a chunk, so there are at least as many as columns."""
    return max(CHUNK_ROWS, array.shape[1])


def row_chunks(
    array: NDArray[Any], start: int = 0, stop: int | None = None
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Chunks of rows with the index of their first row; `release_pages` each when it was read."""
    stop = array.shape[0] if stop is None else min(stop, array.shape[0])
    rows = chunk_rows(array)
    for first in range(start, stop, rows):
        yield first, array[first : min(first + rows, stop)]


def release_pages(chunk: NDArray[Any]) -> None:
    """Drop the pages of a memory map that hold `chunk` from this process; they stay in the system's cache."""
    base: object = chunk
    while base is not None and not isinstance(base, mmap.mmap):
        if isinstance(base, np.memmap) and base.mode == "c":
            return  # private pages hold changes that dropping would lose
        base = getattr(base, "base", None)
    if not isinstance(base, mmap.mmap) or not hasattr(mmap, "MADV_DONTNEED"):
        return
    origin = np.frombuffer(base, dtype=np.uint8).ctypes.data
    low, high = (address - origin for address in np.lib.array_utils.byte_bounds(chunk))
    start = low - low % mmap.PAGESIZE
    base.madvise(mmap.MADV_DONTNEED, start, high - start)


def check_finite_rows(rows: NDArray[Any], first: int) -> None:
    """Name the rows with a NaN or an infinity.

    Raises:
        DataError: there are some; indices count from `first`.
    """
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if not bad.size:
        return
    named = ", ".join(str(first + index) for index in bad[:NAMED_ROWS])
    more = f" and {bad.size - NAMED_ROWS} more nearby" if bad.size > NAMED_ROWS else ""
    what = "NaN" if np.isnan(rows[bad[0]]).any() else "infinity"
    noun, verb = ("row", "contains") if bad.size == 1 else ("rows", "contain")
    raise DataError(
        f"{noun} {named}{more} (counted from 0) {verb} NaN or inf ({what} in row {first + bad[0]})",
        hint="remove these rows, or embed their texts again in float32",
    )


def _chunk_moments(piece: Chunk, dtype: np.dtype[Any]) -> Moments:
    """Moments of one chunk: centred on its mean in `dtype`; what rounding left of the mean is put right after."""
    first, chunk = piece
    rows = np.ascontiguousarray(chunk, dtype=dtype)
    count = rows.shape[0]
    shares = np.full(count, 1.0 / count, dtype=dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        centre = shares @ rows
        if not np.isfinite(centre).all():
            check_finite_rows(rows, first)
            raise DataError(*TOO_LARGE)
        rows = rows - centre
        offset = (shares @ rows).astype(np.float64)
        scatter = _squares(rows)
    release_pages(chunk)
    scatter -= np.outer(offset, offset * count)
    return Moments(count, centre + offset, scatter)


def _squares(rows: FloatArray) -> Float64Array:
    """`rows^T rows` in float64, multiplied in the dtype of `rows`."""
    product = rows.T @ rows  # numpy sees A^T A and calls the symmetric product, half the work
    if rows.dtype == np.float32 and not in_safe_range(float(np.diagonal(product).max())):
        wide = rows.astype(np.float64)
        product = wide.T @ wide
    if not np.isfinite(np.diagonal(product)).all():
        raise DataError(*TOO_LARGE)
    return product.astype(np.float64, copy=False)


def in_safe_range(largest: float) -> bool:
    """Whether float32 keeps its digits in sums of squares of which this is the largest."""
    return largest == 0.0 or SAFE_SCATTER[0] < largest < SAFE_SCATTER[1]


def is_well_conditioned(matrix: Float64Array, ratio: float) -> bool:
    """Whether every eigenvalue of a symmetric matrix is above `ratio` of its Frobenius norm.

    That is when `matrix - ratio * norm * I` has a Cholesky factor, which is far cheaper than the eigenvalues.
    """
    shifted = matrix - ratio * float(np.linalg.norm(matrix)) * np.eye(matrix.shape[0])
    try:
        np.linalg.cholesky(shifted)
    except np.linalg.LinAlgError:
        return False
    return True


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
