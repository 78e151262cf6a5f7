"""The median heuristic: a bandwidth from the data, for each variable on its own."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

MEDIAN_ROWS = 1000
"""Above this number of rows the median is taken over that many of them."""

Metric = Literal["euclidean", "cityblock"]


def median_distance(rows: NDArray[Any], metric: Metric = "euclidean") -> float:
    """Take the median of the distances between different rows.

    Of more than `MEDIAN_ROWS` rows, that many are looked at. They are chosen by where they fall along one
    fixed direction, evenly from one end to the other, so the choice depends on the set of rows alone: it is
    the same for every order of them (a permutation test stays exact) and in every unit.

    More than half of the distances are 0 where rows repeat, as labels do; then it is the median of the
    others.

    Args:
        rows: Finite numbers of shape `(rows, dim)`.
        metric: `euclidean`, or `cityblock` (the sum of absolute differences).

    Returns:
        The distance; 0 if all rows are the same.
    """
    distances = pair_distances(_representatives(rows).astype(np.float64), metric)
    median = _median(distances)
    if median == 0 and distances.any():
        median = _median(distances[distances > 0])
    return median


def _median(distances: NDArray[Any]) -> float:
    middle = [(len(distances) - 1) // 2, len(distances) // 2]
    return float(np.partition(distances, middle)[middle].mean(dtype=np.float64))


def pair_distances(rows: NDArray[np.float64], metric: Metric = "euclidean") -> NDArray[np.float64]:
    """Return the distances of all pairs of rows, shape `(rows * (rows - 1) / 2,)`."""
    if metric == "cityblock":
        from scipy.spatial.distance import pdist

        return np.asarray(pdist(rows, "cityblock"))
    squares = np.einsum("ij,ij->i", rows, rows)
    squared = squares[:, None] + squares
    squared -= 2 * (rows @ rows.T)
    upper = np.concatenate([squared[i, i + 1 :] for i in range(len(rows))])
    # Repeated rows leave a rounding error where the distance is 0, which labels and bags of words rely on.
    upper[upper < 16 * np.finfo(np.float64).eps * squares.max()] = 0
    return np.asarray(np.sqrt(upper, out=upper))


def _representatives(rows: NDArray[Any]) -> NDArray[Any]:
    if len(rows) <= MEDIAN_ROWS:
        return rows
    direction = np.random.default_rng(0).standard_normal(rows.shape[1])
    order = np.argsort(rows @ direction, kind="stable")
    picks = np.linspace(0, len(rows) - 1, MEDIAN_ROWS).round().astype(np.intp)
    return np.asarray(rows[order[picks]])
