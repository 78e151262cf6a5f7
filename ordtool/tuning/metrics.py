"""Losses, and figures on held-out data: what a method is trained on and judged by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ordtool.batching import batches_by_length
from ordtool.correlation import pearson, spearman
from ordtool.tuning.encoding import NO_TARGET, Encoded
from ordtool.tuning.questions import BEGINS, ENDS, AnswerFinder, longest_answer, score_answers

DEV_TOKENS = 1024
_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure on held-out data.

    Attributes:
        name: `accuracy`, `pearson` or `f1` (percent), or `loss` (nats a token).
        value: The figure.
        more: Others: `macro_f1`, `spearman`, `exact_match`, `perplexity`.
    """

    name: str
    value: float
    more: dict[str, float]

    @property
    def unit(self) -> str:
        """What stands behind the figure."""
        return "" if self.name == "loss" else "%"

    def __str__(self) -> str:
        """Return it as it is told: `accuracy 87.5%`, `loss 2.31`."""
        return f"{self.name} {self.value:.4g}{self.unit}"

    def better_than(self, other: Metric | None) -> bool:
        """Whether it is strictly better; NaN never is."""
        if other is None:
            return self.value == self.value
        return self.value < other.value if self.name == "loss" else self.value > other.value


def label_loss(logits: Tensor, targets: Tensor, task: str) -> Tensor:
    """Return cross-entropy in nats, or the squared error of standardised scores.

    Args:
        logits: `(batch, classes)`; where tokens have labels `(batch, seq, classes)`; of `span` `(batch, seq, 2)`.
        targets: As `Encoded.targets_of` gives them.
        task: Of `span` it is the mean over both ends, each chosen among the tokens of the context and the first.
    """
    if task == "regress":
        return F.mse_loss(logits[:, 0].float(), targets.float())
    if task == "span":
        known = targets.clamp(min=0)
        ends = torch.stack([known & BEGINS, known & ENDS], dim=1).argmax(dim=2)
        blocked = (targets == NO_TARGET)[:, None]
        return F.cross_entropy(
            logits.float().transpose(1, 2).masked_fill(blocked, -torch.inf).flatten(0, 1), ends.flatten()
        )
    return F.cross_entropy(logits.float().flatten(0, -2), targets.flatten(), ignore_index=NO_TARGET)


def text_loss(output: Tensor, labels: Tensor, head: Callable[[Tensor], Tensor]) -> tuple[Tensor, int]:
    """Return the summed cross-entropy of next tokens (nats) and their number.

    The logits of a batch are by far its largest tensor, so the head is applied to some tokens at a time and again in
    the backward pass.

    Args:
        output: What the head reads, `(batch, seq, hidden)`.
        labels: The next tokens, `(batch, seq)`, -100 where none counts.
        head: To logits.
    """
    counted = labels != -100
    rows, wanted = output[counted], labels[counted]

    def part(chunk: Tensor, answer: Tensor) -> Tensor:
        return F.cross_entropy(head(chunk).float(), answer, reduction="sum")

    losses = [
        checkpoint(part, chunk, answer, use_reentrant=False)
        if torch.is_grad_enabled()
        else part(chunk, answer)
        for chunk, answer in zip(rows.split(_CHUNK), wanted.split(_CHUNK), strict=True)
    ]
    return torch.stack(losses).sum(), len(wanted)


def measure(
    module: nn.Module,
    dev: Encoded,
    task: str,
    run: Callable[[list[int]], tuple[Tensor | None, Tensor | None]],
    head: Any = None,
) -> Metric:
    """Run a module over held-out texts and give its figure.

    Args:
        module: Put in evaluation mode meanwhile.
        dev: The texts.
        task: What is measured.
        run: Gives logits `(batch, classes)`, of tokens `(batch, seq, classes)`, or what the head reads `(batch, seq,
            hidden)`.
        head: To the vocabulary's logits.
    """
    was_training = module.training
    module.eval()
    scorer = _scorer(dev, task, head)
    for index in batches_by_length(dev.lengths, tokens=DEV_TOKENS, longest_first=True):
        scorer.add(index, *run(index))
    module.train(was_training)
    return scorer.metric()


