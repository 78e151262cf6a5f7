"""Losses, and figures on held-out data: what a method is trained on and judged by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ordtool.batching import batches_by_length
from ordtool.correlation import pearson, spearman
from ordtool.tuning.encoding import Encoded

DEV_TOKENS = 1024
_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure on held-out data.

    Attributes:
        name: `accuracy` (percent), `pearson` (percent) or `loss` (nats a token).
        value: The figure.
        more: Others: `macro_f1`, `spearman`, `perplexity`.
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
    """Return cross-entropy in nats, or the squared error of standardised scores."""
    if task == "regress":
        return F.mse_loss(logits[:, 0].float(), targets.float())
    return F.cross_entropy(logits.float(), targets)


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
        run: Gives logits `(batch, classes)`, or what the head reads `(batch, seq, hidden)`.
        head: To the vocabulary's logits.
    """
    was_training = module.training
    module.eval()
    logits = np.zeros((len(dev), 0), dtype=np.float32)
    total, count = 0.0, 0
    for index in batches_by_length(dev.lengths, tokens=DEV_TOKENS, longest_first=True):
        found, output = run(index)
        if dev.targets is None:
            assert output is not None
            loss, tokens = text_loss(output, dev.labels(index).to(output.device), head)
            total, count = total + float(loss), count + tokens
            continue
        assert found is not None
        if not logits.shape[1]:
            logits = np.zeros((len(dev), found.shape[1]), dtype=np.float32)
        logits[index] = found.float().cpu().numpy()
    module.train(was_training)
    if dev.targets is None:
        mean = total / max(1, count)
        return Metric("loss", mean, {"perplexity": float(np.exp(min(mean, 700.0)))})
    return score_labels(logits, dev.targets, task)


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
    guesses = logits.argmax(axis=1)
    f1 = []
    for label in np.union1d(targets, guesses):
        right = int(((guesses == label) & (targets == label)).sum())
        f1.append(2 * right / (int((guesses == label).sum()) + int((targets == label).sum())))
    return Metric(
        "accuracy", 100 * float((guesses == targets).mean()), {"macro_f1": 100 * float(np.mean(f1))}
    )
