"""HSIC under independent uniform permutations: the textbook's way, for few rows and to compare with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ordtool.errors import OrdtoolError
from ordtool.independence.kernel_sums import (
    KernelSums,
    cross_product,
    from_cross_products,
    normaliser,
)
from ordtool.independence.kernels import Kernel
from ordtool.io.stages import stage
from ordtool.parallel import ordered_map
from ordtool.progress import SILENT, Progress

Array = NDArray[Any]
Float64Array = NDArray[np.float64]
Pair = tuple[int, int]

MAX_MATRIX_BYTES = 1 << 31
# Numbers gathered at a time: a batch of small matrices, or a strip of a large one.
_GATHER = 1 << 20
_SMALL_ROWS = 256


def shuffle_statistics(
    sums: KernelSums,
    pairs: Sequence[Pair],
    permutations: int,
    rng: Generator,
    estimator: str = "unbiased",
    threads: int | None = None,
    progress: Progress = SILENT,
) -> Float64Array:
    """Return the statistics as observed and under `permutations` independent shuffles.

    Arguments and result are those of `coset_statistics`. Kernels that aren't features are held as matrices.

    Raises:
        OrdtoolError: If those would take more than `MAX_MATRIX_BYTES` each.
    """
    n = sums.rows
    orders = np.concatenate([np.arange(n)[None], _shuffles(n, permutations, rng)])
    values = np.empty((len(pairs), len(orders)))
    by_rows = [pair for pair in pairs if not sums.is_cheap_in_features(pair)]
    matrices = {i: centred_matrix(sums, i, estimator) for i in {i for pair in by_rows for i in pair}}
    progress.start("permutations", values.size, "permutations")
    with stage("permutations", values=values) as at:
        progress.advance(at.done)
        for row, (a, b) in enumerate(pairs):
            first = min(max(at.done - row * len(orders), 0), len(orders))
            if (a, b) in by_rows:
                found = _by_matrices(matrices[a], matrices[b], orders[first:], threads)
                found = (part / normaliser(n, estimator) for part in found)
            else:
                found = _by_features(sums.kernels[a], sums.kernels[b], orders[first:], estimator, threads)
            for part in found:
                done = at.done + len(part)
                values[row, at.done - row * len(orders) : done - row * len(orders)] = part
                at.reach(done)
                progress.advance(len(part))
    progress.close()
    return values


def _shuffles(rows: int, permutations: int, rng: Generator) -> NDArray[np.intp]:
    return rng.permuted(np.tile(np.arange(rows, dtype=np.intp), (permutations, 1)), axis=1)


def centred_matrix(sums: KernelSums, index: int, estimator: str) -> Array:
    """Return the centred matrix whole, `(rows, rows)`: $HKH$, or U-centred for the unbiased estimator.

    Raises:
        OrdtoolError: If it would take more than `MAX_MATRIX_BYTES`.
    """
    n, kernel = sums.rows, sums.kernels[index]
    size = n * n * kernel.dtype.itemsize
    if size > MAX_MATRIX_BYTES:
        raise OrdtoolError(
            f"independent shuffles of {n} rows would hold matrices of {size / 1e9:.0f} GB",
            "use the cyclic scheme (`scheme=cyclic`), which holds none",
        )
    u, diagonal = sums.centring(index, estimator)
    u = u.astype(kernel.dtype)
    matrix = kernel.block(slice(0, n), slice(0, n))
    matrix -= u[:, None]
    matrix -= u
    np.fill_diagonal(matrix, diagonal)
    return matrix


def _by_matrices(
    left: Array, right: Array, orders: NDArray[np.intp], threads: int | None
) -> Iterator[Float64Array]:
    small = len(left) <= _SMALL_ROWS
    batch = max(1, _GATHER // left.size) if small else 1
    work: Callable[[NDArray[np.intp]], Float64Array] = partial(_small if small else _large, left, right)
    jobs = [orders[start : start + batch] for start in range(0, len(orders), batch)]
    return ordered_map(work, jobs, threads)


def _small(left: Array, right: Array, orders: NDArray[np.intp]) -> Float64Array:
    gathered = right[orders[:, :, None], orders[:, None, :]].reshape(len(orders), -1)
    return np.asarray(gathered @ left.ravel(), dtype=np.float64)


def _large(left: Array, right: Array, orders: NDArray[np.intp]) -> Float64Array:
    """Walk over strips of the upper triangle, each of which stays in the cache while it is gathered."""
    order = orders[0]
    strip = max(1, _GATHER // (4 * len(left)))
    total = 0.0
    for start in range(0, len(left), strip):
        rows = right[order[start : start + strip]]
        gathered = rows.take(order[start:], axis=1, mode="clip")
        block = left[start : start + strip, start:]
        size = len(block)
        total += 2 * float(np.vecdot(block, gathered).sum(dtype=np.float64))
        total -= float(np.vecdot(block[:, :size], gathered[:, :size]).sum(dtype=np.float64))
    return np.array([total])


def _by_features(
    left: Kernel, right: Kernel, orders: NDArray[np.intp], estimator: str, threads: int | None
) -> Iterator[Float64Array]:
    phi, psi = left.features, right.features
    assert phi is not None and psi is not None
    norms = left.diagonal(), right.diagonal()
    traces = (norms[0].sum(), norms[1].sum())

    def one(order: NDArray[np.intp]) -> Float64Array:
        cross = cross_product(phi, psi[order])
        diagonals = norms[0] @ norms[1][order]
        square = from_cross_products(np.vdot(cross, cross), diagonals, traces, left.rows, estimator)
        return np.array([float(square)])

    return ordered_map(one, list(orders), threads)
