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
from ordtool.parsing.spans.words import AffixVocabulary
from ordtool.parsing.text.chinese import CHINESE_KINDS
from ordtool.parsing.text.vocabulary import UNKNOWN, Vocabulary, build_vocabulary
from ordtool.parsing.trees.chart import Span
from ordtool.parsing.trees.predictions import Prediction, read_predictions
from ordtool.parsing.trees.punctuation import is_punctuation, punctuation_between
from ordtool.progress import Progress, counted

__all__ = ["CHAIN", "TeacherTree", "count_labels", "make_vocabulary", "read_teacher_trees", "split_trees"]

CHAIN = "+"
"""Joins the labels of a chain of unary nodes."""

# A label that fewer nodes have isn't learned; a part of speech has more to show.
_RAREST_LABEL, _RAREST_TAG = 10, 5
# Longer lines are no sentences, and their spans would fill the memory.
LONGEST = 200


@dataclass(frozen=True, slots=True)
class TeacherTree:
    """A sentence with the tree that a teacher drew over it.

    Attributes:
        words: Its words.
        punctuation: What stands between them, `(words + 1,)`; see `punctuation_between`.
        spans: Constituents over the words, but for single words and the whole sentence.
        shares: Spans and the probability that each is a constituent, where the teacher isn't sure; None: `spans` are.
        labels: The label of every span that has one, single words and the whole sentence too; those of a unary chain are
            joined: `S+VP`. None: the trees have no labels.
        tags: Parts of speech; None: not known.
    """

    words: list[str]
    punctuation: np.ndarray
    spans: list[Span]
    shares: list[tuple[int, int, float]] | None = None
    labels: dict[Span, str] | None = None
    tags: list[str] | None = None


def read_teacher_trees(paths: Sequence[str | Path], progress: Progress) -> list[TeacherTree]:
    """Read trees and take the punctuation out of them.

    Args:
        paths: JSONL or brackets, see `read_predictions`. Sentences over 200 words are left out, and those under three, which
            leave no choice, unless they have labels.
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
            elif len(tree.words) >= (1 if tree.labels else 3):
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
    length = len(words)
    over_words = {(before[start], before[end]) for start, end in prediction.spans}
    spans = sorted(span for span in over_words if span[1] - span[0] > 1 and span != (0, length))
    punctuation = punctuation_between(tokens, dropped, prediction.tags, prediction.offsets)
    tags = (
        None
        if prediction.tags is None
        else [tag for tag, drop in zip(prediction.tags, dropped, strict=True) if not drop]
    )
    return TeacherTree(
        words, punctuation, spans, _shares(prediction, before, length), _labels(prediction, before), tags
    )


def _shares(
    prediction: Prediction, before: Sequence[int], length: int
) -> list[tuple[int, int, float]] | None:
    """The probabilities of spans over the words: of those that punctuation alone told apart, the largest."""
    if prediction.posteriors is None:
        return None
    shares: dict[Span, float] = {}
    for start, end, share in prediction.posteriors:
        span = (before[start], before[end])
        if span[1] - span[0] > 1 and span != (0, length):
            shares[span] = max(share, shares.get(span, 0.0))
    return [(*span, share) for span, share in sorted(shares.items())]


def _labels(prediction: Prediction, before: Sequence[int]) -> dict[Span, str] | None:
    """The labels of spans over the words, those of unary chains joined from the top down."""
    if prediction.constituents is None:
        return None
    chains: dict[Span, list[str]] = {}
    for label, start, end in prediction.constituents:
        if label and before[start] < before[end]:
            chains.setdefault((before[start], before[end]), []).append(label)
    return {span: CHAIN.join(labels) for span, labels in chains.items()}


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


def make_vocabulary(counts: Counter[str], config: SpanTrainingConfig, progress: Progress) -> Vocabulary:
    """Return the vocabulary of what there is to train on, from how often each word occurs."""
    chinese = config.tokens in CHINESE_KINDS
    words = build_vocabulary(counts, config.vocab_size, lowercase=config.lowercase, simplified=chinese)
    kind = AffixVocabulary if config.affixes else Vocabulary
    vocabulary = kind(words, lowercase=config.lowercase, token_kind=config.tokens, simplified=chinese)
    total = sum(counts.values())
    unknown = sum(
        count for word, count in counts.items() if vocabulary.token_of(word).startswith(UNKNOWN[:-1])
    )
    progress.note(
        f"vocabulary: {len(words):,} tokens; {100 * unknown / total:.1f}% of the words need a shape class"
    )
    return vocabulary


def count_labels(trees: Sequence[TeacherTree]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the labels and the parts of speech of trees that are frequent enough to be learned, in alphabetical order.

    Tags are those of trees with labels: where a parser drew a tree over a treebank's tokens, the tags aren't its own.

    Returns:
        Labels, of which the first is `""`, no phrase at all; and tags. None at all where no tree has any.
    """
    labelled = [tree for tree in trees if tree.labels]
    labels = Counter(label for tree in labelled for label in (tree.labels or {}).values())
    tags = Counter(tag for tree in labelled for tag in tree.tags or () if tag)
    kept = sorted(label for label, count in labels.items() if count >= min(_RAREST_LABEL, len(trees)))
    return (
        ("", *kept) if kept else (),
        tuple(sorted(tag for tag, count in tags.items() if count >= min(_RAREST_TAG, len(trees)))),
    )
