"""The least base of rotary frequencies that a context length asks for.

Of two keys, one like the query and one drawn at random, the first should get the higher score on average, at any distance
within the context. With independent coordinates of one distribution that is

    f_b(d) = sum_m cos(d b^(-2m/D)) >= 0    for d = 0 .. L - 1,

so the base b has a lower bound, which grows with L (Men et al., "Base of RoPE bounds context length", 2024; Su,
kexue.fm/archives/10122). Larger bases than the least that satisfies it needn't all do so: f oscillates.
"""

from __future__ import annotations

import numpy as np

_WIDEST = 1000.0  # times L: a base at which it holds for all lengths of use
_CHUNK = 4096
_NEAR = 1024


def least_base(length: int, size: int = 128, *, digits: int = 3) -> float | None:
    """Return the least base with which a context of `length` tokens is all within reach.

    The article's search: of 10 equal steps up to 1,000 L the least that will do, of 100 steps up to that the least, and
    so on. It is finite, so the least base may lie a little lower, in an interval that the steps miss.

    Args:
        length: L, in tokens.
        size: D, coordinates of a head that turn.
        digits: How many times steps are made smaller; the last are 10^digits.

    Returns:
        The base; None if 1,000 L won't do, as in heads of a few coordinates.
    """
    exponents = -2 * np.arange(size // 2) / size
    top = _WIDEST * length
    if _failing(top**exponents, length, 0) is not None:
        return None
    for digit in range(1, digits + 1):
        bases = top * np.arange(1, 10**digit + 1) / 10**digit
        top = _least_of(bases, exponents, length)
    return top


def _least_of(bases: np.ndarray, exponents: np.ndarray, length: int) -> float:
    """Return the least of ascending bases that will do; the last one does."""
    alive = np.ones(len(bases), dtype=bool)
    at, distance = 0, 0
    while at < len(bases) - 1:
        failed = _failing(bases[at] ** exponents, length, distance)
        if failed is None:
            break
        distance = failed
        # Where one base fails its neighbours do: those are dropped without a search of their own.
        alive[at] = False
        low, count = at + 1, 64
        while low < len(bases):
            rows = slice(low, low + count)
            fails = np.cos(distance * bases[rows, None] ** exponents).sum(1) < 0
            alive[rows] &= ~fails
            if fails.mean() < 0.2:
                break
            low, count = low + count, min(2 * count, 4096)
        at += int(alive[at:].argmax()) if alive[at:].any() else len(bases)
    return float(bases[min(at, len(bases) - 1)])


def _failing(frequencies: np.ndarray, length: int, near: int) -> int | None:
    """Return a distance at which the sum is negative, looked for near a place first; None: nowhere."""
    low = max(0, near - _NEAR)
    for start in (low, *range(0, length, _CHUNK)):
        distances = np.arange(start, min(start + (2 * _NEAR if start == low else _CHUNK), length))
        sums = np.cos(distances[:, None] * frequencies).sum(1)
        if len(sums) and sums.min() < 0:
            return int(distances[sums.argmin()])
    return None
