"""The loop that trains a span scorer: epochs, batches, steps, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ordtool.batching import cut_batches
from ordtool.errors import OrdtoolError
from ordtool.io.checkpoint import (
    CHECKPOINT,
    DeferredInterrupt,
    load_moments,
    moments,
    part_of,
    read_checkpoint,
    restoring,
    write_checkpoint,
)
from ordtool.io.runs import RunFolder
from ordtool.parsing.spans.agreement import measure_agreement
from ordtool.parsing.spans.config import SpanTrainingConfig
from ordtool.parsing.spans.copying import copy_together
from ordtool.parsing.spans.examples import (
    Batch,
    Targets,
    batch_arrays,
    loss_counts,
    make_example,
    span_loss,
    target_arrays,
    teach,
)
from ordtool.parsing.spans.inference import SpanParser
from ordtool.parsing.spans.lessons import Lessons, Words
from ordtool.parsing.spans.model import SpanConfig, SpanModel
from ordtool.parsing.spans.words import hide_words
from ordtool.parsing.training.optimizers import warmup_cosine, weight_groups
from ordtool.parsing.training.run import describe_epoch
from ordtool.progress import Progress
from ordtool.runtime import resolve_dtype

__all__ = ["SpanTrainer"]

# Steps whose losses are looked at together on a card, which would otherwise be waited for after each.
_STEPS_TOLD_TOGETHER = 32


@dataclass(slots=True)
class Position:
    """How far a run has come."""

    step: int = 0
    epoch: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


class SpanTrainer:
    """The loop: epochs, batches, a checkpoint an epoch.

    Args:
        model: The network, on the device where it is trained.
        vocabulary: How its words are looked up.
        lessons: What it learns from, and what is held out.
        config: How it is trained.
        folder: Where checkpoints go, and the ranks that share the work.
        progress: Told of everything.

    Attributes:
        at: How far the run has come.
        total_steps: Of all epochs.
    """

    def __init__(
        self,
        model: SpanModel,
        vocabulary: Words,
        lessons: Lessons,
        config: SpanTrainingConfig,
        folder: RunFolder,
        progress: Progress,
    ) -> None:
        self.model, self.vocabulary, self.lessons = model, vocabulary, lessons
        self.config, self.folder, self.progress = config, folder.path, progress
        self.ranks = folder.ranks
        self.device = next(model.parameters()).device
        self.dtype = resolve_dtype(config.dtype, self.device)
        self._prepare(lessons)
        self.lengths = np.array([len(ids) for ids in self.ids])
        self.total_steps = sum(sum(1 for _ in self._batches(epoch)) for epoch in range(config.epochs))
        own = [p for name, p in model.named_parameters() if not name.startswith("encoder.")]
        groups = [{**g, "peak": config.learning_rate} for g in weight_groups(own, config.weight_decay)]
        if model.encoder is not None:
            trained = [p for p in model.encoder.parameters() if p.requires_grad]
            given = weight_groups(trained, config.weight_decay)
            groups += [{**group, "peak": config.encoder_learning_rate} for group in given]
        fused = self.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=fused)
        self.at = Position()

    def _prepare(self, lessons: Lessons) -> None:
        """Look up what is read in every epoch: trees first, then sentences of text."""
        numbers = self.vocabulary.encode_words(tree.words for tree in lessons.train)
        self.ids: list[list[int] | np.ndarray] = [*numbers]
        self.punctuation = [tree.punctuation for tree in lessons.train]
        shape = self.model.config
        labels = {label: k for k, label in enumerate(shape.labels)}
        tags = {tag: k for k, tag in enumerate(shape.tags)}
        self.examples = [make_example(tree, labels, tags) for tree in lessons.train]
        self.teacher_ids: list[np.ndarray] = []
        if lessons.text is not None and lessons.teacher is not None:
            self.ids += lessons.text.encode(self.vocabulary)
            self.punctuation += lessons.text.boundaries()
            self.teacher_ids = lessons.text.encode(lessons.teacher.vocabulary)

    def run_epochs(self) -> None:
        """Train from where the run stands to the last epoch.

        Raises:
            OrdtoolError: The loss is no number.
        """
        self.progress.start("training", float(self.config.epochs * self.lengths.sum()), "words")
        self.progress.advance(float(self.at.epoch * self.lengths.sum()))
        started = time.monotonic() - self.at.seconds
        with DeferredInterrupt() as interrupt:
            while self.at.epoch < self.config.epochs:
                loss = self._epoch(interrupt)
                self.at.epoch += 1
                record: dict[str, Any] = {
                    "epoch": self.at.epoch,
                    "step": self.at.step,
                    "train_loss": round(loss, 4),
                }
                if self.lessons.held_out:
                    parser = SpanParser(deepcopy(self.model), self.vocabulary)
                    record |= measure_agreement(parser, self.lessons.held_out)
                self.at.seconds = time.monotonic() - started
                record["seconds"] = round(self.at.seconds)
                record = self.ranks.from_main(record)
                self.at.history.append(record)
                self.progress.note(describe_epoch(record))
                self.save()

    def _epoch(self, interrupt: DeferredInterrupt) -> float:
        self.model.train()
        # Dropout of an epoch depends on its number and the rank alone, so a resumed run draws what the whole one would.
        torch.manual_seed(self.config.seed * 1_000_003 + self.at.epoch + (self.ranks.rank << 40))
        total = count = 0.0
        untold: list[Tensor] = []
        patience = 1 if self.device.type == "cpu" else _STEPS_TOLD_TOGETHER

        def settle() -> None:
            nonlocal total, count
            total, count = total + self._told(untold), count + len(untold)
            untold.clear()

        for batch in self._batches(self.at.epoch):
            untold.append(self._step(batch))
            if len(untold) >= patience:
                settle()
            words = int(self.lengths[batch].sum())
            shown = f"{total / count:.4f}" if count else "?"
            self.progress.advance(words, epoch=self.at.epoch + 1, loss=shown)
            interrupt.check()
        settle()
        return total / max(count, 1)

    def _told(self, losses: Sequence[Tensor]) -> float:
        """Add up the losses of the last steps.

        Raises:
            OrdtoolError: One of them is no number.
        """
        if not losses:
            return 0.0
        values = self.ranks.sum_numbers(torch.stack(list(losses)).tolist())
        first = self.at.step - len(values) + 1
        for step, loss in enumerate(values, start=first):
            if not math.isfinite(loss):
                raise OrdtoolError(f"the loss is {loss} at step {step}", "try a lower `learning_rate`")
        return float(sum(values))

    def _batches(self, epoch: int) -> Iterator[list[int]]:
        """Batches of sentences of like lengths, in an order that is drawn for each epoch."""
        random = np.random.default_rng([self.config.seed, 2, epoch])
        # Sorted by length, with a little noise so that batches differ from epoch to epoch.
        order = np.argsort(self.lengths + random.random(len(self.lengths)) * 2, kind="stable")
        trees = len(self.examples)
        parts = (order[order < trees], order[order >= trees])
        batches = [
            batch
            for part in parts
            for batch in cut_batches(part.tolist(), self.lengths, tokens=self.config.batch_words)
        ]
        return (batches[k] for k in random.permutation(len(batches)))

    def _step(self, chosen: list[int]) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * self._rate()
        self.optimizer.zero_grad()
        loss = self._backward(list(self.ranks.share(chosen)))
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.ranks.sum_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, self.config.clip)
        self.optimizer.step()
        self.at.step += 1
        return loss

    def _backward(self, chosen: list[int]) -> Tensor:
        """Compute the gradients of this rank's sentences, and its part of the loss of the batch."""
        if not chosen:
            self.ranks.sum_numbers([0.0, 0.0, 0.0])
            return torch.zeros((), device=self.device)
        with self._autocast():
            batch, targets = self._lesson(chosen)
        counts = None
        if self.ranks.size > 1:
            total = self.ranks.sum_numbers(loss_counts(batch, targets).tolist())
            counts = torch.tensor(total, dtype=torch.float32, device=self.device)
        with self._autocast():
            loss = span_loss(self.model, self._hide(batch), targets, self.config.label_weight, counts)
        loss.backward()
        return loss.detach().float()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _lesson(self, chosen: list[int]) -> tuple[Batch, Targets]:
        """Sentences, and what they are to be told: by their trees, or by the teacher; on the device after one copy."""
        punctuation = [self.punctuation[k] for k in chosen]
        arrays = batch_arrays([self.ids[k] for k in chosen], punctuation)
        trees = len(self.examples)
        if chosen[0] < trees:
            wanted = target_arrays([self.examples[k] for k in chosen], arrays[0].shape[1])
            moved = copy_together([*arrays, *wanted], self.device)
            return Batch(*moved[:3]), Targets(*moved[3:])
        assert self.lessons.teacher is not None
        read = batch_arrays([self.teacher_ids[k - trees] for k in chosen], punctuation)
        moved = copy_together([*arrays, *read], self.device)
        return Batch(*moved[:3]), teach(self.lessons.teacher.network, Batch(*moved[3:]))

    def _hide(self, batch: Batch) -> Batch:
        """Read a share of the words as unknown ones."""
        if not self.config.word_dropout:
            return batch
        hidden = torch.rand(batch.words.shape, device=self.device) < self.config.word_dropout
        return Batch(hide_words(self.vocabulary, batch.words, hidden), batch.punctuation, batch.lengths)

    def _rate(self) -> float:
        """Share of the peak rate at this step."""
        return warmup_cosine(self.at.step, max(1, self.total_steps // 25), self.total_steps)

    def best_config(self) -> SpanConfig:
        """Return the shape of the network with the threshold that served held-out trees best."""
        shape = self.model.config
        last = self.at.history[-1] if self.at.history else {}
        return replace(shape, threshold=last.get("threshold", shape.threshold))

    def save(self) -> None:
        """Write a checkpoint from which the run continues bit for bit."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"optimiser.{name}": value for name, value in moments(self.optimizer).items()}
        path, state = self.folder / CHECKPOINT, {"position": asdict(self.at)}
        self.ranks.on_main(lambda: write_checkpoint(path, tensors, state))

    def restore(self) -> None:
        """Continue from the checkpoint.

        Raises:
            OrdtoolError: It is damaged.
        """
        path = self.folder / CHECKPOINT
        tensors, state = read_checkpoint(path, {"position": (dict,)})
        with restoring(path):
            self.model.load_state_dict(part_of(tensors, "model."))
            load_moments(self.optimizer, part_of(tensors, "optimiser."))
            self.at = Position(**state["position"])
