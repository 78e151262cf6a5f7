"""How far the trees of a span scorer agree with those of its teacher."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from ordtool.batching import batches_by_length
from ordtool.parsing.spans.data import TeacherTree
from ordtool.parsing.spans.inference import SpanParser
from ordtool.parsing.trees.builders import unbiased_spans
from ordtool.parsing.trees.chart import Span, flat_trees

__all__ = ["measure_agreement"]

# A span less likely than that is left out; which serves best shows on held-out trees. For the largest F1 it is half that F1,
# if probabilities are what they say (Lipton et al. 2014).
_THRESHOLDS = (0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2)


@torch.inference_mode()
def measure_agreement(parser: SpanParser, held_out: Sequence[TeacherTree]) -> dict[str, float]:
    """Compare a parser's trees with its teacher's.

    Args:
        parser: The parser.
        held_out: Trees that it didn't learn from.

    Returns:
        `agreement`, in percent: of binary trees, which must have too many spans, the share of the teacher's spans that are
        found again; of others F1, and `threshold`, the one at which it is largest.
    """
    counts = np.zeros((len(_THRESHOLDS) if parser.flat else 1, 3))
    for batch in batches_by_length([len(tree.words) for tree in held_out], size=64):
        trees = [held_out[k] for k in batch]
        for drawn, tree in zip(_draw(parser, trees), trees, strict=True):
            counts += [_overlap(spans, tree) for spans in drawn]
    shared, drawn_spans, wanted = counts.T
    if not parser.flat:
        return {"agreement": round(100 * shared[0] / max(wanted[0], 1), 2)}
    f1 = 200 * shared / np.maximum(drawn_spans + wanted, 1)
    best = int(f1.argmax())
    return {"agreement": round(float(f1[best]), 2), "threshold": _THRESHOLDS[best]}


def _draw(parser: SpanParser, trees: Sequence[TeacherTree]) -> Iterator[list[list[Span]]]:
    """Yield the spans of each sentence's tree: of a parser of flat trees at every threshold, of another once."""
    ids = parser.vocabulary.encode_words(tree.words for tree in trees)
    punctuation = [tree.punctuation for tree in trees]
    if not parser.flat:
        for distances in parser.distances(ids, punctuation=punctuation):
            yield [unbiased_spans(distances[0])]
        return
    for table in parser.posteriors(ids, punctuation):
        tables = np.stack([table - threshold for threshold in _THRESHOLDS])
        yield [spans for spans, _ in flat_trees(tables, [len(table)] * len(tables))]


def _overlap(spans: Sequence[Span], tree: TeacherTree) -> np.ndarray:
    """Count shared, drawn and wanted spans, but for the whole sentence."""
    kept = set(spans) - {(0, len(tree.words))}
    return np.array([len(kept & set(tree.spans)), len(kept), len(tree.spans)])
