"""The binary tree with the largest sum of span scores, and the votes that make such scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

Span = tuple[int, int]

# Of the margins in `mixed_scores`: chosen on CRAFT's training part, where 0.3 to 0.6 differ by half a point of F1.
_MARGIN_SHARE, _LARGEST_MARGIN = 0.4, 2.0

# Of the tables that are held side by side.
_CELLS = 1 << 17

CHART_LIMIT = 2_000
"""Words above which callers fall back on a linear builder: the chart takes n^3 / 6 additions."""


def chart_spans(scores: np.ndarray) -> list[Span]:
    """Return the binary tree with the largest sum of span scores.

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
    return chart_trees([scores])[0]


def chart_trees(tables: Sequence[np.ndarray]) -> list[list[Span]]:
    """Return the best trees of many sentences, those of like lengths side by side; see `chart_spans`.

    Args:
        tables: `(n, n + 1)` each.

    Raises:
        ValueError: If a table has another shape or holds NaN.
    """
    for scores in tables:
        if scores.shape != (len(scores), len(scores) + 1) or np.isnan(scores).any():
            raise ValueError(
                f"expected a table of numbers (n, n + 1), found shape {scores.shape}, or NaN in it"
            )
    trees: list[list[Span]] = [[] for _ in tables]
    order = sorted((k for k in range(len(tables)) if len(tables[k]) > 1), key=lambda k: len(tables[k]))
    while order:
        longest = len(tables[order[-1]])
        count = max(1, _CELLS // (longest + 1) ** 2)
        group, order = order[-count:], order[:-count]
        together = np.zeros((len(group), longest, longest + 1))
        for row, k in enumerate(group):
            length = len(tables[k])
            together[row, :length, : length + 1] = tables[k]
        for k, splits in zip(group, _best_splits(together), strict=True):
            trees[k] = [(start, end) for start, end, _, _ in _follow(splits, len(tables[k]))]
    return trees


def chart_distances(scores: np.ndarray | Tensor, lengths: Sequence[int]) -> list[np.ndarray]:
    """Return the best trees of many sentences, found side by side, as distances.

    The distance at a boundary is 1 / its depth, where the boundary at which the whole sentence is split has depth 1. The
    unbiased builder makes the same tree of these numbers again.

    Args:
        scores: `(sentences, n, n + 1)`, one table a sentence as for `chart_spans`; what lies beyond a sentence's length may
            be anything but NaN. A tensor's splits are found on its device, and copied from there at once.
        lengths: Words of each sentence, n at most.

    Returns:
        `(length,)` for each sentence, one a word; the first is 0: no boundary stands before it.
    """
    splits = _best_splits(scores) if isinstance(scores, np.ndarray) else _best_splits_on_device(scores)
    result = []
    for table, length in zip(splits, lengths, strict=True):
        distances = np.zeros(length)
        for _, _, middle, depth in _follow(table, length):
            distances[middle] = 1 / depth
        result.append(distances)
    return result


def join_pieces(pieces: Sequence[np.ndarray]) -> np.ndarray:
    """Return the distances of a line that was read in pieces, as `chart_distances` gives them, joined from the right.

    Args:
        pieces: `(words,)` each.
    """
    if len(pieces) == 1:
        return pieces[0]
    joined = []
    for number, inside in enumerate(pieces):
        deeper = np.zeros(len(inside))
        deeper[1:] = 1 / (len(pieces) + 1 / inside[1:])
        deeper[0] = 1 / number if number else 0.0
        joined.append(deeper)
    return np.concatenate(joined)


def best_distances(tables: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the best tree of each table of span scores as distances, as `chart_distances` does.

    Args:
        tables: `(n, n + 1)` each, of any lengths; those of one length are looked at side by side.
    """
    found: list[np.ndarray] = [np.zeros(0)] * len(tables)
    by_length: dict[int, list[int]] = {}
    for k, table in enumerate(tables):
        by_length.setdefault(len(table), []).append(k)
    for length, group in by_length.items():
        for first in range(0, len(group), count := max(1, _CELLS // (length + 1) ** 2)):
            some = group[first : first + count]
            trees = chart_distances(np.stack([tables[k] for k in some]), [length] * len(some))
            for k, distances in zip(some, trees, strict=True):
                found[k] = distances
    return found


def flat_trees(gains: np.ndarray, lengths: Sequence[int]) -> list[tuple[list[Span], np.ndarray]]:
    """Return the set of nested spans with the largest sum of gains, for many sentences side by side.

    A set of nested spans is a tree whose nodes may have any number of children, and a span whose gain isn't positive is
    never worth having. So the best set is what remains of the best binary tree by max(0, gain) when the spans without a gain
    are left out of it.

    Args:
        gains: `(sentences, n, n + 1)`, one table a sentence as for `chart_spans`.
        lengths: Words of each sentence, n at most.

    Returns:
        For each sentence the spans wider than one word, in pre-order, the whole sentence always among them, and the
        distances of the binary tree, as `chart_distances` gives them.
    """
    clipped = np.maximum(gains, 0)
    splits = _best_splits(clipped)
    result = []
    for table, bounds, length in zip(clipped, splits, lengths, strict=True):
        nodes = _follow(bounds, length)
        distances = np.zeros(length)
        for _, _, middle, depth in nodes:
            distances[middle] = 1 / depth
        spans = [(start, end) for start, end, _, _ in nodes if table[start, end] > 0 or end - start == length]
        result.append((spans, distances))
    return result


def _best_splits(scores: np.ndarray) -> np.ndarray:
    """The best split of every span: `[b, start, width]` is the width of its left part."""
    count, length, _ = scores.shape
    # starting[b, i, w] and ending[b, j, w] hold the best sum of the span of width w that starts at i or ends at j, so that
    # both parts of every split of one width lie in contiguous slices.
    starting = np.zeros((count, length + 1, length + 1), dtype=scores.dtype)
    ending = np.zeros_like(starting)
    splits = np.zeros(starting.shape, dtype=np.int32)
    for width in range(2, length + 1):
        starts = np.arange(length - width + 1)
        sums = starting[:, : length - width + 1, 1:width] + ending[:, width:, width - 1 : 0 : -1]
        best = sums.argmax(axis=2)
        total = np.take_along_axis(sums, best[..., None], axis=2)[..., 0] + scores[:, starts, starts + width]
        starting[:, starts, width] = total
        ending[:, starts + width, width] = total
        splits[:, starts, width] = best + 1
    return splits


def _best_splits_on_device(scores: Tensor) -> np.ndarray:
    """What `_best_splits` does, in a few kernels a width."""
    count, length, _ = scores.shape
    # As there, but the columns of `ending` are turned round, so that both parts of every split lie in ascending slices.
    starting = scores.new_zeros(count, length + 1, length + 1)
    ending = scores.new_zeros(count, length + 1, length + 1)
    splits = starting.new_zeros(starting.shape).int()
    for width in range(2, length + 1):
        starts = length - width + 1
        sums = starting[:, :starts, 1:width] + ending[:, width:, starts:length]
        best, left = sums.max(dim=2)
        best += scores.diagonal(width, 1, 2)
        starting[:, :starts, width] = best
        ending[:, width:, length - width] = best
        splits[:, :starts, width] = left + 1
    found: np.ndarray = splits.cpu().numpy()
    return found


def _follow(splits: np.ndarray, length: int) -> list[tuple[int, int, int, int]]:
    """Start, end, split and depth of every span of the best tree, in pre-order."""
    widths = splits[:length, : length + 1].tolist()
    nodes: list[tuple[int, int, int, int]] = []
    stack = [(0, length, 1)]
    while stack:
        start, end, depth = stack.pop()
        if end - start < 2:
            continue
        middle = start + widths[start][end - start]
        nodes.append((start, end, middle, depth))
        stack.append((middle, end, depth + 1))
        stack.append((start, middle, depth + 1))
    return nodes


def vote_scores(trees: Sequence[Iterable[Span]], length: int) -> np.ndarray:
    """Return how many trees hold each span.

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
        edges = np.array(list(spans), dtype=np.intp).reshape(-1, 2)
        # All favours together, over all spans of a tree, stay below one vote.
        scores[edges[:, 0], edges[:, 1]] += 1.0 + (len(trees) - rank) / (
            2 * (len(trees) + 1) ** 2 * (length + 1)
        )
    return scores


def margin_scores(distances: Sequence[float] | np.ndarray) -> np.ndarray:
    """Score every span by how far the boundaries around it stand above the boundaries inside it.

        score[i, j] = (min(d_i, d_j) - max(d_(i+1) ... d_(j-1))) / std(d)

    where a sentence's own edges are no boundaries. The score is positive for exactly the spans of the unbiased tree, so one
    table gives that tree; tables of several models add up to a vote that knows how sure each model is.

    Args:
        distances: `(n,)`, one a word, as for the unbiased builder.

    Returns:
        `(n, n + 1)`; 0 for the whole sentence and for widths under 2.
    """
    distances = np.asarray(distances, dtype=np.float64)
    length = len(distances)
    scores = np.zeros((length, length + 1))
    if length < 3:
        return scores
    deviation = max(float(distances[1:].std()), 1e-12)
    edges = np.concatenate(([np.inf], distances[1:], [np.inf]))
    positions = np.arange(length + 1)
    later = positions[None, :] > positions[:-1, None]
    # inside[i, k]: the highest boundary from i + 1 to k.
    inside = np.maximum.accumulate(np.where(later, edges, -np.inf), axis=1)
    outside = np.minimum(edges[:-1, None], edges[None, :])
    wide = positions[None, :] >= positions[:-1, None] + 2
    wide[0, length] = False
    np.subtract(outside[:, 1:], inside[:, :-1], out=scores[:, 1:], where=wide[:, 1:])
    return scores / deviation


def soft_scores(distances: Sequence[float] | np.ndarray, spans: Iterable[Span]) -> np.ndarray:
    """Guess the probability that each span is a constituent, from distances and the tree that a builder made of them.

        p[i, j] = ([the tree holds i to j] + sigmoid(2 margin[i, j])) / 2

    Args:
        distances: `(n,)`.
        spans: Of the tree.

    Returns:
        `(n, n + 1)`, from 0 to 1; 1 for the whole sentence and 0 for widths under 2.
    """
    length = len(distances)
    scores = 0.5 / (1 + np.exp(-2 * np.clip(margin_scores(distances), -20, 20)))
    scores += 0.5 * vote_scores([spans], length).round()
    widths = np.arange(length + 1)[None, :] - np.arange(length)[:, None]
    scores[widths < 2] = 0.0
    scores[widths == length] = float(length > 1)
    return scores


def mixed_scores(distances: Sequence[float] | np.ndarray, spans: Iterable[Span]) -> np.ndarray:
    """Score spans by a tree of the paper's builder and by the margins of the distances, which know different things.

        score[i, j] = [the tree holds i to j] + 0.4 * min(max(margin[i, j], -2), 2)

    The paper's builder knows that a phrase begins with its head and runs on to the right, but can't end one inside another;
    the margins can, and don't know where a phrase begins.

    Args:
        distances: `(n,)`.
        spans: Of the paper's tree over them.

    Returns:
        `(n, n + 1)`; tables of several models add up.
    """
    scores = np.clip(margin_scores(distances), -_LARGEST_MARGIN, _LARGEST_MARGIN) * _MARGIN_SHARE
    return scores + vote_scores([spans], len(distances)).round()
