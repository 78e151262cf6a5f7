"""Products and row sums of kernels over all pairs of rows, block by block: on threads, or as tasks that add up.

Only blocks on and above the diagonal are computed; memory is that of the row sums beside the blocks at hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordtool.independence.kernels import Kernel
from ordtool.io.stages import Stage
from ordtool.parallel import ordered_map
from ordtool.progress import SILENT, Progress

Array = NDArray[Any]
Float64Array = NDArray[np.float64]
Pair = tuple[int, int]

BLOCK = 384


@dataclass(slots=True)
class PartialSums:
    """The sums of some blocks: of a task; the sums of tasks add up to those of all pairs of rows.

    Attributes:
        products: Of each pair of kernels, `(pairs,)`; blocks above the diagonal count twice.
        row_sums: `(kernels, rows)`.
    """

    products: Float64Array
    row_sums: Float64Array

    @classmethod
    def empty(cls, kernels: int, pairs: int, rows: int) -> PartialSums:
        """Sums of no blocks."""
        return cls(np.zeros(pairs), np.zeros((kernels, rows)))

    def merge(self, other: PartialSums) -> PartialSums:
        """Add another task's sums, in place."""
        self.products += other.products
        self.row_sums += other.row_sums
        return self


def block_tasks(rows: int, tasks: int = 1) -> list[list[Pair]]:
    """Deal the blocks on and above the diagonal out to tasks of about as many pairs of rows.

    Returns:
        Of each task the corners of its blocks.
    """
    corners = [(i, j) for i in range(0, rows, BLOCK) for j in range(i, rows, BLOCK)]
    return [corners[task::tasks] for task in range(min(tasks, len(corners)))]


def partial_sums(
    kernels: Sequence[Kernel],
    pairs: Sequence[Pair],
    offsets: Float64Array,
    corners: Sequence[Pair],
    threads: int | None = None,
    progress: Progress = SILENT,
) -> PartialSums:
    """Sum some blocks up: a task. It needs the rows of all kernels, and nothing of other tasks.

    Args:
        kernels: Over the same rows.
        pairs: Of kernels.
        offsets: See `KernelSums`; the same for all tasks.
        corners: Of the blocks; see `block_tasks`.
        threads: Threads to use; None is one a core.
        progress: Advanced by pairs of rows; the caller starts the bar.
    """
    found = PartialSums.empty(len(kernels), len(pairs), kernels[0].rows)
    for pairs_of_rows in _add_blocks(found, kernels, pairs, offsets, corners, threads):
        progress.advance(pairs_of_rows)
    return found


def sum_blocks(
    found: PartialSums,
    at: Stage,
    what: tuple[Sequence[Kernel], Sequence[Pair], Float64Array],
    threads: int | None,
    progress: Progress,
) -> None:
    """Sum all blocks up, behind those that an interrupted run did."""
    n = what[0][0].rows
    [corners] = block_tasks(n)
    progress.start("pairs", n * (n + 1) // 2, "pairs")
    done = [(min(BLOCK, n - i) * min(BLOCK, n - j)) * (0.5 if i == j else 1) for i, j in corners[: at.done]]
    progress.advance(sum(done))
    for pairs_of_rows in _add_blocks(found, *what, corners[at.done :], threads):
        at.reach(at.done + 1)
        progress.advance(pairs_of_rows)
    progress.close()


def _add_blocks(
    found: PartialSums,
    kernels: Sequence[Kernel],
    pairs: Sequence[Pair],
    offsets: Float64Array,
    corners: Sequence[Pair],
    threads: int | None,
) -> Iterator[float]:
    """Add blocks up in order; yield the pairs of rows of each that is added."""
    dtype = np.result_type(*(kernel.dtype for kernel in kernels))
    work = _BlockSums(kernels, pairs, offsets.astype(dtype), dtype)
    for (i, j), (dots, across, down) in zip(corners, ordered_map(work, corners, threads), strict=True):
        found.products += dots if i == j else 2 * dots
        found.row_sums[:, i : i + BLOCK] += across
        if i != j:
            found.row_sums[:, j : j + BLOCK] += down
        yield across.shape[1] * down.shape[1] * (0.5 if i == j else 1)


class _BlockSums:
    """The sums of one block, for all kernels; blocks on the diagonal without their diagonal."""

    def __init__(
        self,
        kernels: Sequence[Kernel],
        pairs: Sequence[Pair],
        offsets: Array,
        dtype: np.dtype[Any],
    ) -> None:
        self._kernels = kernels
        self._pairs = pairs
        self._offsets = offsets
        self._dtype = dtype

    def __call__(self, corner: Pair) -> tuple[Float64Array, Float64Array, Float64Array]:
        i, j = corner
        rows, columns = slice(i, i + BLOCK), slice(j, j + BLOCK)
        blocks = [self._block(index, rows, columns) for index in range(len(self._kernels))]
        across = np.stack([_row_sums(block) for block in blocks])
        down = across if i == j else np.stack([_row_sums(block.T) for block in blocks])
        dots = [np.vecdot(blocks[a], blocks[b]).sum(dtype=np.float64) for a, b in self._pairs]
        return np.array(dots), across, down

    def _block(self, index: int, rows: slice, columns: slice) -> Array:
        kernel = self._kernels[index]
        block = kernel.block(rows, columns)
        block -= self._offsets[index].astype(block.dtype)
        if rows == columns:
            np.fill_diagonal(block, 0)
        return block


def _row_sums(block: Array) -> Float64Array:
    return np.asarray(block @ np.ones(block.shape[1], dtype=block.dtype), dtype=np.float64)
