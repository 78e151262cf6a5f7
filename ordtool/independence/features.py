"""Random Fourier features: a kernel approximated by an inner product, when asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordtool.errors import OrdtoolError, UsageError
from ordtool.independence.bandwidth import median_distance
from ordtool.independence.kernels import WITH_BANDWIDTH, FeatureKernel, relative_bandwidth
from ordtool.independence.validation import CHUNK, standardised

Array = NDArray[Any]

MAX_FEATURES = 16384


def random_features(
    rows: Array,
    name: str,
    bandwidth: float | None,
    count: int,
    seed: int,
    variable: int = 0,
    dtype: np.dtype[Any] | None = None,
) -> FeatureKernel:
    r"""Fit a kernel and approximate it by `count` features (Rahimi & Recht 2007; for HSIC, Zhang et al. 2018).

    $\phi(x) = \sqrt{2/D} \, (\cos W x, \sin W x)$ with $D/2$ rows of $W$ from the kernel's spectrum: normal
    with standard deviation $1/\sigma$ for the gaussian kernel, Cauchy with scale $1/\sigma$ in each
    dimension for the laplacian. Then $\phi(x)^\top \phi(y)$ has the mean $k(x, y)$ and a standard deviation
    of at most $1/\sqrt{D}$.

    Args:
        rows: Vectors of shape `(rows, dim)`.
        name: `gaussian` or `laplacian`.
        bandwidth: $\sigma$; None takes the median heuristic.
        count: $D$; an odd number is rounded up.
        seed: Of the frequencies.
        variable: Which variable it is, so that each has frequencies of its own.
        dtype: Of the features; None takes `compute_dtype(rows)`.

    Returns:
        The approximate kernel, with features of shape `(rows, count)`.

    Raises:
        UsageError: For a kernel that is an inner product already.
        OrdtoolError: For an impossible count or bandwidth.
    """
    if name not in WITH_BANDWIDTH:
        raise UsageError(
            f"the {name} kernel has no random features", "it is an inner product already, exact in O(n d^2)"
        )
    check_feature_count(count)
    centred, unit = standardised(rows, dtype)
    half = -(-count // 2)
    if unit == 0:
        return FeatureKernel(
            np.zeros((len(rows), 2), centred.dtype), name, bandwidth=bandwidth, constant=True
        )
    metric: Any = "euclidean" if name == "gaussian" else "cityblock"
    relative = median_distance(centred, metric) if bandwidth is None else relative_bandwidth(bandwidth, unit)
    rng = np.random.default_rng([seed, 0x524646, variable])
    draw = rng.standard_normal if name == "gaussian" else rng.standard_cauchy
    frequencies = draw((rows.shape[1], half)) / relative
    sigma = relative * unit if bandwidth is None else bandwidth
    return FeatureKernel(_features(centred, frequencies), name, bandwidth=sigma)


def _features(rows: Array, frequencies: NDArray[np.float64]) -> Array:
    """Return the centred features, `(rows, 2 * frequencies)`; angles in float64, as they may be large."""
    half = frequencies.shape[1]
    features = np.empty((len(rows), 2 * half), dtype=rows.dtype)
    for start in range(0, len(rows), CHUNK):
        angles = rows[start : start + CHUNK].astype(np.float64) @ frequencies
        features[start : start + CHUNK, :half] = np.cos(angles)
        features[start : start + CHUNK, half:] = np.sin(angles)
    features *= 1 / np.sqrt(half)
    features -= features.mean(axis=0, dtype=np.float64).astype(rows.dtype)
    return features


def check_feature_count(count: int) -> None:
    """Raise an OrdtoolError for a number of features that can't be."""
    if not 2 <= count <= MAX_FEATURES:
        raise OrdtoolError(
            f"{count} random features are not possible", f"give a number from 2 to {MAX_FEATURES}"
        )
