"""Batches of texts of like length, in a random order that depends on the seed and the epoch alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_WINDOW = 20


def shuffled_batches(lengths: NDArray[np.int64], size: int, seed: int, epoch: int) -> list[list[int]]:
    """Cut a random order into windows of some batches, sort each by length, and shuffle the batches.

    Args:
        lengths: Tokens of each text.
        size: Texts a batch.
        seed: Of the order.
        epoch: Which pass over the data it is.

    Returns:
        Indices of each batch; every text is in one.
    """
    rng = np.random.default_rng([seed, epoch, 0x4C5354])
    order = rng.permutation(len(lengths))
    batches = []
    for start in range(0, len(order), size * _WINDOW):
        window = order[start : start + size * _WINDOW]
        window = window[np.argsort(lengths[window], kind="stable")]
        batches += [window[at : at + size].tolist() for at in range(0, len(window), size)]
    return [batches[place] for place in rng.permutation(len(batches))]


def sorted_batches(lengths: NDArray[np.int64], tokens: int) -> list[list[int]]:
    """Fill batches of texts sorted by length up to a number of tokens, padding included, the longest first."""
    order = np.argsort(-lengths, kind="stable").tolist()
    batches, start = [], 0
    while start < len(order):
        count = max(1, tokens // max(1, int(lengths[order[start]])))
        batches.append(order[start : start + count])
        start += count
    return batches
