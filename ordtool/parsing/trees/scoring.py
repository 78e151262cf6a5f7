"""F1 of predicted trees under a named protocol.

Figures of unsupervised parsing differ by ten points with the same trees, depending on what is counted
(docs/score-trees.md), so every choice is a field of `Protocol`, and trivial trees are scored beside the prediction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np

from ordtool.parsing.trees.builders import (
    balanced_tree,
    left_branching,
    random_tree,
    right_branching,
)
from ordtool.parsing.trees.chart import Span
from ordtool.parsing.trees.treebank import PUNCTUATION_TAGS, Constituent, Tree

LENGTH_BINS = ((1, 10), (11, 20), (21, 30), (31, 40), (41, None))
RANDOM_DRAWS = 5
TRIVIAL = {"left": 1, "right": 1, "balanced": 1, "random": RANDOM_DRAWS}
"""How many trees of each kind that needs no parser are drawn."""
_EPSILON = 1e-8


@dataclass(frozen=True, slots=True)
class Protocol:
    """What is counted.

    Attributes:
        punctuation: `remove`: tokens with a punctuation tag, or without a letter or digit, are taken out of both
            trees before scoring; `tags`: only those with a punctuation tag; `keep`: none.
        whole_span: Count the span of the whole sentence, which every tree has right.
        min_length: Shortest sentence counted, in words after the removal.
        max_length: Longest sentence counted; None for any.
        unary_roots: Drop the topmost node instead of the whole-sentence span, so that a second node over the whole
            sentence stays in the gold, where no prediction can reach it (Kim et al. 2019).
        empty_gold: A sentence whose gold has no span left: `one` counts its recall 1 (and its precision too, if the
            prediction has none), `skip` leaves it out.
        binarize_gold: Add the spans of a left- or right-binarised gold tree; this isn't what is usually reported.
    """

    punctuation: Literal["remove", "tags", "keep"] = "remove"
    whole_span: bool = False
    min_length: int = 2
    max_length: int | None = None
    unary_roots: bool = False
    empty_gold: Literal["one", "skip"] = "one"
    binarize_gold: Literal["none", "left", "right"] = "none"

    @property
    def name(self) -> str:
        """The protocol in words, as it is printed beside every figure."""
        removed = {
            "remove": "no punctuation",
            "tags": "no punctuation (by tag alone)",
            "keep": "punctuation kept",
        }
        whole = "unary roots kept" if self.unary_roots else "no whole span"
        parts = [removed[self.punctuation], "whole span kept" if self.whole_span else whole]
        if self.max_length is not None:
            parts.append(f"{self.min_length}-{self.max_length} words")
        else:
            parts.append(f"{self.min_length}+ words")
        if self.empty_gold == "skip":
            parts.append("empty gold skipped")
        if self.binarize_gold != "none":
            parts.append(f"gold {self.binarize_gold}-binarised")
        return ", ".join(parts)


PROTOCOLS = {
    "default": Protocol(),
    "kim": Protocol(punctuation="tags", unary_roots=True),
    "wsj10": Protocol(max_length=10),
    "wsj40": Protocol(max_length=40),
}
"""Protocols by name; `kim` is that of Kim et al. 2019 (compound PCFG), which most later papers report."""


@dataclass(frozen=True, slots=True)
class GoldSentence:
    """A gold tree as a protocol sees it.

    Attributes:
        length: Words that are scored.
        position: For each token, and for the end, the number of scored words before it: `(tokens + 1,)`.
        spans: Gold spans over the scored words.
        labelled: The same spans with their labels, one for each node.
    """

    length: int
    position: tuple[int, ...]
    spans: frozenset[Span]
    labelled: tuple[tuple[str, Span], ...]


def is_scored(token: str, tag: str, protocol: Protocol) -> bool:
    """Whether a token is a word for this protocol."""
    if protocol.punctuation == "keep":
        return True
    if tag in PUNCTUATION_TAGS:
        return False
    return protocol.punctuation == "tags" or _has_letter(token)


@lru_cache(maxsize=1 << 16)
def _has_letter(token: str) -> bool:
    return any(character.isalnum() for character in token)


def prepare_gold(tree: Tree, protocol: Protocol) -> GoldSentence:
    """Take what isn't scored out of a gold tree."""
    position = [0]
    for token, tag in zip(tree.tokens, tree.tags, strict=True):
        position.append(position[-1] + is_scored(token, tag, protocol))
    length = position[-1]
    nodes = [(node.label, (position[node.start], position[node.end])) for node in tree.constituents]
    nodes = [(label, span) for label, span in nodes if span[1] - span[0] > 1]
    if protocol.unary_roots:
        nodes = nodes[1:] if nodes and nodes[0][1] == (0, length) else nodes
    elif not protocol.whole_span:
        nodes = [(label, span) for label, span in nodes if span != (0, length)]
    spans = {span for _, span in nodes}
    if protocol.binarize_gold != "none":
        spans |= _binarized(spans | {(0, length)}, length, protocol.binarize_gold == "left") - (
            set() if protocol.whole_span else {(0, length)}
        )
    return GoldSentence(length, tuple(position), frozenset(spans), tuple(nodes))


