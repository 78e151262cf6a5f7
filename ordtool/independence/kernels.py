r"""Kernels, evaluated block by block so that no matrix of all pairs is ever held.

A kernel is fitted to one set of rows and then asked for rectangles of its matrix $K_{ij} = k(x_i, x_j)$.
HSIC and everything built on it is unchanged when rows are shifted together or a constant is added to $K$,
so rows are centred and brought to one scale first; that keeps float32 exact.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ordtool.errors import OrdtoolError, UsageError, close_match_hint
from ordtool.independence.bandwidth import median_distance
from ordtool.independence.validation import CHUNK, compute_dtype, standardised

if TYPE_CHECKING:
    from ordtool.independence.device_kernels import DeviceKernel

Array = NDArray[Any]

KERNELS = ("gaussian", "linear", "laplacian", "cosine")
WITH_BANDWIDTH = ("gaussian", "laplacian")
# Exponents of this size carry an error of 1e-3 in float32; past it float64 is used.
_FLOAT32_EXPONENT = 1e4


class Kernel(ABC):
    r"""One kernel over one set of rows.

    Attributes:
        name: One of `KERNELS`, or `precomputed`.
        bandwidth: The bandwidth in the units of the rows; None where the kernel has none.
        scale: What the blocks have to be multiplied by to be the kernel itself.
        features: A matrix of shape `(rows, dim)` with $K = \Phi \Phi^\top$ up to centring, where there is one.
        constant: All rows are the same, so that they depend on nothing.
    """

    name: str
    bandwidth: float | None = None
    scale: float = 1.0
    features: Array | None = None
    constant: bool = False

    @property
    @abstractmethod
    def rows(self) -> int:
        """The number of rows."""

    @property
    @abstractmethod
    def dtype(self) -> np.dtype[Any]:
        """The dtype of blocks."""

    @abstractmethod
    def diagonal(self) -> NDArray[np.float64]:
        """Return $K_{ii}$, shape `(rows,)`, over `scale`."""

    @abstractmethod
    def exponent(self, rows: slice, columns: slice) -> Array:
        """Return what `apply` makes $K$ of, over two ranges of rows, as a new array: $K$ itself where it has no exponent."""

    def apply(self, exponent: Array, out: Array) -> None:
        """Turn any part of an `exponent` into $K$ over `scale`."""
        out[...] = exponent

    def block(self, rows: slice, columns: slice) -> Array:
        """Return $K$ over two ranges of rows, over `scale`, as a new array."""
        block = self.exponent(rows, columns)
        self.apply(block, out=block)
        return block

    @abstractmethod
    def subset(self, index: NDArray[np.intp]) -> Kernel:
        """Return the same kernel over rows `index`, which may repeat."""

    def on_device(self, device: Any) -> DeviceKernel | None:
        """Return the kernel on a GPU; None where it can only be had here."""
        return None

    def rounding(self, squares: float, trace: float) -> float:
        r"""Return the sum of squares that rounding alone may leave of a matrix which centring makes zero.

        Args:
            squares: $\sum_{i \ne j} K_{ij}^2$.
            trace: $\sum_i K_{ii}$.
        """
        precision = float(np.finfo(self.dtype).eps)
        # Entries have a relative error; those that are products of features, one relative to the features' lengths.
        products = (4 * precision * trace) ** 2 if self.features is not None else 0.0
        return (256 * precision) ** 2 * squares + products

    def typical_value(self) -> float:
        """Estimate the mean of $K$ over different rows; taking it away before summing saves digits.

        The diagonal stays out: under a narrow bandwidth its ones would outweigh all the rest.
        """
        step = max(1, self.rows // 256)
        sample = self.subset(np.arange(0, self.rows, step, dtype=np.intp)[:256])
        everything = slice(0, sample.rows)
        block = sample.block(everything, everything)
        pairs = sample.rows * (sample.rows - 1)
        return float((block.sum(dtype=np.float64) - block.trace(dtype=np.float64)) / pairs)


class GaussianKernel(Kernel):
    r"""$k(x, y) = \exp(-\lVert x - y \rVert^2 / 2 \sigma^2)$ with the bandwidth $\sigma$.

    The exponent comes out of one matrix product: with $h = \lVert z \rVert^2 / 2$ and $z = x / \sigma$, the
    rows $(z, -h, 1)$ and $(z, 1, -h)$ have the product $-\lVert z_i - z_j \rVert^2 / 2$. Of several `multiples` $m$,
    the kernels of the bandwidths $m \sigma$ are added up.
    """

    name = "gaussian"

    def __init__(
        self,
        augmented: Array,
        bandwidth: float | None,
        constant: bool = False,
        multiples: Sequence[float] = (1.0,),
    ) -> None:
        self._augmented = augmented
        self.bandwidth = bandwidth
        self.constant = constant
        self._multiples = tuple(multiples)

    @classmethod
    def fit(
        cls,
        rows: Array,
        bandwidth: float | None = None,
        dtype: np.dtype[Any] | None = None,
        multiples: Sequence[float] = (1.0,),
    ) -> GaussianKernel:
        """Fit to rows of shape `(rows, dim)`; None takes the median heuristic, and `compute_dtype`."""
        centred, unit = standardised(rows, dtype)
        if unit == 0:
            return cls(_augment(centred), bandwidth, constant=True, multiples=multiples)
        relative = median_distance(centred) if bandwidth is None else relative_bandwidth(bandwidth, unit)
        with np.errstate(over="ignore"):
            smallest = relative * min(multiples)
            half_norms = np.square(centred, dtype=np.float64).sum(axis=1).max() / (2 * smallest**2)
        if half_norms > _FLOAT32_EXPONENT:
            centred, _ = standardised(rows, np.dtype(np.float64))
        centred /= relative
        sigma = relative * unit if bandwidth is None else bandwidth
        return cls(_augment(centred), sigma, multiples=multiples)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self._augmented)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of blocks."""
        return self._augmented.dtype

    def diagonal(self) -> NDArray[np.float64]:
        """All ones, for each multiple."""
        return np.full(self.rows, float(len(self._multiples)))

    def exponent(self, rows: slice, columns: slice) -> Array:
        """Return the exponents."""
        return np.asarray(_swapped(self._augmented[rows]) @ self._augmented[columns].T)

    def apply(self, exponent: Array, out: Array) -> None:
        """Take the exponential."""
        _add_exponentials(exponent, [1 / multiple**2 for multiple in self._multiples], out)

    def on_device(self, device: Any) -> DeviceKernel:
        """Return the kernel on a GPU."""
        from ordtool.independence.device_kernels import DeviceKernel

        factors = [1 / multiple**2 for multiple in self._multiples]
        return DeviceKernel.of(_swapped(self._augmented), self._augmented, device, factors)

    def subset(self, index: NDArray[np.intp]) -> GaussianKernel:
        """Return the same kernel over rows `index`."""
        return GaussianKernel(self._augmented[index], self.bandwidth, self.constant, self._multiples)


