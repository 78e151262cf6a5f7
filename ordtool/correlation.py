"""Pearson's and Spearman's correlation. scipy has both, and takes a process a second to import for it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def pearson(left: NDArray[Any], right: NDArray[Any]) -> float | None:
    """Correlate two rows of numbers, `(n,)` each.

    Returns:
        From -1 to 1; None where it is undefined: one is constant or has numbers that are not finite, or n is below 2.
    """
    left, right = (np.asarray(row, dtype=np.float64) for row in (left, right))
    if len(left) < 2 or np.ptp(left) == 0 or np.ptp(right) == 0:
        return None
    left, right = left - left.mean(), right - right.mean()
    product = float(left / np.linalg.norm(left) @ (right / np.linalg.norm(right)))
    return min(1.0, max(-1.0, product)) if math.isfinite(product) else None


def spearman(left: NDArray[Any], right: NDArray[Any]) -> float | None:
    """Correlate the ranks of two rows of numbers; equal numbers get the mean of their ranks. See `pearson`."""
    if np.isnan(left).any() or np.isnan(right).any():
        return None
    return pearson(_ranks(left), _ranks(right))


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: NDArray[np.float64] = (ends - (counts - 1) / 2)[place]
    return ranks
