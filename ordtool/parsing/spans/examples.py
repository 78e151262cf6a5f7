"""Trees as tensors: what a span scorer is to say of a batch of sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ordtool.parsing.spans.copying import copy_together
from ordtool.parsing.spans.data import CHAIN, TeacherTree
from ordtool.parsing.spans.model import SpanModel, span_mask

__all__ = [
    "Batch",
    "Example",
    "Targets",
    "batch_arrays",
    "loss_counts",
    "make_example",
    "pad_batch",
    "span_loss",
    "target_arrays",
    "teach",
]

# Of a label or tag that isn't learned.
_UNKNOWN = -100


@dataclass(frozen=True, slots=True)
class Example:
    """What there is to learn of a sentence, as arrays.

    Attributes:
        spans: Start, end and probability of each span that may be a phrase, `(spans, 3)`.
        labels: Start, end and number of the label of labelled spans and of all single words, `(labels, 3)`.
        tags: Number of each word's part of speech, `(words,)`.
    """

    spans: np.ndarray
    labels: np.ndarray
    tags: np.ndarray


def make_example(tree: TeacherTree, labels: dict[str, int], tags: dict[str, int]) -> Example:
    """Look up what a tree says.

    Args:
        tree: The tree.
        labels: Numbers of labels; empty: they aren't learned.
        tags: Numbers of parts of speech; the same.
    """
    shares = tree.shares if tree.shares is not None else [(*span, 1.0) for span in tree.spans]
    entries: list[tuple[int, int, int]] = []
    if labels and tree.labels:
        words = {(k, k + 1): "" for k in range(len(tree.words))}
        entries = [(*span, _label(label, labels)) for span, label in {**words, **tree.labels}.items()]
    known = tree.tags if tree.labels and tree.tags else [""] * len(tree.words)
    return Example(
        np.array(shares, dtype=np.float32).reshape(-1, 3),
        np.array(entries, dtype=np.int64).reshape(-1, 3),
        np.array([tags.get(tag, _UNKNOWN) for tag in known], dtype=np.int64),
    )


def _label(label: str, labels: dict[str, int]) -> int:
    """The number of a label; of a chain that is too rare, of the longest lower part that isn't."""
    while label not in labels and CHAIN in label:
        label = label.partition(CHAIN)[2]
    return labels.get(label, _UNKNOWN)


@dataclass(frozen=True, slots=True)
class Batch:
    """Sentences side by side.

    Attributes:
        words: Their words' numbers, `(batch, longest)`.
        punctuation: `(batch, longest + 1)`.
        lengths: `(batch,)`.
    """

    words: Tensor
    punctuation: Tensor
    lengths: Tensor


def pad_batch(
    words: Sequence[Sequence[int] | np.ndarray], punctuation: Sequence[np.ndarray], device: torch.device
) -> Batch:
    """Put sentences side by side."""
    return Batch(*copy_together(batch_arrays(words, punctuation), device))


