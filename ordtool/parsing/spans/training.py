"""Training of span scorers on trees that something else has drawn."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ordtool.arguments import as_many
from ordtool.batching import batches_by_length, cut_batches
from ordtool.errors import OrdtoolError
from ordtool.io.atomic import atomic_directory, check_directory
from ordtool.io.checkpoint import (
    CHECKPOINT,
    DeferredInterrupt,
    has_checkpoint,
    part_of,
    read_checkpoint,
    write_checkpoint,
)
from ordtool.io.inputs import check_read_twice
from ordtool.io.runs import RunConfig, RunOptions, partial_folder, run_folder, run_metadata
from ordtool.parsing.onlstm.tokenizer import OnlstmTokenizer
from ordtool.parsing.spans.config import SpanTrainingConfig
from ordtool.parsing.spans.data import (
    TeacherTree,
    make_vocabulary,
    read_teacher_trees,
    split_trees,
)
from ordtool.parsing.spans.inference import SpanParser
from ordtool.parsing.spans.model import MODEL_TYPE, SpanModel, span_mask
from ordtool.parsing.text.vocabulary import UNKNOWN, Vocabulary
from ordtool.parsing.training.optimizers import load_moments, moments, warmup_cosine, weight_groups
from ordtool.parsing.trees.builders import unbiased_spans
from ordtool.parsing.trees.treebank import tree_files
from ordtool.progress import SILENT, Progress, counted
from ordtool.runtime import resolve_device, resolve_dtype

__all__ = ["train_spans"]


@dataclass(slots=True)
class _Position:
    """How far a run has come."""

    step: int = 0
    epoch: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


def train_spans(
    trees: str | Path | Sequence[str | Path],
    output: str | Path,
    config: SpanTrainingConfig | None = None,
    *,
    half: bool = False,
    progress: Progress = SILENT,
    **run: Unpack[RunOptions],
) -> list[dict[str, Any]]:
    """Train a span scorer on trees and save it as a model folder.

    Every span wider than a word is a question of its own, phrase or not (binary cross-entropy). What is held out is scored
    by its agreement: the share of the spans of the trees that the scorer finds again.

    Args:
        trees: JSONL as `ordtool parse` writes it, or bracketed trees: files and folders.
        output: The model folder to make.
        config: What is trained and how.
        half: Save weights as float16.
        progress: Told of everything.
        **run: The fields of `RunConfig`: `device`, `resume`, `force`.

    Returns:
        A record an epoch: `epoch`, `step`, `train_loss`, `agreement` (in percent), `seconds`.

    Raises:
        OrdtoolError: Unreadable trees, none of three words or more, an output that exists, a checkpoint of another run.
        UsageError: A share held out that leaves nothing.
    """
    trees = tuple(as_many(trees))
    config, machine = config or SpanTrainingConfig(), RunConfig(**run)
    check_directory(output, force=machine.force or machine.resume)
    files = list(tree_files(trees))
    check_read_twice(files, "a file of trees")
    partial = partial_folder(output, ".training")
    with run_folder(partial, has_checkpoint, resume=machine.resume, force=machine.force) as folder:
        metadata = run_metadata(files, asdict(config))
        resumed = folder.start(metadata, progress)
        train, held_out = split_trees(read_teacher_trees(trees, progress), config)
        vocabulary = make_vocabulary(train, config, progress)
        trainer = _Trainer(train, held_out, vocabulary, config, machine.device, folder.path, progress)
        _train(trainer, resumed)
        with atomic_directory(output, force=machine.force or machine.resume) as made:
            _save(trainer.model, vocabulary, made, half=half)
            record = {"config": asdict(config), "history": trainer.at.history, "data": metadata["input"]}
            (made / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    return trainer.at.history


def _train(trainer: _Trainer, resumed: bool) -> None:
    """Train to the end, from the checkpoint where there is one."""
    if resumed:
        trainer.restore()
    trainer.progress.note(
        f"{sum(p.numel() for p in trainer.model.parameters()):,} parameters, {len(trainer.train):,} trees to train on, "
        f"{len(trainer.held_out):,} held out, {counted(trainer.total_steps, 'step')}"
    )
    try:
        trainer.run_epochs()
    finally:
        trainer.progress.close()


def describe_epoch(record: dict[str, Any]) -> str:
    """Say how an epoch ended, from its record in the history."""
    agreement = f", agreement {record['agreement']}%" if "agreement" in record else ""
    return (
        f"epoch {record['epoch']}, step {record['step']:,}, train loss {record['train_loss']}{agreement}, "
        f"{record['seconds']} s"
    )


class _Trainer:
    """The loop: epochs, batches, a checkpoint an epoch."""

    def __init__(
        self,
        train: list[TeacherTree],
        held_out: list[TeacherTree],
        vocabulary: Vocabulary,
        config: SpanTrainingConfig,
        device: str,
        folder: Path,
        progress: Progress,
    ) -> None:
        self.train, self.held_out, self.vocabulary, self.config = train, held_out, vocabulary, config
        self.folder, self.progress = folder, progress
        self.device = resolve_device(device)
        self.dtype = resolve_dtype(config.dtype, self.device)
        self.ids = vocabulary.encode_words(tree.words for tree in train)
        self.lengths = np.array([len(ids) for ids in self.ids])
        self.total_steps = sum(sum(1 for _ in self._batches(epoch)) for epoch in range(config.epochs))
        torch.manual_seed(config.seed)
        self.model = SpanModel(config.shape(len(vocabulary.tokens))).to(self.device)
        groups = weight_groups(list(self.model.parameters()), config.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))
        self.at = _Position()

    def run_epochs(self) -> None:
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
                if self.held_out:
                    record["agreement"] = round(self._agreement(), 2)
                self.at.seconds = time.monotonic() - started
                record["seconds"] = round(self.at.seconds)
                self.at.history.append(record)
                self.progress.note(describe_epoch(record))
                self.save()

    def _epoch(self, interrupt: DeferredInterrupt) -> float:
        self.model.train()
        # Dropout of an epoch depends on its number alone, so a resumed run draws what the whole one would.
        torch.manual_seed(self.config.seed * 1_000_003 + self.at.epoch)
        total = count = 0.0
        for batch in self._batches(self.at.epoch):
            loss = self._step(batch)
            if not math.isfinite(loss):
                raise OrdtoolError(
                    f"the loss is {loss} at step {self.at.step}", "try a lower `learning_rate`"
                )
            total, count = total + loss, count + 1
            words = int(self.lengths[batch].sum())
            self.progress.advance(words, epoch=self.at.epoch + 1, loss=f"{total / count:.4f}")
            interrupt.check()
        return total / max(count, 1)

    def _batches(self, epoch: int) -> Iterator[list[int]]:
        """Batches of sentences of like lengths, in an order that is drawn for each epoch."""
        random = np.random.default_rng([self.config.seed, 2, epoch])
        # Sorted by length, with a little noise so that batches differ from epoch to epoch.
        order = np.argsort(self.lengths + random.random(len(self.lengths)) * 2, kind="stable")
        batches = cut_batches(order.tolist(), self.lengths, tokens=self.config.batch_words)
        return (batches[k] for k in random.permutation(len(batches)))

    def _step(self, batch: list[int]) -> float:
        words, punctuation, lengths, gold = self._tensors(batch)
        if self.config.word_dropout:
            hidden = torch.rand(words.shape, device=words.device) < self.config.word_dropout
            words = words.masked_fill(hidden, self.vocabulary.ids[UNKNOWN])
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            scores = self.model(words, punctuation, lengths).float()
        counted = span_mask(lengths, words.shape[1])
        loss = F.binary_cross_entropy_with_logits(scores[counted], gold[counted])
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimizer.step()
        self.at.step += 1
        return float(loss.detach())

    def _rate(self) -> float:
        return self.config.learning_rate * warmup_cosine(
            self.at.step, max(1, self.total_steps // 25), self.total_steps
        )

    def _tensors(self, batch: list[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        longest = int(self.lengths[batch].max())
        words = np.zeros((len(batch), longest), dtype=np.int64)
        punctuation = np.zeros((len(batch), longest + 1), dtype=np.int64)
        gold = np.zeros((len(batch), longest + 1, longest + 1), dtype=np.float32)
        for row, k in enumerate(batch):
            ids, tree = self.ids[k], self.train[k]
            words[row, : len(ids)] = ids
            punctuation[row, : len(ids) + 1] = tree.punctuation
            if tree.spans:
                starts, ends = zip(*tree.spans, strict=True)
                gold[row, starts, ends] = 1.0
        lengths = self.lengths[batch]
        arrays = (words, punctuation, lengths, gold)
        on_device = [torch.from_numpy(array).to(self.device) for array in arrays]
        return on_device[0], on_device[1], on_device[2], on_device[3]

    def _agreement(self) -> float:
        """Percent of the spans of held-out trees that the scorer's best trees hold."""
        state = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        config = asdict(self.model.config)
        parser = SpanParser.from_parts(config, state, self.vocabulary, self.device)
        agreed = total = 0
        for batch in batches_by_length([len(tree.words) for tree in self.held_out], size=64):
            trees = [self.held_out[k] for k in batch]
            ids = self.vocabulary.encode_words(tree.words for tree in trees)
            for tree, distances in zip(
                trees, parser.distances(ids, punctuation=[t.punctuation for t in trees]), strict=True
            ):
                agreed += len(set(unbiased_spans(distances[0])) & set(tree.spans))
                total += len(tree.spans)
        return 100 * agreed / max(total, 1)

    def save(self) -> None:
        """Write a checkpoint from which the run continues bit for bit."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"optimiser.{name}": value for name, value in moments(self.optimizer).items()}
        write_checkpoint(self.folder / CHECKPOINT, tensors, {"position": asdict(self.at)})

    def restore(self) -> None:
        """Continue from the checkpoint.

        Raises:
            OrdtoolError: It is damaged.
        """
        path = self.folder / CHECKPOINT
        tensors, state = read_checkpoint(path, {"position": (dict,)})
        try:
            self.model.load_state_dict(part_of(tensors, "model."))
            load_moments(self.optimizer, part_of(tensors, "optimiser."))
            self.at = _Position(**state["position"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise OrdtoolError(f"{path}: damaged: {error}", "start anew with --force") from None


def _save(model: SpanModel, vocabulary: Vocabulary, folder: Path, *, half: bool) -> None:
    config = {"model_type": MODEL_TYPE, "architectures": ["SpanModel"], **asdict(replace(model.config))}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    dtype = torch.float16 if half else torch.float32
    tensors = {
        name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in model.state_dict().items()
    }
    weights = folder / "model.safetensors"
    save_file(tensors, weights, metadata={"format": "pt"})
    weights.chmod((folder / "config.json").stat().st_mode)
    OnlstmTokenizer.from_tokens(
        vocabulary.tokens,
        lowercase=vocabulary.lowercase,
        digits=vocabulary.digits,
        drop_punctuation=vocabulary.drop_punctuation,
        token_kind=vocabulary.token_kind,
        simplified=vocabulary.simplified,
    ).save_pretrained(folder)
