"""HSIC under all rotations of a random order at once, by Fourier transforms; see `permutation` for why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import as_strided, sliding_window_view
from numpy.random import Generator
from numpy.typing import NDArray

from ordtool.independence.kernel_sums import KernelSums, from_cross_products, normaliser, on_device
from ordtool.independence.kernels import Kernel
from ordtool.io.stages import Stage, stage
from ordtool.parallel import ordered_map
from ordtool.progress import SILENT, Progress

if TYPE_CHECKING:
    from ordtool.independence.device_kernels import DeviceBands, DeviceKernel

Array = NDArray[Any]
Float64Array = NDArray[np.float64]
Pair = tuple[int, int]

# Numbers that the bands and spectra of one job may hold; and the widest band, whose rows fill cache lines.
_JOB_NUMBERS = 1 << 23
_WIDTHS = (16, 128)
_ROWS = 64


def coset_statistics(
    sums: KernelSums,
    pairs: Sequence[Pair],
    permutations: int,
    rng: Generator,
    estimator: str = "unbiased",
    threads: int | None = None,
    progress: Progress = SILENT,
) -> Float64Array:
    """Return the statistics as observed and under `permutations` random rotations.

    Args:
        sums: Of the kernels; rotations are computed on the device that they were.
        pairs: Indices of the kernels to compare; the second is permuted.
        permutations: How many.
        rng: Draws the orders and the rotations.
        estimator: `biased` or `unbiased`.
        threads: Threads to use.
        progress: Told of the work.

    Returns:
        `(pairs, 1 + permutations)`, the observed first.
    """
    orders, chosen = draw_cosets(sums.rows, permutations, rng)
    sides = [side for pair in pairs if not sums.is_cheap_in_features(pair) for side in pair]
    centrings = {i: sums.centring(i, estimator) for i in sides}
    numbers = sorted(centrings)
    there = on_device([sums.kernels[i] for i in numbers], sums.device) if numbers else None
    placed = None if there is None else dict(zip(numbers, there, strict=True))
    n = sums.rows
    rotations = np.empty((len(pairs), len(orders), n))
    spectra = np.zeros((len(sides) // 2, n // 2 + 1), dtype=np.complex128)
    progress.start("permutations", len(orders) * n, "permutations")
    # A step is a job of a coset; there are fewer of them than rows.
    with stage("permutations", rotations=rotations, spectra=spectra) as at:
        state = _State(sums, pairs, estimator, centrings, placed, spectra, at)
        progress.advance(at.done // n * n)
        for number in range(at.done // n, len(orders)):
            rotations[:, number] = _one_coset(state, orders[0], orders[number], threads, progress)
            spectra[...] = 0
            at.reach((number + 1) * n)
    progress.close()
    return rotations.reshape(len(pairs), -1)[:, chosen]


def draw_cosets(
    rows: int, permutations: int, rng: Generator
) -> tuple[list[NDArray[np.intp]], NDArray[np.intp]]:
    """Draw the orders of the rows, and which rotations of them are looked at.

    Returns:
        The orders of $y$'s rows, of which the first is that of $x$'s rows; and the chosen rotations: 0
        (nothing is permuted) and `permutations` different others, where `rows * order + shift` is the
        rotation of `order` by `shift`.
    """
    count = -(-(permutations + 1) // rows)
    orders = [rng.permutation(rows) for _ in range(count)]
    others = 1 + rng.choice(count * rows - 1, size=permutations, replace=False)
    return orders, np.concatenate([[0], others]).astype(np.intp)


@dataclass(frozen=True)
class _State:
    sums: KernelSums
    pairs: Sequence[Pair]
    estimator: str
    centrings: dict[int, tuple[Float64Array, Float64Array]]
    on_device: dict[int, DeviceKernel] | None
    spectra: NDArray[np.complex128]
    at: Stage


def _one_coset(
    state: _State,
    left: NDArray[np.intp],
    right: NDArray[np.intp],
    threads: int | None,
    progress: Progress,
) -> Float64Array:
    """Return the statistic of every pair under every shift, `(pairs, rows)`."""
    n = state.sums.rows
    result = np.empty((len(state.pairs), n))
    cheap = [state.sums.is_cheap_in_features(pair) for pair in state.pairs]
    by_rows = [index for index, is_cheap in enumerate(cheap) if not is_cheap]
    if by_rows:
        pairs = [state.pairs[index] for index in by_rows]
        result[by_rows] = _by_bands(state, pairs, left, right, threads, progress)
    else:
        progress.advance(n)
    for index, is_cheap in enumerate(cheap):
        if is_cheap:
            result[index] = _by_features(state, state.pairs[index], left, right, threads)
    return result


def _by_bands(
    state: _State,
    pairs: Sequence[Pair],
    left: NDArray[np.intp],
    right: NDArray[np.intp],
    threads: int | None,
    progress: Progress,
) -> Float64Array:
    n = state.sums.rows
    if state.on_device is not None:
        total = _device_bands(state, pairs, left, right)(progress)
        return _finished(state, pairs, left, right, total)
    work = _Bands(state, pairs, left, right)
    width = min(max(_JOB_NUMBERS // (n * work.sides) // 16 * 16, _WIDTHS[0]), _WIDTHS[1])
    jobs = [(first, min(width, n // 2 + 1 - first)) for first in range(1, n // 2 + 1, width)]
    done = state.at.done % n
    progress.advance(sum(n * width / (n // 2) for _, width in jobs[:done]))
    for job, part in zip(jobs[done:], ordered_map(work, jobs[done:], threads), strict=True):
        state.spectra[...] += part
        state.at.reach(state.at.done + 1)
        progress.advance(n * job[1] / (n // 2))
    return _finished(state, pairs, left, right, state.spectra)


def _finished(
    state: _State,
    pairs: Sequence[Pair],
    left: NDArray[np.intp],
    right: NDArray[np.intp],
    spectra: NDArray[np.complex128],
) -> Float64Array:
    n = state.sums.rows
    sums = 2 * _inverse(spectra, n) + _diagonals(state, pairs, left, right)
    return np.asarray(sums / normaliser(n, state.estimator))


def _device_bands(
    state: _State, pairs: Sequence[Pair], left: NDArray[np.intp], right: NDArray[np.intp]
) -> DeviceBands:
    from ordtool.independence.device_kernels import DeviceBands

    assert state.on_device is not None
    placed = state.on_device

    def sides(
        numbers: set[int], order: NDArray[np.intp]
    ) -> dict[int, tuple[DeviceKernel, NDArray[np.intp], Float64Array]]:
        return {i: (placed[i], order, state.centrings[i][0][order]) for i in sorted(numbers)}

    firsts, seconds = {a for a, _ in pairs}, {b for _, b in pairs}
    if left is right:
        both = sides(firsts | seconds, left)
        return DeviceBands(both, both, pairs)
    return DeviceBands(sides(firsts, left), sides(seconds, right), pairs)


def _diagonals(
    state: _State, pairs: Sequence[Pair], left: NDArray[np.intp], right: NDArray[np.intp]
) -> Float64Array:
    sequences = [(state.centrings[a][1][left], state.centrings[b][1][right]) for a, b in pairs]
    return np.stack([_correlation(a, b) for a, b in sequences])


class _Bands:
    """The summed spectra of the sequences at distances `first, ..., first + width - 1`."""

    def __init__(
        self, state: _State, pairs: Sequence[Pair], left: NDArray[np.intp], right: NDArray[np.intp]
    ) -> None:
        self._pairs = pairs
        self._rows = state.sums.rows
        lefts, rights = {a for a, _ in pairs}, {b for _, b in pairs}
        self._same = left is right
        if self._same:
            lefts = rights = lefts | rights
        self._left = {a: self._ordered(state, a, left) for a in sorted(lefts)}
        self._right = (
            self._left if self._same else {b: self._ordered(state, b, right) for b in sorted(rights)}
        )
        self.sides = len(self._left) + (0 if self._same else len(self._right))

    def _ordered(self, state: _State, index: int, order: NDArray[np.intp]) -> tuple[Kernel, Array]:
        """Return the kernel and its centring in the order, continued half a round past its end."""
        around = np.concatenate([order, order[: self._rows // 2 + 1]])
        kernel = state.sums.kernels[index].subset(around)
        return kernel, state.centrings[index][0][around].astype(kernel.dtype)

    def __call__(self, job: Pair) -> NDArray[np.complex128]:
        first, width = job
        left = {a: self._spectrum(*side, first, width) for a, side in self._left.items()}
        right = left
        if not self._same:
            right = {b: self._spectrum(*side, first, width) for b, side in self._right.items()}
        # vecdot conjugates its first argument.
        return np.stack([np.vecdot(left[a], right[b]).astype(np.complex128) for a, b in self._pairs])

    def _spectrum(self, kernel: Kernel, u: Array, first: int, width: int) -> Array:
        from scipy.fft import rfft

        band = self._band(kernel, first, width)
        band -= u[: self._rows, None]
        band -= sliding_window_view(u[first : first + self._rows + width - 1], width)
        if 2 * (first + width - 1) == self._rows:
            # A pair at half a round is met twice.
            band[:, -1] *= np.sqrt(0.5)
        return np.asarray(rfft(band, axis=0, overwrite_x=True))

    def _band(self, kernel: Kernel, first: int, width: int) -> Array:
        """Return $K_{i, i + first + k}$ at `[i, k]`, `(rows, width)`."""
        band = np.empty((self._rows, width), dtype=kernel.dtype)
        for i in range(0, self._rows, _ROWS):
            rows = min(_ROWS, self._rows - i)
            exponent = kernel.exponent(slice(i, i + rows), slice(i + first, i + first + rows + width - 1))
            down, across = exponent.strides
            diagonals = as_strided(exponent, (rows, width), (down + across, across))
            kernel.apply(diagonals, out=band[i : i + rows])
        return band


def _by_features(
    state: _State,
    pair: Pair,
    left: NDArray[np.intp],
    right: NDArray[np.intp],
    threads: int | None,
) -> Float64Array:
    r"""Return $\lVert \sum_i \phi_i \psi_{i+s}^\top \rVert^2$ for all $s$ by correlating every two columns."""
    from scipy.fft import rfft

    kernels = [state.sums.kernels[index] for index in pair]
    features = [kernel.features for kernel in kernels if kernel.features is not None]
    phi, psi = (rfft(rows[order], axis=0) for rows, order in zip(features, (left, right), strict=True))
    n = state.sums.rows

    def column(index: int) -> Float64Array:
        return np.square(_inverse(phi[:, index].conj() * psi.T, n)).sum(axis=0, dtype=np.float64)

    squares = sum(ordered_map(column, range(phi.shape[1]), threads), np.zeros(n))
    norms = [kernel.diagonal() for kernel in kernels]
    traces = (norms[0].sum(), norms[1].sum())
    diagonals = _correlation(norms[0][left], norms[1][right])
    return np.asarray(from_cross_products(squares, diagonals, traces, n, state.estimator))


def _correlation(left: Float64Array, right: Float64Array) -> Float64Array:
    r"""Return $\sum_i a_i b_{i+s}$ for all shifts $s$."""
    from scipy.fft import rfft

    return _inverse(rfft(left).conj() * rfft(right), len(left))


def _inverse(spectrum: Array, rows: int) -> Array:
    from scipy.fft import irfft

    return np.asarray(irfft(spectrum, rows, axis=-1))