def _binarized(spans: set[Span], length: int, left: bool) -> set[Span]:
    """Return the spans of the binary tree that joins the children of every node from one side."""
    added: set[Span] = set()
    for start, end in spans:
        inner = [span for span in spans if start <= span[0] and span[1] <= end and span != (start, end)]
        # Boundaries between children: those that no inner span crosses.
        cuts = [k for k in range(start + 1, end) if not any(a < k < b for a, b in inner)]
        added |= {(start, cut) if left else (cut, end) for cut in cuts}
    return {span for span in added if span[1] - span[0] > 1}


LABELLED = "every labelled node over words, single words and the whole sentence too; ADVP and PRT are one"
"""What labelled F1 counts, as EVALB does with COLLINS.prm."""

# As COLLINS.prm has it.
_SAME_LABELS = {"PRT": "ADVP"}


def labelled_nodes(nodes: Iterable[Constituent], position: Sequence[int]) -> Counter[tuple[str, int, int]]:
    """Count the labelled nodes that hold a scored word.

    Args:
        nodes: Over all tokens; those without a label aren't counted.
        position: See `GoldSentence`.
    """
    return Counter(
        (_SAME_LABELS.get(label, label), position[start], position[end])
        for label, start, end in nodes
        if label and position[start] < position[end]
    )


@dataclass(slots=True)
class Row:
    """Figures of one system, in percent.

    Attributes:
        system: Name of the prediction, or `left`, `right`, `balanced`, `random`.
        protocol: The protocol in words.
        draws: How often every sentence is added (several draws of random trees).
    """

    system: str
    protocol: str
    draws: int = 1
    _count: int = 0
    _f1: float = 0.0
    _shared: int = 0
    _predicted: int = 0
    _gold: int = 0
    _labels: Counter[str] = field(default_factory=Counter)
    _found: Counter[str] = field(default_factory=Counter)
    _lengths: dict[str, tuple[float, int]] = field(default_factory=dict)
    _nodes: Counter[str] = field(default_factory=Counter)

    def add(self, predicted: set[Span] | frozenset[Span], gold: GoldSentence) -> None:
        """Count one sentence."""
        shared = len(predicted & gold.spans)
        f1 = _sentence_f1(shared, len(predicted), len(gold.spans))
        self._count += 1
        self._f1 += f1
        self._shared += shared
        self._predicted += len(predicted)
        self._gold += len(gold.spans)
        name = _bin_of(gold.length)
        total, count = self._lengths.get(name, (0.0, 0))
        self._lengths[name] = (total + f1, count + 1)
        for label, span in gold.labelled:
            self._labels[label] += 1
            self._found[label] += span in predicted

    def add_labels(
        self, predicted: Counter[tuple[str, int, int]], gold: Counter[tuple[str, int, int]]
    ) -> None:
        """Count the labels of one sentence; see `labelled_nodes`."""
        self._nodes["shared"] += (predicted & gold).total()
        self._nodes["predicted"] += predicted.total()
        self._nodes["gold"] += gold.total()
        self._nodes["exact"] += predicted == gold

    @property
    def labelled(self) -> dict[str, float] | None:
        """Precision, recall and F1 of labelled nodes over all sentences, and the share of those without a fault, in percent.

        None: no labels were scored.
        """
        if not self._nodes:
            return None
        shared, predicted, gold = (self._nodes[name] for name in ("shared", "predicted", "gold"))
        return {
            "precision": 100 * shared / max(predicted, 1),
            "recall": 100 * shared / max(gold, 1),
            "f1": 200 * shared / max(predicted + gold, 1),
            "exact": 100 * self._nodes["exact"] / max(self._count, 1),
        }

    @property
    def sentences(self) -> int:
        """Sentences counted."""
        return self._count // self.draws

    @property
    def sentence_f1(self) -> float:
        """Mean over sentences of the F1 of each, in percent."""
        return 100 * self._f1 / max(self._count, 1)

    @property
    def corpus_f1(self) -> float:
        """F1 of all spans together, in percent."""
        return 100 * 2 * self._shared / max(self._predicted + self._gold, 1)

    @property
    def label_recall(self) -> dict[str, float]:
        """Percent of the gold nodes of each label that were found, frequent labels first."""
        return {label: 100 * self._found[label] / count for label, count in self._labels.most_common()}

    @property
    def length_f1(self) -> dict[str, float]:
        """Sentence F1 in percent by words of the sentence."""
        names = [_bin_name(low, high) for low, high in LENGTH_BINS]
        return {n: 100 * self._lengths[n][0] / self._lengths[n][1] for n in names if n in self._lengths}

    def to_dict(self) -> dict[str, object]:
        """Return the row as it is written to JSON, percentages with two decimals."""
        labelled = self.labelled
        labels = {} if labelled is None else {"labelled": {k: round(v, 2) for k, v in labelled.items()}}
        return {
            "system": self.system,
            "sentence_f1": round(self.sentence_f1, 2),
            "corpus_f1": round(self.corpus_f1, 2),
            **labels,
            "sentences": self.sentences,
            "protocol": self.protocol,
            "label_recall": {label: round(value, 2) for label, value in self.label_recall.items()},
            "length_f1": {name: round(value, 2) for name, value in self.length_f1.items()},
        }


