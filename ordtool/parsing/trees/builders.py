"""Syntactic distances to binary trees, without recursion: of one model, or of several that vote.

A tree over n words is the list of its spans wider than one word, half-open and in pre-order (a parent before its
children, left before right). `distances[k]` is the height of the boundary before word k.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from ordtool.errors import UsageError, close_match_hint
from ordtool.parsing.trees.chart import (
    CHART_LIMIT,
    chart_spans,
    chart_trees,
    margin_scores,
    mixed_scores,
    vote_scores,
)

Span = tuple[int, int]
Builder = Literal["paper", "unbiased", "chart", "mixed"]


def paper_spans(distances: Sequence[float] | np.ndarray) -> list[Span]:
    """Return the tree of the ON-LSTM paper: the largest distance k gives `(left, (word k, right))`.

    It can't build every tree and leans right (Dyer et al. 2019): the word at the split always stands alone on the
    left of what follows. The first of equal distances is taken.

    Args:
        distances: `(n,)`, one a word; the first one counts too.

    Returns:
        Spans wider than one word, in pre-order.

    Source: Shen et al. 2019, section 5.2 and the reference code; linear time instead of quadratic.
    """
    spans: list[Span] = []
    left, right = _cartesian(distances)
    stack = [(0, len(left), _root(left, right))]
    while stack:
        start, end, split = stack.pop()
        if end - start < 2:
            continue
        spans.append((start, end))
        if start < split < end - 1:
            # The right part, (word, rest), is a span of its own; the left one is visited first.
            stack.append((split, end, -1 - split))
            stack.append((start, split, left[split]))
        elif split >= 0:
            stack.append((start, split, left[split]))
            stack.append((split + 1, end, right[split]))
        else:
            stack.append((start + 1, end, right[-1 - split]))
    return spans


def unbiased_spans(distances: Sequence[float] | np.ndarray) -> list[Span]:
    """Return the tree that splits at the largest boundary between words, again and again.

    Every binary tree can come out. The distance before the first word is no boundary and isn't used; the first of
    equal distances is taken.

    Args:
        distances: `(n,)`, one a word.

    Returns:
        Spans wider than one word, in pre-order.

    Source: Dyer et al. 2019 ("A critical analysis of biased parsers in unsupervised parsing"), section 3.
    """
    left, right = _cartesian(distances[1:])
    spans: list[Span] = []
    stack = [(0, len(distances), _root(left, right))]
    while stack:
        start, end, node = stack.pop()
        if end - start < 2:
            continue
        spans.append((start, end))
        stack.append((node + 1, end, right[node]))
        stack.append((start, node + 1, left[node]))
    return spans


def _cartesian(values: Sequence[float] | np.ndarray) -> tuple[list[int], list[int]]:
    """Link every number to the largest one on its left and right within the range where it is itself largest.

    Returns:
        `left` and `right`: the children in the Cartesian tree, -1 for none; the first of equal values is on top.
    """
    numbers = values.tolist() if isinstance(values, np.ndarray) else list(values)
    left, right = [-1] * len(numbers), [-1] * len(numbers)
    path: list[int] = []  # the right edge of the tree so far, from its root down
    for k, value in enumerate(numbers):
        below = -1
        while path and numbers[path[-1]] < value:
            below = path.pop()
        left[k] = below
        if path:
            right[path[-1]] = k
        path.append(k)
    return left, right


def _root(left: list[int], right: list[int]) -> int:
    """Return the number that is nobody's child; -1 if there is none."""
    children = set(left) | set(right)
    return next((k for k in range(len(left)) if k not in children), -1)


BUILDERS: dict[str, Callable[[Sequence[float] | np.ndarray], list[Span]]] = {
    "paper": paper_spans,
    "unbiased": unbiased_spans,
    "chart": lambda distances: chart_spans(margin_scores(distances)),
    "mixed": lambda distances: chart_spans(mixed_scores(distances, paper_spans(distances))),
}

SPAN_SCORES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "chart": margin_scores,
    "mixed": lambda distances: mixed_scores(distances, paper_spans(distances)),
}
"""Builders that look for the best sum of span scores, and those scores: tables of several models can be added up."""


def build_spans(distances: Sequence[float] | np.ndarray, builder: str = "paper") -> list[Span]:
    """Return the tree that the named builder makes.

    Args:
        distances: `(n,)`, one a word.
        builder: `paper`, `unbiased`, `chart` (which, of one set of distances, gives the unbiased tree), or `mixed` (see
            `ordtool.parsing.trees.chart.mixed_scores`).

    Returns:
        Spans wider than one word, in pre-order.

    Raises:
        UsageError: For an unknown builder.
        ValueError: For distances that are not finite: a tree of NaN means nothing.
    """
    if builder not in BUILDERS:
        raise UsageError(f"unknown builder {builder!r}", close_match_hint(builder, BUILDERS))
    if not np.isfinite(distances).all():
        raise ValueError("distances must be finite numbers")
    return BUILDERS[builder](distances)


