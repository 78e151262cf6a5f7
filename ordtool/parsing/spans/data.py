"""Trees that a span scorer learns from: read, split, and looked up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ordtool.errors import OrdtoolError, UsageError
from ordtool.parsing.spans.config import SpanTrainingConfig
from ordtool.parsing.text.chinese import CHINESE_KINDS
from ordtool.parsing.text.vocabulary import UNKNOWN, WordLookup, build_vocabulary
from ordtool.parsing.trees.chart import Span
from ordtool.parsing.trees.predictions import read_predictions
from ordtool.parsing.trees.punctuation import is_punctuation, marks_between
from ordtool.progress import Progress

__all__ = ["DrawnTree", "read_drawn_trees", "split_trees", "word_lookup"]

# Longer lines are no sentences, and their spans would fill the memory.
LONGEST = 200


@dataclass(frozen=True, slots=True)
class DrawnTree:
    """A sentence with its tree: words, marks between them, spans over the words."""

    words: list[str]
    marks: np.ndarray
    spans: list[Span]


def read_drawn_trees(paths: Sequence[str | Path], progress: Progress) -> list[DrawnTree]:
    """Read trees and take the punctuation out of them.

    Args:
        paths: JSONL or brackets, see `read_predictions`. Sentences under three words, which leave no choice, and over 200
            are left out.
        progress: Told of what was left out for its length.

    Raises:
        OrdtoolError: With `file:line`, for what can't be read; or if nothing is left.
    """
    drawn: list[DrawnTree] = []
    long = 0
    progress.start("reading", None, "trees")
    for path in paths:
        for readings in read_predictions(path):
            progress.advance()
            found = readings[0]
            tokens, spans = found.tokens, found.spans
            marks = [is_punctuation(token) for token in tokens]
            words = [token for token, mark in zip(tokens, marks, strict=True) if not mark]
            if len(words) < 3:
                continue
            if len(words) > LONGEST:
                long += 1
                continue
            before = np.concatenate(([0], np.cumsum(~np.array(marks)))).tolist()
            inner = {(before[start], before[end]) for start, end in spans}
            kept = sorted(s for s in inner if s[1] - s[0] > 1 and s != (0, len(words)))
            drawn.append(DrawnTree(words, marks_between(tokens, marks, found.tags, found.offsets), kept))
    if long:
        progress.note(f"{long} sentence(s) of over {LONGEST} words left out")
    if not drawn:
        raise OrdtoolError(
            f"{', '.join(map(str, paths))}: no tree of three words or more",
            "trees are what ordtool parse writes: ordtool parse TEXT -o trees.jsonl",
        )
    return drawn


def split_trees(
    drawn: list[DrawnTree], config: SpanTrainingConfig
) -> tuple[list[DrawnTree], list[DrawnTree]]:
    """Hold out a share of the trees, drawn by the seed; both parts keep their order.

    Raises:
        UsageError: If nothing is left to train on.
    """
    count = round(len(drawn) * config.holdout)
    if count == len(drawn):
        raise UsageError(f"holding out {config.holdout:g} of {len(drawn)} trees leaves nothing to train on")
    order = np.random.default_rng([config.seed, 1]).permutation(len(drawn))
    held = set(order[:count].tolist())
    return [tree for k, tree in enumerate(drawn) if k not in held], [drawn[k] for k in sorted(held)]


def word_lookup(train: Sequence[DrawnTree], config: SpanTrainingConfig, progress: Progress) -> WordLookup:
    """Make the vocabulary of the trees to train on."""
    counts = Counter(word for tree in train for word in tree.words)
    chinese = config.tokens in CHINESE_KINDS
    words = build_vocabulary(counts, config.vocab_size, lowercase=config.lowercase, simplified=chinese)
    lookup = WordLookup(words, lowercase=config.lowercase, token_kind=config.tokens, simplified=chinese)
    total = sum(counts.values())
    unknown = sum(
        count for word, count in counts.items() if words[lookup.word_id(word)].startswith(UNKNOWN[:-1])
    )
    progress.note(
        f"vocabulary: {len(words):,} tokens; {100 * unknown / total:.1f}% of the words need a shape class"
    )
    return lookup
