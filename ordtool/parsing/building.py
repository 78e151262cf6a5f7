"""Distances of one model or several to trees, many sentences side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ordtool.parsing.chart import CHART_LIMIT, chart_trees, vote_scores
from ordtool.parsing.tree import SPAN_SCORES, Span, build_spans, mix_distances

__all__ = ["build_trees", "mean_distances", "needs_chart"]

# What stands in for a chart over a sentence that is too long for one.
_LINEAR = {"chart": "unbiased", "mixed": "paper"}


def needs_chart(builders: Sequence[str]) -> bool:
    """Say whether trees take a chart: several models always do, to agree."""
    return len(builders) > 1 or builders[0] in SPAN_SCORES


def build_trees(sentences: Sequence[Sequence[np.ndarray]], builders: Sequence[str]) -> list[list[Span]]:
    """Build the tree of each sentence.

    Several models whose builders are all `chart`, or all `mixed`, have their span scores added up; otherwise a tree a model
    is built, and the trees vote. A sentence over `CHART_LIMIT` words gets the tree of its mean distances.

    Args:
        sentences: Of each sentence the distances `(words,)` of each model.
        builders: A builder a model.

    Returns:
        For each sentence its spans wider than one word, in pre-order.
    """
    trees: list[list[Span]] = [[] for _ in sentences]
    tables: dict[int, np.ndarray] = {}
    for place, mixtures in enumerate(sentences):
        if needs_chart(builders) and len(mixtures[0]) <= CHART_LIMIT:
            tables[place] = _span_scores(mixtures, builders)
        else:
            linear = _LINEAR.get(builders[0], builders[0])
            trees[place] = build_spans(mean_distances(mixtures), linear)
    for place, spans in zip(tables, chart_trees(list(tables.values())), strict=True):
        trees[place] = spans
    return trees


def _span_scores(mixtures: Sequence[np.ndarray], builders: Sequence[str]) -> np.ndarray:
    if len(set(builders)) == 1 and builders[0] in SPAN_SCORES:
        score = SPAN_SCORES[builders[0]]
        return np.sum([score(heights) for heights in mixtures], axis=0)
    trees = [build_spans(heights, builder) for heights, builder in zip(mixtures, builders, strict=True)]
    return vote_scores(trees, len(mixtures[0]))


def mean_distances(mixtures: Sequence[np.ndarray]) -> np.ndarray:
    """Mix the distances of several models in equal shares; a single model's are as they are."""
    return mixtures[0] if len(mixtures) == 1 else mix_distances(np.stack(mixtures), [1.0] * len(mixtures))
