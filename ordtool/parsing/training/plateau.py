"""Training that learns no more than how frequent words are, and how to tell."""

from __future__ import annotations

import math

import numpy as np

from ordtool.parsing.training.data import Encoded
from ordtool.progress import Progress

__all__ = ["PlateauWatch", "frequency_entropy"]

# So many steps in a row; so many nats below the entropy is where learning shows.
_STEPS, _MARGIN = 1000, 0.1


def frequency_entropy(encoded: Encoded) -> float:
    """Return the entropy of a token drawn by its frequency, `<eos>` included, in nats.

    It is the loss of a model that knows how frequent each word is, and nothing else.
    """
    counts = np.append(np.bincount(encoded.ids), len(encoded)).astype(np.float64)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


class PlateauWatch:
    """Warns once when the loss has stayed at that of word frequencies for 1,000 steps after the warm-up.

    Args:
        encoded: The training text.
        warmup: Steps that don't count.
        progress: Who is warned.
    """

    def __init__(self, encoded: Encoded, warmup: int, progress: Progress) -> None:
        self.entropy = frequency_entropy(encoded)
        self.warmup, self.progress = warmup, progress
        self.steps, self.warned = 0, False

    def see(self, step: int, loss: float) -> None:
        """Take note of a step's loss, in nats a token."""
        if step < self.warmup:
            return
        # Single windows scatter: half as many steps back as forward, so that a lucky one doesn't start the count anew.
        self.steps = self.steps + 1 if loss > self.entropy - _MARGIN else max(0, self.steps - 2)
        if self.steps >= _STEPS and not self.warned:
            self.warned = True
            self.progress.warn(
                f"the loss has stayed at that of word frequencies (perplexity {math.exp(self.entropy):,.0f}) for "
                f"{_STEPS:,} steps: a lower `learning_rate` or a longer `warmup` may help"
            )
