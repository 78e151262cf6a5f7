"""Soft votes: what several models think of every span, not only of the spans of their best trees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ordtool.errors import UsageError
from ordtool.parsing.trees.builders import build_trees
from ordtool.parsing.trees.chart import soft_scores
from ordtool.parsing.trees.config import TreeConfig

__all__ = ["SOFT_LIMIT", "VOTES", "check_weights", "guess_posteriors", "mean_tables", "probable_spans"]

VOTES = ("trees", "posteriors")

SOFT_LIMIT = 200
"""Words of the longest sentence whose spans are all looked at; the trees of longer ones vote."""

# Spans less likely than this are not worth writing down.
_LEAST = 0.05


def check_weights(weights: Sequence[float], models: int) -> None:
    """Raise a UsageError unless there is one weight a model, none below 0 and not all of them 0."""
    if len(weights) != models or min(weights) < 0 or not sum(weights) > 0:
        raise UsageError(
            f"{models} models need {models} weights, none below 0 and not all of them 0; found {list(weights)}"
        )


def guess_posteriors(
    distances: Sequence[np.ndarray], punctuation: Sequence[np.ndarray], config: TreeConfig
) -> list[np.ndarray]:
    """Return what a model that gives no more than distances thinks of every span; see `soft_scores`.

    Args:
        distances: `(words,)` a sentence.
        punctuation: `(words + 1,)` a sentence.
        config: How the model's distances make trees.
    """
    raised = [config.add_priors(own, between) for own, between in zip(distances, punctuation, strict=True)]
    trees = build_trees([[own] for own in raised], [config.builder])
    return [soft_scores(own, spans) for own, spans in zip(raised, trees, strict=True)]


def mean_tables(
    by_model: Sequence[Sequence[np.ndarray]], weights: Sequence[float] | None
) -> list[np.ndarray]:
    """Return the weighted mean of the tables of several models.

    Args:
        by_model: Of each model a table `(words, words + 1)` a sentence.
        weights: One a model; None: all the same.
    """
    shares = np.asarray(weights if weights is not None else [1.0] * len(by_model), dtype=np.float64)
    shares = shares / shares.sum()
    return [
        np.tensordot(shares, np.stack([np.asarray(table, dtype=np.float64) for table in tables]), axes=1)
        for tables in zip(*by_model, strict=True)
    ]


def probable_spans(table: np.ndarray, dropped: Sequence[bool]) -> list[tuple[int, int, float]]:
    """List the spans of two words or more that have a probability of 0.05 at least.

    Args:
        table: `(words, words + 1)`.
        dropped: Which tokens of the sentence are punctuation, which is no word.

    Returns:
        Start and end among the tokens, and the probability with three decimals.
    """
    positions = [k for k, drop in enumerate(dropped) if not drop]
    starts, ends = np.nonzero(table >= _LEAST)
    return [
        (positions[i], positions[j - 1] + 1, round(float(table[i, j]), 3))
        for i, j in zip(starts.tolist(), ends.tolist(), strict=True)
        if j - i > 1
    ]
