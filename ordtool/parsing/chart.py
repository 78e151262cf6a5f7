"""The binary tree with the largest sum of span scores, and the votes that make such scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

Span = tuple[int, int]

CHART_LIMIT = 2_000
"""Words above which callers fall back on a linear builder: the chart takes n^3 / 6 additions."""


def chart_spans(scores: np.ndarray) -> list[Span]:
    """Finds the binary tree with the largest sum of span scores.

        best[i, j] = scores[i, j] + max over k of best[i, k] + best[k, j]

    bottom up (the CKY recurrence without labels), one vectorised step a width. Of equal splits the one with the
    shortest left part is taken, so a table of ties gives the right-branching tree.

    Args:
        scores: `(n, n + 1)`; `scores[i, j]` is the score of words i to j - 1. Widths 0 and 1 are not looked at.

    Returns:
        Spans wider than one word, in pre-order.

    Raises:
        ValueError: If the table has another shape or holds NaN.
    """
    length = len(scores)
    if scores.shape != (length, length + 1) or np.isnan(scores).any():
        raise ValueError(f"expected a table of numbers (n, n + 1), found shape {scores.shape}, or NaN in it")
    if length < 2:
        return []
    # starting[i, w] and ending[j, w] hold the best sum of the span of width w that starts at i or ends at j, so that
    # both parts of every split of one width lie in contiguous slices.
    starting = np.zeros((length + 1, length + 1))
    ending = np.zeros((length + 1, length + 1))
    splits = np.zeros((length + 1, length + 1), dtype=np.int32)
    for width in range(2, length + 1):
        starts = np.arange(length - width + 1)
        sums = starting[: length - width + 1, 1:width] + ending[width:, width - 1 : 0 : -1]
        best = sums.argmax(axis=1)
        total = sums[starts, best] + scores[starts, starts + width]
        starting[starts, width] = total
        ending[starts + width, width] = total
        splits[starts, width] = best + 1
    return _follow(splits, length)


def _follow(splits: np.ndarray, length: int) -> list[Span]:
    spans: list[Span] = []
    stack = [(0, length)]
    while stack:
        start, end = stack.pop()
        if end - start < 2:
            continue
        spans.append((start, end))
        middle = start + int(splits[start, end - start])
        stack.append((middle, end))
        stack.append((start, middle))
    return spans


def vote_scores(trees: Sequence[Iterable[Span]], length: int) -> np.ndarray:
    """Counts how many trees hold each span.

    A vote of the first tree weighs slightly more than one of the second and so on, by less than a whole vote in
    all: where the count is even, the earlier tree decides instead of chance.

    Args:
        trees: Spans of each tree, in order of trust.
        length: Words of the sentence.

    Returns:
        `(length, length + 1)`.
    """
    scores = np.zeros((length, length + 1))
    for rank, spans in enumerate(trees):
        places = np.array(list(spans), dtype=np.intp).reshape(-1, 2)
        # All favours together, over all spans of a tree, stay below one vote.
        scores[places[:, 0], places[:, 1]] += 1.0 + (len(trees) - rank) / (
            2 * (len(trees) + 1) ** 2 * (length + 1)
        )
    return scores


def margin_scores(distances: Sequence[float] | np.ndarray) -> np.ndarray:
    """Scores every span by how far the boundaries around it stand above the boundaries inside it.

        score[i, j] = (min(d_i, d_j) - max(d_(i+1) ... d_(j-1))) / std(d)

    where a sentence's own edges are no boundaries. The score is positive for exactly the spans of the unbiased tree, so one
    table gives that tree; tables of several models add up to a vote that knows how sure each model is.

    Args:
        distances: `(n,)`, one a word, as for the unbiased builder.

    Returns:
        `(n, n + 1)`; 0 for the whole sentence and for widths under 2.
    """
    heights = np.asarray(distances, dtype=np.float64)
    length = len(heights)
    scores = np.zeros((length, length + 1))
    if length < 3:
        return scores
    deviation = max(float(heights[1:].std()), 1e-12)
    edges = np.concatenate(([np.inf], heights[1:], [np.inf]))
    for start in range(length - 1):
        end = slice(start + 2, length + 1)
        inside = np.maximum.accumulate(edges[start + 1 : length])
        scores[start, end] = (np.minimum(edges[start], edges[end]) - inside) / deviation
    scores[0, length] = 0.0
    return scores