def _add_exponentials(exponent: Array, factors: Sequence[float], out: Array) -> None:
    r"""Write $\sum_f e^{f a}$ of exponents $a$ to `out`, which may be the exponents themselves."""
    if len(factors) == 1 and factors[0] == 1:
        np.exp(exponent, out=out)
        return
    total = np.zeros_like(exponent)
    for factor in factors:
        total += np.exp(exponent * exponent.dtype.type(factor))
    out[...] = total


def _swapped(augmented: Array) -> Array:
    """Return rows `(z, 1, -h)` of rows `(z, -h, 1)`."""
    left = augmented.copy()
    left[:, -2:] = left[:, :-3:-1].copy()
    return left


def _augment(rows: Array) -> Array:
    half_norms = np.square(rows, dtype=np.float64).sum(axis=1) / 2
    augmented = np.empty((len(rows), rows.shape[1] + 2), dtype=rows.dtype)
    augmented[:, :-2] = rows
    augmented[:, -2] = -half_norms
    augmented[:, -1] = 1
    return augmented


def relative_bandwidth(bandwidth: float, unit: float) -> float:
    """Return a bandwidth in units of the rows' spread.

    Raises:
        OrdtoolError: If it is so far from the spread that the kernel is 0 or 1 for every pair.
    """
    relative = bandwidth / unit
    if not 1e-7 < relative < 1e7:
        raise OrdtoolError(
            f"bandwidth {bandwidth:g} doesn't fit data whose spread is {unit:g}: "
            f"every pair of rows looks {'infinitely far apart' if relative < 1 else 'the same'}",
            "leave the bandwidth out for the median heuristic, or give one near the spread",
        )
    return relative