class _Scorer(Protocol):
    """Takes what a module gives for batches of held-out texts, and makes a figure of it."""

    def add(self, index: list[int], logits: Tensor | None, output: Tensor | None) -> None:
        """Take a batch."""

    def metric(self) -> Metric:
        """Return the figure."""


def _scorer(dev: Encoded, task: str, head: Any) -> _Scorer:
    if dev.writes:
        return _TextScorer(dev, head)
    if task == "span":
        return _AnswerScorer(dev)
    return _LabelScorer(dev, task) if dev.token_targets is None else _WordScorer(dev)


class _TextScorer:
    def __init__(self, dev: Encoded, head: Any) -> None:
        self._dev, self._head = dev, head
        self._total, self._count = 0.0, 0

    def add(self, index: list[int], logits: Tensor | None, output: Tensor | None) -> None:
        assert output is not None
        loss, tokens = text_loss(output, self._dev.labels(index).to(output.device), self._head)
        self._total, self._count = self._total + float(loss), self._count + tokens

    def metric(self) -> Metric:
        mean = self._total / max(1, self._count)
        return Metric("loss", mean, {"perplexity": float(np.exp(min(mean, 700.0)))})


class _LabelScorer:
    def __init__(self, dev: Encoded, task: str) -> None:
        self._dev, self._task = dev, task
        self._logits = np.zeros((len(dev), 0), dtype=np.float32)

    def add(self, index: list[int], logits: Tensor | None, output: Tensor | None) -> None:
        assert logits is not None
        if not self._logits.shape[1]:
            self._logits = np.zeros((len(self._dev), logits.shape[1]), dtype=np.float32)
        self._logits[index] = logits.float().cpu().numpy()

    def metric(self) -> Metric:
        assert self._dev.targets is not None
        return score_labels(self._logits, self._dev.targets, self._task)


class _WordScorer:
    def __init__(self, dev: Encoded) -> None:
        self._dev = dev
        self._guesses: list[NDArray[np.int64]] = []
        self._targets: list[NDArray[np.int64]] = []

    def add(self, index: list[int], logits: Tensor | None, output: Tensor | None) -> None:
        assert logits is not None
        targets = self._dev.targets_of(index).numpy()
        known = targets != NO_TARGET
        self._guesses.append(logits.argmax(dim=-1).cpu().numpy()[known])
        self._targets.append(targets[known])

    def metric(self) -> Metric:
        return score_classes(np.concatenate(self._guesses), np.concatenate(self._targets))


class _AnswerScorer:
    def __init__(self, dev: Encoded) -> None:
        assert dev.windows is not None
        self._windows = dev.windows
        self._found = AnswerFinder(dev.windows, longest_answer(dev), dev.windows.unanswerable)

    def add(self, index: list[int], logits: Tensor | None, output: Tensor | None) -> None:
        assert logits is not None
        self._found.add(index, logits.float().cpu().numpy())

    def metric(self) -> Metric:
        f1, exact = score_answers(self._found.texts(), self._windows.answers)
        return Metric("f1", f1, {"exact_match": exact})


def score_labels(logits: NDArray[Any], targets: NDArray[Any], task: str) -> Metric:
    """Score predictions.

    Args:
        logits: `(texts, classes)`; `(texts, 1)` for regression.
        targets: `(texts,)`.
        task: `regress` gives Pearson's and Spearman's correlation, other tasks accuracy and macro F1; in percent.
    """
    if task == "regress":
        linear, ranked = (100 * (f(logits[:, 0], targets) or 0.0) for f in (pearson, spearman))
        return Metric("pearson", linear, {"spearman": ranked})
    return score_classes(logits.argmax(axis=1), targets)


def score_classes(guesses: NDArray[Any], targets: NDArray[Any]) -> Metric:
    """Return accuracy and macro F1, in percent, of guessed classes and right ones, both `(count,)`."""
    f1 = []
    for label in np.union1d(targets, guesses):
        right = int(((guesses == label) & (targets == label)).sum())
        f1.append(2 * right / (int((guesses == label).sum()) + int((targets == label).sum())))
    return Metric(
        "accuracy", 100 * float((guesses == targets).mean()), {"macro_f1": 100 * float(np.mean(f1))}
    )