def mix_distances(layers: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """Mix the distances of several layers, each standardised over the sentence.

    `z_l = (d_l - mean_l) / std_l`; the mixture `sum_l w_l z_l / sum_l |w_l|` is put back on the layers' own scale
    (their weighted mean and spread), which changes no tree and keeps it comparable to a single layer's distances.

    Args:
        layers: `(layers, n)`.
        weights: One a layer; a single weight that is not 0 gives that layer's distances unchanged.

    Returns:
        `(n,)`, float64.

    Raises:
        ValueError: If there isn't one weight a layer, or all are 0.
    """
    weight = np.asarray(weights, dtype=np.float64)
    layers = np.asarray(layers, dtype=np.float64)
    if weight.shape != layers.shape[:1] or not weight.any():
        raise ValueError(f"{len(layers)} layers need {len(layers)} weights, not all 0; found {list(weights)}")
    if np.count_nonzero(weight) == 1 and weight.max() > 0:
        mixed: np.ndarray = layers[int(np.argmax(weight))]
        return mixed
    share = weight / np.abs(weight).sum()
    mean, deviation = layers.mean(axis=1, keepdims=True), layers.std(axis=1, keepdims=True)
    standard = (layers - mean) / np.maximum(deviation, 1e-12)
    mixed = share @ standard * (np.abs(share) @ deviation) + np.abs(share) @ mean
    return mixed


def add_right_branching_bias(distances: np.ndarray, bias: float) -> np.ndarray:
    """Lower the boundaries further right, so that trees lean to the right where the distances don't say otherwise.

        d_t - bias * std(d) * t

    With 0 nothing changes; with a large one every tree of the paper's builder is right-branching. It is a prior about a
    language (English puts heads first), not something that a model has learned.

    Args:
        distances: `(n,)`.
        bias: Standard deviations of the sentence's distances a word.

    Returns:
        `(n,)`.
    """
    if not bias or not len(distances):
        return distances
    leaning: np.ndarray = distances - bias * np.std(distances) * np.arange(len(distances))
    return leaning


# What stands in for a chart over a sentence that is too long for one.
_LINEAR = {"chart": "unbiased", "mixed": "paper"}


def needs_chart(builders: Sequence[str]) -> bool:
    """Whether trees take a chart: several models always do, to agree."""
    return len(builders) > 1 or builders[0] in SPAN_SCORES


def build_trees(sentences: Sequence[Sequence[np.ndarray]], builders: Sequence[str]) -> list[list[Span]]:
    """Return the tree of each sentence.

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
    for k, by_model in enumerate(sentences):
        if needs_chart(builders) and len(by_model[0]) <= CHART_LIMIT:
            tables[k] = _span_scores(by_model, builders)
        else:
            linear = _LINEAR.get(builders[0], builders[0])
            trees[k] = build_spans(mean_distances(by_model), linear)
    for k, spans in zip(tables, chart_trees(list(tables.values())), strict=True):
        trees[k] = spans
    return trees


def _span_scores(by_model: Sequence[np.ndarray], builders: Sequence[str]) -> np.ndarray:
    if len(set(builders)) == 1 and builders[0] in SPAN_SCORES:
        score = SPAN_SCORES[builders[0]]
        return np.sum([score(distances) for distances in by_model], axis=0)
    trees = [build_spans(distances, name) for distances, name in zip(by_model, builders, strict=True)]
    return vote_scores(trees, len(by_model[0]))


def mean_distances(by_model: Sequence[np.ndarray]) -> np.ndarray:
    """Return the distances of several models, mixed in equal shares; a single model's are as they are."""
    return by_model[0] if len(by_model) == 1 else mix_distances(np.stack(by_model), [1.0] * len(by_model))


def right_branching(length: int) -> list[Span]:
    """Return the tree `(a (b (c d)))`."""
    return [(start, length) for start in range(length - 1)]


def left_branching(length: int) -> list[Span]:
    """Return the tree `(((a b) c) d)`."""
    return [(0, end) for end in range(length, 1, -1)]


def balanced_tree(length: int) -> list[Span]:
    """Return the tree that halves every span; of an odd one the left half is the longer."""
    spans: list[Span] = []
    stack = [(0, length)]
    while stack:
        start, end = stack.pop()
        if end - start < 2:
            continue
        spans.append((start, end))
        middle = (start + end + 1) // 2
        stack.append((middle, end))
        stack.append((start, middle))
    return spans


def random_tree(length: int, generator: np.random.Generator) -> list[Span]:
    """Return a tree that splits every span at a uniformly drawn boundary: the unbiased tree of random distances."""
    return unbiased_spans(generator.random(length))