class LaplacianKernel(Kernel):
    r"""$k(x, y) = \exp(-\lVert x - y \rVert_1 / \sigma)$, with the sum of absolute differences."""

    name = "laplacian"

    def __init__(
        self,
        rows: NDArray[np.float64],
        bandwidth: float | None,
        dtype: np.dtype[Any],
        constant: bool = False,
        multiples: Sequence[float] = (1.0,),
    ) -> None:
        self._rows = rows
        self._dtype = dtype
        self.bandwidth = bandwidth
        self.constant = constant
        self._multiples = tuple(multiples)

    @classmethod
    def fit(
        cls,
        rows: Array,
        bandwidth: float | None = None,
        dtype: np.dtype[Any] | None = None,
        multiples: Sequence[float] = (1.0,),
    ) -> LaplacianKernel:
        """Fit to rows of shape `(rows, dim)`; None takes the median of the absolute distances, and `compute_dtype`."""
        centred, unit = standardised(rows, dtype)
        if unit == 0:
            return cls(centred.astype(np.float64), bandwidth, centred.dtype, True, multiples)
        relative = (
            median_distance(centred, "cityblock")
            if bandwidth is None
            else relative_bandwidth(bandwidth, unit)
        )
        sigma = relative * unit if bandwidth is None else bandwidth
        return cls(centred.astype(np.float64) / relative, sigma, centred.dtype, multiples=multiples)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self._rows)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of blocks."""
        return self._dtype

    def diagonal(self) -> NDArray[np.float64]:
        """All ones, for each multiple."""
        return np.full(self.rows, float(len(self._multiples)))

    def exponent(self, rows: slice, columns: slice) -> Array:
        """Return the exponents."""
        from scipy.spatial.distance import cdist

        distances = cdist(self._rows[rows], self._rows[columns], "cityblock")
        return np.negative(distances, out=distances).astype(self._dtype, copy=False)

    def apply(self, exponent: Array, out: Array) -> None:
        """Take the exponential."""
        _add_exponentials(exponent, [1 / multiple for multiple in self._multiples], out)

    def on_device(self, device: Any) -> DeviceKernel:
        """Return the kernel on a GPU."""
        from ordtool.independence.device_kernels import DeviceKernel

        rows = self._rows.astype(self._dtype)
        factors = [1 / multiple for multiple in self._multiples]
        return DeviceKernel.of(rows, rows, device, factors, cityblock=True)

    def subset(self, index: NDArray[np.intp]) -> LaplacianKernel:
        """Return the same kernel over rows `index`."""
        return LaplacianKernel(self._rows[index], self.bandwidth, self._dtype, self.constant, self._multiples)


class FeatureKernel(Kernel):
    r"""$k(x, y) = \phi(x)^\top \phi(y)$ for features that can be written down.

    The features are centred, which changes $K$ but not $HKH$. Statistics of two such kernels take
    $O(n d^2)$ and never see a pair of rows.
    """

    def __init__(
        self,
        features: Array,
        name: str = "linear",
        *,
        scale: float = 1.0,
        bandwidth: float | None = None,
        constant: bool = False,
    ) -> None:
        self.features: Array = features
        self.name = name
        self.scale = scale
        self.bandwidth = bandwidth
        self.constant = constant

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.features)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of blocks."""
        return self.features.dtype

    def diagonal(self) -> NDArray[np.float64]:
        """The squared lengths of the features."""
        return np.square(self.features, dtype=np.float64).sum(axis=1)

    def exponent(self, rows: slice, columns: slice) -> Array:
        """Return the products of features, which are $K$."""
        return np.asarray(self.features[rows] @ self.features[columns].T)

    def on_device(self, device: Any) -> DeviceKernel:
        """Return the kernel on a GPU."""
        from ordtool.independence.device_kernels import DeviceKernel

        return DeviceKernel.of(self.features, self.features, device)

    def subset(self, index: NDArray[np.intp]) -> FeatureKernel:
        """Return the same kernel over rows `index`."""
        return FeatureKernel(
            self.features[index],
            self.name,
            scale=self.scale,
            bandwidth=self.bandwidth,
            constant=self.constant,
        )

    def typical_value(self) -> float:
        """Return 0: the features are centred."""
        return 0.0


