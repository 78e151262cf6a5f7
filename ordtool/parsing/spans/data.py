"""Trees that a span scorer learns from: read, split, and looked up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ordtool.batching import hold_out
from ordtool.errors import OrdtoolError, UsageError
from ordtool.parsing.spans.config import SpanTrainingConfig
from ordtool.parsing.text.chinese import CHINESE_KINDS
from ordtool.parsing.text.vocabulary import UNKNOWN, Vocabulary, build_vocabulary
from ordtool.parsing.trees.chart import Span
from ordtool.parsing.trees.predictions import Prediction, read_predictions
from ordtool.parsing.trees.punctuation import is_punctuation, punctuation_between
from ordtool.progress import Progress, counted

__all__ = ["TeacherTree", "make_vocabulary", "read_teacher_trees", "split_trees"]

# Longer lines are no sentences, and their spans would fill the memory.
LONGEST = 200


@dataclass(frozen=True, slots=True)
class TeacherTree:
    """A sentence with the tree that a teacher drew over it.

    Attributes:
        words: Its words.
        punctuation: What stands between them, `(words + 1,)`; see `punctuation_between`.
        spans: Constituents over the words, but for single words and the whole sentence.
    """

    words: list[str]
    punctuation: np.ndarray
    spans: list[Span]


def read_teacher_trees(paths: Sequence[str | Path], progress: Progress) -> list[TeacherTree]:
    """Read trees and take the punctuation out of them.

    Args:
        paths: JSONL or brackets, see `read_predictions`. Sentences under three words, which leave no choice, and over 200
            are left out.
        progress: Told of what was left out for its length.

    Raises:
        OrdtoolError: With `file:line`, for what can't be read; or if nothing is left.
    """
    trees: list[TeacherTree] = []
    long = 0
    progress.start("reading", None, "trees")
    for path in paths:
        for readings in read_predictions(path):
            progress.advance()
            tree = _without_punctuation(readings[0])
            if len(tree.words) > LONGEST:
                long += 1
            elif len(tree.words) >= 3:
                trees.append(tree)
    if long:
        progress.note(f"{counted(long, 'sentence')} of over {LONGEST} words left out")
    if not trees:
        raise OrdtoolError(
            f"{', '.join(map(str, paths))}: no tree of three words or more",
            "trees are what ordtool parse writes: ordtool parse TEXT -o trees.jsonl",
        )
    return trees


def _without_punctuation(prediction: Prediction) -> TeacherTree:
    tokens = prediction.tokens
    dropped = [is_punctuation(token) for token in tokens]
    words = [token for token, drop in zip(tokens, dropped, strict=True) if not drop]
    before = np.concatenate(([0], np.cumsum(~np.array(dropped, dtype=bool)))).tolist()
    over_words = {(before[start], before[end]) for start, end in prediction.spans}
    spans = sorted(span for span in over_words if span[1] - span[0] > 1 and span != (0, len(words)))
    punctuation = punctuation_between(tokens, dropped, prediction.tags, prediction.offsets)
    return TeacherTree(words, punctuation, spans)


def split_trees(
    trees: list[TeacherTree], config: SpanTrainingConfig
) -> tuple[list[TeacherTree], list[TeacherTree]]:
    """Hold out a share of the trees, drawn by the seed; both parts keep their order.

    Raises:
        UsageError: If nothing is left to train on.
    """
    count = round(len(trees) * config.holdout)
    if count == len(trees):
        raise UsageError(f"holding out {config.holdout:g} of {len(trees)} trees leaves nothing to train on")
    kept, held = hold_out(len(trees), count, [config.seed, 1])
    return [trees[k] for k in kept], [trees[k] for k in held]


def make_vocabulary(
    train: Sequence[TeacherTree], config: SpanTrainingConfig, progress: Progress
) -> Vocabulary:
    """Return the vocabulary of the trees to train on."""
    counts = Counter(word for tree in train for word in tree.words)
    chinese = config.tokens in CHINESE_KINDS
    words = build_vocabulary(counts, config.vocab_size, lowercase=config.lowercase, simplified=chinese)
    vocabulary = Vocabulary(words, lowercase=config.lowercase, token_kind=config.tokens, simplified=chinese)
    total = sum(counts.values())
    unknown = sum(
        count for word, count in counts.items() if words[vocabulary.word_id(word)].startswith(UNKNOWN[:-1])
    )
    progress.note(
        f"vocabulary: {len(words):,} tokens; {100 * unknown / total:.1f}% of the words need a shape class"
    )
    return vocabulary