def batch_arrays(
    words: Sequence[Sequence[int] | np.ndarray], punctuation: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the fields of a `Batch` as arrays."""
    lengths = np.array([len(sentence) for sentence in words])
    longest = int(lengths.max())
    padded = np.zeros((len(words), longest), dtype=np.int64)
    between = np.zeros((len(words), longest + 1), dtype=np.int64)
    for row, (sentence, bits) in enumerate(zip(words, punctuation, strict=True)):
        padded[row, : len(sentence)] = sentence
        between[row, : len(sentence) + 1] = bits
    return padded, between, lengths


@dataclass(frozen=True, slots=True)
class Targets:
    """What is to be said of a batch.

    Attributes:
        spans: Probability of each span, as `SpanModel` scores them.
        places: Sentence, start and end of the spans whose labels are to be learned, `(3, labels)`.
        labels: Their labels, `(labels,)`, or probabilities of all labels, `(labels, kinds)`.
        tags: Parts of speech of words, `(batch, longest)`, or probabilities, `(batch, longest, tags)`.
    """

    spans: Tensor
    places: Tensor
    labels: Tensor
    tags: Tensor

    @classmethod
    def of(cls, examples: Sequence[Example], longest: int, device: torch.device) -> Targets:
        """Put examples side by side."""
        return cls(*copy_together(target_arrays(examples, longest), device))


def target_arrays(
    examples: Sequence[Example], longest: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the fields of `Targets` as arrays."""
    spans = np.zeros((len(examples), longest + 1, longest + 1), dtype=np.float32)
    tags = np.full((len(examples), longest), _UNKNOWN, dtype=np.int64)
    entries = []
    for row, example in enumerate(examples):
        edges = example.spans[:, :2].astype(np.intp)
        spans[row, edges[:, 0], edges[:, 1]] = example.spans[:, 2]
        tags[row, : len(example.tags)] = example.tags
        entries.append(np.insert(example.labels, 0, row, axis=1))
    places = np.ascontiguousarray(np.concatenate(entries).T)
    return spans, places[:3], places[3], tags


@torch.no_grad()
def teach(teacher: SpanModel, batch: Batch) -> Targets:
    """Ask a teacher what it thinks of sentences.

    Labels are asked for where it thinks a phrase more likely than not, of single words and of whole sentences.
    """
    read = teacher.read(batch.words, batch.punctuation, batch.lengths)
    longest = batch.words.shape[1]
    likely = (read.spans > 0) & span_mask(batch.lengths, longest)
    edges = torch.arange(longest + 1, device=likely.device)
    ends = batch.lengths[:, None, None]
    likely |= (edges - edges[:, None] == 1) & (edges <= ends)
    likely |= (edges[:, None] == 0) & (edges == ends)
    places = likely.nonzero().T
    labels = teacher.label_scores(read.boundaries, *places).float().softmax(-1)
    tags = teacher.tag_scores(read.words).float().softmax(-1)
    inside = edges[:-1] < batch.lengths[:, None]
    return Targets(read.spans.float().sigmoid(), places, labels, tags * inside[..., None])


def loss_counts(batch: Batch, targets: Targets) -> Tensor:
    """Return how many spans, labels and parts of speech the means of `span_loss` are over, `(3,)`."""
    counts = [span_mask(batch.lengths, batch.words.shape[1]).sum()]
    for wanted in (targets.labels, targets.tags):
        counts.append(wanted.sum() if wanted.is_floating_point() else (wanted != _UNKNOWN).sum())
    return torch.stack([count.float() for count in counts])


def span_loss(
    model: SpanModel, batch: Batch, targets: Targets, label_weight: float, counts: Tensor | None = None
) -> Tensor:
    """Return the loss of a batch.

        mean over spans of the cross-entropy of phrase or not
        + label_weight * (mean cross-entropy of labels + mean cross-entropy of parts of speech)

    Probabilities as targets are learned as they are (Hinton et al. 2015).

    Args:
        model: The network.
        batch: The sentences.
        targets: What is to be said of them.
        label_weight: See above.
        counts: `loss_counts` of the whole batch, of which `batch` is a part; None: it is the whole.
    """
    spans, named, known = loss_counts(batch, targets) if counts is None else counts
    read = model.read(batch.words, batch.punctuation, batch.lengths)
    counted = span_mask(batch.lengths, batch.words.shape[1])
    each = F.binary_cross_entropy_with_logits(read.spans.float(), targets.spans, reduction="none")
    loss = (each * counted).sum() / spans.clamp(min=1)
    if model.config.labels and targets.places.shape[1]:
        labels = model.label_scores(read.boundaries, *targets.places).float()
        loss = loss + label_weight * _cross_entropy(labels, targets.labels, named)
    if model.config.tags:
        tags = model.tag_scores(read.words).float().flatten(0, 1)
        loss = loss + label_weight * _cross_entropy(tags, targets.tags.flatten(0, 1), known)
    return loss


def _cross_entropy(scores: Tensor, wanted: Tensor, count: Tensor) -> Tensor:
    """Cross-entropy of those rows of which something is known, over their number; 0 without any."""
    if wanted.dim() == 1:
        total = F.cross_entropy(scores, wanted, ignore_index=_UNKNOWN, reduction="sum")
    else:
        total = -(wanted * scores.log_softmax(-1)).sum()
    return total / count.clamp(min=1)