class PrecomputedKernel(Kernel):
    """A symmetric matrix of shape `(rows, rows)` that someone else computed."""

    name = "precomputed"

    def __init__(self, matrix: Array) -> None:
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise OrdtoolError(f"a kernel matrix must be square, and this one has shape {matrix.shape}")
        self._matrix = matrix
        self.constant = bool((matrix == matrix[0, 0]).all())

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self._matrix)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of blocks."""
        return self._matrix.dtype

    def diagonal(self) -> NDArray[np.float64]:
        """The diagonal of the matrix."""
        return self._matrix.diagonal().astype(np.float64)

    def exponent(self, rows: slice, columns: slice) -> Array:
        """Copy a rectangle of the matrix."""
        return self._matrix[rows, columns].copy()

    def subset(self, index: NDArray[np.intp]) -> PrecomputedKernel:
        """Return the matrix over rows and columns `index`."""
        return PrecomputedKernel(self._matrix[np.ix_(index, index)])


def fit_kernel(
    rows: Array,
    name: str = "gaussian",
    bandwidth: float | None = None,
    dtype: np.dtype[Any] | None = None,
    multiples: Sequence[float] = (1.0,),
) -> Kernel:
    r"""Fit a kernel to one variable; nothing is taken from any other.

    Args:
        rows: Real numbers of shape `(rows, dim)`, as `as_rows` gives them. They are centred in float64.
        name: `gaussian` ($\exp(-d^2 / 2\sigma^2)$), `laplacian` ($\exp(-d_1 / \sigma)$), `linear`
            ($x^\top y$) or `cosine` (linear over rows of length 1; a row of zeros stays zero).
        bandwidth: $\sigma$ in the units of the rows; None takes the median heuristic.
        dtype: Of the kernel's blocks, float32 or float64; None takes `compute_dtype(rows)`.
        multiples: $m$; the kernels of the bandwidths $m \sigma$ are added up. Kernels without a bandwidth take no
            notice.

    Returns:
        The kernel.

    Raises:
        UsageError: For an unknown kernel.
        OrdtoolError: For a bandwidth that isn't positive, or is out of proportion to the rows.
    """
    if name not in KERNELS:
        raise UsageError(f"unknown kernel {name!r}", close_match_hint(name, KERNELS))
    if bandwidth is not None and not (math.isfinite(bandwidth) and bandwidth > 0):
        raise OrdtoolError(f"bandwidth {bandwidth:g} is not possible", "a bandwidth is a positive number")
    if name == "gaussian":
        return GaussianKernel.fit(rows, bandwidth, dtype, multiples)
    if name == "laplacian":
        return LaplacianKernel.fit(rows, bandwidth, dtype, multiples)
    if name == "cosine":
        centred, unit = standardised(_unit_rows(rows, dtype), dtype)
    else:
        centred, unit = standardised(rows, dtype)
    with np.errstate(over="ignore"):
        scale = float(np.square(np.float64(unit)))
    return FeatureKernel(centred, name, scale=scale, constant=unit == 0)


def _unit_rows(rows: Array, dtype: np.dtype[Any] | None) -> Array:
    """Return the rows at length 1; rows of one direction come out equal, to the last bit."""
    result = np.empty(rows.shape, dtype or compute_dtype(rows))
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK].astype(np.float64)
        largest = np.abs(chunk).max(axis=1, keepdims=True)
        chunk /= np.where(largest > 0, largest, 1)
        lengths = np.linalg.norm(chunk, axis=1, keepdims=True)
        result[start : start + CHUNK] = chunk / np.where(lengths > 0, lengths, 1)
    # Rounding leaves a difference between rows of one direction, which centring would blow up to a signal.
    if np.abs(result - result[0]).max() <= 8 * np.finfo(result.dtype).eps:
        result[...] = result[0]
    return result