def _sentence_f1(shared: int, predicted: int, gold: int) -> float:
    precision = shared / (predicted + _EPSILON)
    recall = shared / (gold + _EPSILON)
    if gold == 0:
        recall = 1.0
        if predicted == 0:
            precision = 1.0
    return 2 * precision * recall / (precision + recall + _EPSILON)


def _bin_name(low: int, high: int | None) -> str:
    return f"{low}+" if high is None else f"{low}-{high}"


def _bin_of(length: int) -> str:
    return next(_bin_name(low, high) for low, high in LENGTH_BINS if high is None or length <= high)


def trivial_spans(length: int, generator: np.random.Generator) -> Iterator[tuple[str, list[Span]]]:
    """Yield the trees that need no parser: `left`, `right`, `balanced`, and several draws of `random`."""
    yield "left", left_branching(length)
    yield "right", right_branching(length)
    yield "balanced", balanced_tree(length)
    for _ in range(RANDOM_DRAWS):
        yield "random", random_tree(length, generator)


def score_pairs(
    pairs: Iterable[tuple[Sequence[Span] | Sequence[Constituent], Tree]],
    protocol: Protocol | None = None,
    *,
    system: str = "prediction",
    baselines: bool = True,
    labels: bool = False,
    seed: int = 0,
    on_sentence: Callable[[], None] | None = None,
) -> list[Row]:
    """Score predicted spans against gold trees.

        F1 of a sentence = 2 P R / (P + R),  P = shared / predicted,  R = shared / gold

    Args:
        pairs: Predicted spans and the gold tree whose tokens, punctuation included, they count; a span shrinks to
            the scored words in it. `ordtool.parsing.trees.predictions.align_predictions` makes them of files. Or
            predicted nodes with their labels, as `align_constituents` makes them.
        protocol: What is counted.
        system: Name of the prediction's row.
        baselines: Score trivial trees too; the random trees are drawn five times.
        labels: Score labels too: nodes are predicted. Their F1 is of all sentences together and counts `LABELLED`.
        seed: Of the random trees.
        on_sentence: Called after each sentence.

    Returns:
        The prediction's row, and `left`, `right`, `balanced` and `random`.
    """
    protocol = protocol or Protocol()
    prediction = Row(system, protocol.name)
    # The prediction is none of these rows, whatever a person called its file.
    trivial = {name: Row(name, protocol.name, draws) for name, draws in TRIVIAL.items()} if baselines else {}
    generator = np.random.default_rng(seed)
    for predicted, tree in pairs:
        sentence = prepare_gold(tree, protocol)
        if _is_counted(sentence, protocol):
            edges = (node[-2:] for node in predicted)
            mapped = [(sentence.position[start], sentence.position[end]) for start, end in edges]
            prediction.add(_countable(mapped, sentence.length, protocol), sentence)
            if labels:
                found = [node for node in predicted if isinstance(node, Constituent)]
                wanted = labelled_nodes(tree.constituents, sentence.position)
                prediction.add_labels(labelled_nodes(found, sentence.position), wanted)
            for name, spans in trivial_spans(sentence.length, generator) if baselines else ():
                trivial[name].add(_countable(spans, sentence.length, protocol), sentence)
        if on_sentence is not None:
            on_sentence()
    return [prediction, *trivial.values()]


def score_trees(
    predictions: Iterable[Sequence[Span]],
    gold: Iterable[Tree],
    protocol: Protocol | None = None,
    *,
    system: str = "prediction",
    baselines: bool = True,
    seed: int = 0,
) -> list[Row]:
    """Score predictions against as many gold trees: `score_pairs` of the two side by side.

    Args:
        predictions: The spans of each sentence.
        gold: The trees.
        protocol: What counts; see `PROTOCOLS`.
        system: What the predictions are called.
        baselines: Score trivial trees too.
        seed: Of the random trees.

    Returns:
        A row a system, the predictions first.

    Raises:
        ValueError: If there are more predictions than gold trees or fewer.
    """
    pairs = zip(predictions, gold, strict=True)
    return score_pairs(pairs, protocol, system=system, baselines=baselines, seed=seed)


def _is_counted(gold: GoldSentence, protocol: Protocol) -> bool:
    if gold.length < protocol.min_length or (
        protocol.max_length is not None and gold.length > protocol.max_length
    ):
        return False
    return bool(gold.spans) or protocol.empty_gold == "one"


def _countable(spans: Iterable[Span], length: int, protocol: Protocol) -> set[Span]:
    kept = {(start, end) for start, end in spans if end - start > 1}
    return kept if protocol.whole_span else kept - {(0, length)}
