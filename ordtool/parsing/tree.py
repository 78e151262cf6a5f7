"""Syntactic distances to binary trees, without recursion.

A tree over n words is the list of its spans wider than one word, half-open and in pre-order (a parent before its
children, left before right). `distances[k]` is the height of the boundary before word k.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from ordtool.errors import UsageError, close_match_hint
from ordtool.parsing.chart import chart_spans, margin_scores, mixed_scores

Span = tuple[int, int]
Builder = Literal["paper", "unbiased", "chart", "mixed"]


def paper_spans(distances: Sequence[float] | np.ndarray) -> list[Span]:
    """Builds the tree of the ON-LSTM paper: the largest distance k gives `(left, (word k, right))`.

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
    """Builds the tree that splits at the largest boundary between words, again and again.

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
    """Links every place to the largest value on its left and right within the range where it is itself largest.

    Returns:
        `left` and `right`: the children in the Cartesian tree, -1 for none; the first of equal values is on top.
    """
    numbers = values.tolist() if isinstance(values, np.ndarray) else list(values)
    left, right = [-1] * len(numbers), [-1] * len(numbers)
    path: list[int] = []  # the right edge of the tree so far, from its root down
    for place, value in enumerate(numbers):
        below = -1
        while path and numbers[path[-1]] < value:
            below = path.pop()
        left[place] = below
        if path:
            right[path[-1]] = place
        path.append(place)
    return left, right


def _root(left: list[int], right: list[int]) -> int:
    """Finds the place that is nobody's child."""
    children = set(left) | set(right)
    return next((place for place in range(len(left)) if place not in children), -1)


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
    """Builds a tree with the named builder.

    Args:
        distances: `(n,)`, one a word.
        builder: `paper`, `unbiased`, `chart` (which, of one set of distances, gives the unbiased tree), or `mixed` (see
            `ordtool.parsing.chart.mixed_scores`).

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
    """Mixes the distances of several layers, each standardised over the sentence.

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


def tilt_distances(distances: np.ndarray, tilt: float) -> np.ndarray:
    """Lowers the boundaries further right, so that trees lean to the right where the distances don't say otherwise.

        d_t - tilt * std(d) * t

    With tilt 0 nothing changes; with a large one every tree of the paper's builder is right-branching. It is a prior about a
    language (English puts heads first), not something that a model has learned.

    Args:
        distances: `(n,)`.
        tilt: Standard deviations of the sentence's distances a word.

    Returns:
        `(n,)`.
    """
    if not tilt or not len(distances):
        return distances
    tilted: np.ndarray = distances - tilt * np.std(distances) * np.arange(len(distances))
    return tilted


def right_branching(length: int) -> list[Span]:
    """Gives the tree `(a (b (c d)))`."""
    return [(start, length) for start in range(length - 1)]


def left_branching(length: int) -> list[Span]:
    """Gives the tree `(((a b) c) d)`."""
    return [(0, end) for end in range(length, 1, -1)]


def balanced_tree(length: int) -> list[Span]:
    """Gives the tree that halves every span; of an odd one the left half is the longer."""
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
    """Gives a tree that splits every span at a uniformly drawn boundary: the unbiased tree of random distances."""
    return unbiased_spans(generator.random(length))
