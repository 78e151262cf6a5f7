"""The map of a whitening over rows, `(x - shift) @ kernel`: the dtype that it needs, and how it is computed in one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordtool.embedding.statistics import (
    Chunk,
    Float64Array,
    FloatArray,
    check_finite_rows,
    normalize_rows,
    release_pages,
)
from ordtool.embedding.whitening_solver import WhiteningMap
from ordtool.parallel import ordered_map

FLOAT32_STRETCH = 1e3
FLOAT32_SCALE = 1e30


def exact_dtype(solved: WhiteningMap, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype to compute in: that of the result, or float64 where float32 would blur it."""
    # A map that stretches some directions a thousandfold stretches float32's rounding with them.
    # One of tiny or huge numbers doesn't fit into float32 at all.
    largest = float(np.abs(solved.kernel).max())
    fits = solved.condition <= FLOAT32_STRETCH and 1 / FLOAT32_SCALE < largest < FLOAT32_SCALE
    return dtype if fits else np.dtype(np.float64)


@dataclass(frozen=True, slots=True)
class AffineMap:
    """`rows @ kernel - shift @ kernel`, as it is computed in one dtype.

    Attributes:
        kernel: `(dim, width)`.
        shift: What is subtracted first, `(dim,)`.
        correction: What the dtype could not say of the shift, put back after the product, `(width,)`.
        normalize: Scale rows to length 1.
    """

    kernel: FloatArray
    shift: FloatArray
    correction: FloatArray
    normalize: bool

    @classmethod
    def of(
        cls, kernel: Float64Array, shift: Float64Array, dtype: np.dtype[Any], *, normalize: bool = False
    ) -> AffineMap:
        """Return the map of a kernel and a shift, both in float64, as it is computed in `dtype`."""
        rounded = shift.astype(dtype)
        correction = (rounded.astype(np.float64) - shift) @ kernel
        return cls(kernel.astype(dtype), rounded, correction.astype(dtype), normalize)

    def apply(self, chunk: NDArray[Any], first: int, dtype: np.dtype[Any]) -> FloatArray:
        """Map rows `(n, dim)`, of which `first` is the number of the first; raises as `Whitening.transform`."""
        with np.errstate(invalid="ignore", over="ignore"):
            rows = (chunk.astype(self.kernel.dtype, copy=False) - self.shift) @ self.kernel
            rows += self.correction
            total = float(rows.sum())
        if not math.isfinite(total):
            check_finite_rows(chunk, first)
        release_pages(chunk)
        if self.normalize:
            normalize_rows(rows)
        return rows.astype(dtype, copy=False)

    def apply_each(
        self, chunks: Iterable[Chunk], dtype: np.dtype[Any], *, threads: int | None, device: str
    ) -> Iterator[FloatArray]:
        """Map chunk after chunk, with the index of its first row, on threads or on a CUDA device; raises as `apply`."""
        if device == "cpu":
            return ordered_map(lambda piece: self.apply(piece[1], piece[0], dtype), chunks, threads)
        from ordtool.embedding.device_statistics import device_rows
        from ordtool.runtime import resolve_device

        parts = self.kernel, self.shift, self.correction
        return device_rows(chunks, parts, dtype, resolve_device(device), normalize=self.normalize)
