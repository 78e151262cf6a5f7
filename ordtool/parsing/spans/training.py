"""Training of span scorers on trees that something else has drawn."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from ordtool.arguments import as_many, with_options
from ordtool.batching import batches_by_length, cut_batches
from ordtool.distributed import join_ranks
from ordtool.errors import OrdtoolError, UsageError
from ordtool.io.atomic import atomic_directory, check_directory
from ordtool.io.checkpoint import (
    CHECKPOINT,
    DeferredInterrupt,
    has_checkpoint,
    load_moments,
    moments,
    part_of,
    read_checkpoint,
    restoring,
    write_checkpoint,
)
from ordtool.io.inputs import check_read_twice
from ordtool.io.runs import RunConfig, RunFolder, RunOptions, partial_folder, run_folder, run_metadata
from ordtool.models.layers import freeze
from ordtool.models.resolve import resolve_model
from ordtool.parsing.loading import load_parser
from ordtool.parsing.onlstm.tokenizer import OnlstmTokenizer
from ordtool.parsing.spans.config import SpanTrainingConfig, SpanTrainingOptions
from ordtool.parsing.spans.copying import copy_together
from ordtool.parsing.spans.data import (
    TeacherTree,
    count_labels,
    make_vocabulary,
    read_teacher_trees,
    split_trees,
)
from ordtool.parsing.spans.encoder import ENCODER_FOLDER, PieceEncoder, load_encoder
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
from ordtool.parsing.spans.model import MODEL_TYPE, SpanConfig, SpanModel
from ordtool.parsing.spans.text import Text, read_text
from ordtool.parsing.spans.words import PieceVocabulary, hide_words
from ordtool.parsing.text.vocabulary import Vocabulary
from ordtool.parsing.training.optimizers import warmup_cosine, weight_groups
from ordtool.parsing.training.run import write_weights
from ordtool.parsing.trees.builders import unbiased_spans
from ordtool.parsing.trees.chart import Span, flat_trees
from ordtool.parsing.trees.treebank import tree_files
from ordtool.progress import SILENT, Progress, counted
from ordtool.runtime import resolve_device, resolve_dtype

__all__ = ["train_spans"]

# Steps whose losses are looked at together on a card, which would otherwise be waited for after each.
_STEPS_TOLD_TOGETHER = 32


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
    **options: Unpack[SpanTrainingOptions],
) -> list[dict[str, Any]]:
    """Train a span scorer on trees and save it as a model folder.

    Every span wider than a word is a question of its own, phrase or not (binary cross-entropy), and so is its label where
    the trees have labels. What is held out is scored by its agreement: the share of the spans of the trees that the scorer
    finds again; F1, where it doesn't draw binary trees.

    Args:
        trees: JSONL as `ordtool parse` writes it, or bracketed trees: files and folders.
        output: The model folder to make.
        config: What is trained and how.
        half: Save weights as float16.
        progress: Told of everything.
        **options: Fields of `SpanTrainingConfig`, on top of `config`, and of `RunConfig`: `device`, `resume`, `force`.

    Returns:
        A record an epoch: `epoch`, `step`, `train_loss`, `agreement` (in percent), `seconds`; and `threshold` where trees
        need not be binary, the last of which the model gets.

    Raises:
        OrdtoolError: Unreadable trees, none of three words or more, an output that exists, a checkpoint of another run.
        UsageError: A share held out that leaves nothing.
    """
    trees = tuple(as_many(trees))
    config, run = with_options(config or SpanTrainingConfig(), options, RunOptions.__annotations__)
    machine = RunConfig(**run)
    device = resolve_device(machine.device)
    with join_ranks(device) as ranks:
        progress = ranks.heard(progress)
        ranks.on_main(lambda: check_directory(output, force=machine.force or machine.resume))
        files = [*tree_files(trees), *config.text]
        check_read_twice(files, "a file of trees")
        names = [name for name in (config.encoder, config.teacher) if name]
        folders = ranks.main_first(lambda: {name: resolve_model(name, progress) for name in names})
        weights = [file for folder in folders.values() for file in sorted(folder.rglob("*.safetensors"))]
        partial = partial_folder(output, ".training")
        with run_folder(
            partial, has_checkpoint, resume=machine.resume, force=machine.force, ranks=ranks
        ) as folder:
            metadata = ranks.on_main(lambda: run_metadata([*files, *weights], asdict(config)))
            resumed = folder.start(metadata, progress)
            lessons = _read_lessons(trees, config, folders, device, progress)
            torch.manual_seed(config.seed)
            encoder = folders.get(config.encoder or "")
            model, vocabulary = _make_model(config, lessons, encoder, progress)
            trainer = _Trainer(model.to(device), vocabulary, lessons, config, folder, progress)
            _train(trainer, resumed)
            if ranks.is_main:
                with atomic_directory(output, force=machine.force or machine.resume) as made:
                    _save(trainer.model, trainer.best_config(), vocabulary, made, half=half)
                    _write_record(made, trainer, metadata["input"])
    return trainer.at.history


def _read_lessons(
    trees: Sequence[str | Path],
    config: SpanTrainingConfig,
    folders: dict[str, Path],
    device: torch.device,
    progress: Progress,
) -> _Lessons:
    """Read trees, and text with its teacher."""
    lessons = _Lessons(*split_trees(read_teacher_trees(trees, progress), config))
    if config.teacher:
        lessons.teacher = _load_teacher(folders[config.teacher], device, config)
        lessons.text = read_text(config.text, config.text_tokens or config.tokens, progress)
    return lessons


def _train(trainer: _Trainer, resumed: bool) -> None:
    """Train to the end, from the checkpoint where there is one."""
    if resumed:
        trainer.restore()
    lessons = trainer.lessons
    text = f"{len(lessons.text.starts) - 1:,} sentences of text, " if lessons.text else ""
    trainer.progress.note(
        f"{sum(p.numel() for p in trainer.model.parameters()):,} parameters, {len(lessons.train):,} trees to train on, "
        f"{text}{len(lessons.held_out):,} held out, {counted(trainer.total_steps, 'step')}"
    )
    try:
        trainer.run_epochs()
    finally:
        trainer.progress.close()


Words = Vocabulary | PieceVocabulary


@dataclass(slots=True)
class _Lessons:
    """What there is to learn from."""

    train: list[TeacherTree]
    held_out: list[TeacherTree]
    text: Text | None = None
    teacher: SpanParser | None = None


def _load_teacher(folder: Path, device: torch.device, config: SpanTrainingConfig) -> SpanParser:
    dtype = resolve_dtype(config.dtype, device)
    teacher = load_parser(folder, device, None if dtype == torch.float32 else dtype)
    if not isinstance(teacher, SpanParser):
        raise UsageError(
            f"{folder}: a teacher is a span scorer, and this is an ON-LSTM", "parse the text with it"
        )
    return teacher


def _make_model(
    config: SpanTrainingConfig, lessons: _Lessons, encoder_folder: Path | None, progress: Progress
) -> tuple[SpanModel, Words]:
    """Make the network, and what looks its words up."""
    labels, tags = count_labels(lessons.train)
    if lessons.teacher is not None:
        shape = lessons.teacher.network.config
        labels, tags = shape.labels, shape.tags
    if encoder_folder is not None:
        encoder, pieces = load_encoder(encoder_folder, config.tokens)
        if config.frozen_layers is not None:
            freeze(encoder.model, config.frozen_layers)
        return SpanModel(config.shape(1 << pieces.bits, labels, tags), encoder), pieces
    counts = Counter(word for tree in lessons.train for word in tree.words)
    if lessons.text is not None:
        places = np.bincount(lessons.text.words, minlength=len(lessons.text.surfaces))
        counts.update(dict(zip(lessons.text.surfaces, places.tolist(), strict=True)))
    words = make_vocabulary(counts, config, progress)
    return SpanModel(config.shape(len(words.tokens), labels, tags)), words


def describe_epoch(record: dict[str, Any]) -> str:
    """Say how an epoch ended, from its record in the history."""
    agreement = f", agreement {record['agreement']}%" if "agreement" in record else ""
    return (
        f"epoch {record['epoch']}, step {record['step']:,}, train loss {record['train_loss']}{agreement}, "
        f"{record['seconds']} s"
    )


# A span less likely than that is left out; which serves best shows on held-out trees. For the largest F1 it is half that F1,
# if probabilities are what they say (Lipton et al. 2014).
_THRESHOLDS = (0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2)


def _overlap(spans: Sequence[Span], tree: TeacherTree) -> np.ndarray:
    """Count shared, drawn and wanted spans, but for the whole sentence."""
    kept = set(spans) - {(0, len(tree.words))}
    return np.array([len(kept & set(tree.spans)), len(kept), len(tree.spans)])


class _Trainer:
    """The loop: epochs, batches, a checkpoint an epoch."""

    def __init__(
        self,
        model: SpanModel,
        vocabulary: Words,
        lessons: _Lessons,
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
        self.at = _Position()

    def _prepare(self, lessons: _Lessons) -> None:
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
                    record |= self._evaluate()
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

    @torch.inference_mode()
    def _evaluate(self) -> dict[str, float]:
        """Score held-out trees, in percent.

        Returns:
            `agreement`: of binary trees, which must have too many spans, the share of the spans that are found again; of
            others F1, and `threshold`, the one at which it is largest.
        """
        parser = SpanParser(deepcopy(self.model), self.vocabulary)
        thresholds = _THRESHOLDS if parser.flat else (0.0,)
        counts = np.zeros((len(thresholds), 3))
        for batch in batches_by_length([len(tree.words) for tree in self.lessons.held_out], size=64):
            trees = [self.lessons.held_out[k] for k in batch]
            ids = self.vocabulary.encode_words(tree.words for tree in trees)
            marks = [tree.punctuation for tree in trees]
            if not parser.flat:
                drawn = [unbiased_spans(d[0]) for d in parser.distances(ids, punctuation=marks)]
                counts[0] += sum(_overlap(spans, tree) for spans, tree in zip(drawn, trees, strict=True))
                continue
            for table, tree in zip(parser.posteriors(ids, marks), trees, strict=True):
                for row, threshold in enumerate(thresholds):
                    [(spans, _)] = flat_trees(table[None] - threshold, [len(tree.words)])
                    counts[row] += _overlap(spans, tree)
        shared, drawn_spans, wanted = counts.T
        if not parser.flat:
            return {"agreement": round(100 * shared[0] / max(wanted[0], 1), 2)}
        f1 = 200 * shared / np.maximum(drawn_spans + wanted, 1)
        best = int(f1.argmax())
        return {"agreement": round(float(f1[best]), 2), "threshold": thresholds[best]}

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
            self.at = _Position(**state["position"])


def _write_record(folder: Path, trainer: _Trainer, data: str | None) -> None:
    record = {"config": asdict(trainer.config), "history": trainer.at.history, "data": data}
    (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n")


def _save(model: SpanModel, shape: SpanConfig, vocabulary: Words, folder: Path, *, half: bool) -> None:
    config = {"model_type": MODEL_TYPE, "architectures": ["SpanModel"], **asdict(shape)}
    if isinstance(vocabulary, PieceVocabulary):
        config["token_kind"] = vocabulary.token_kind
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("encoder.")}
    write_weights(own, folder, half=half)
    if isinstance(model.encoder, PieceEncoder):
        model.encoder.model.to(torch.float16 if half else torch.float32).save_pretrained(
            folder / ENCODER_FOLDER
        )
    if isinstance(vocabulary, PieceVocabulary):
        vocabulary.save(folder / ENCODER_FOLDER / "tokenizer.json")
        return
    OnlstmTokenizer.from_tokens(
        vocabulary.tokens,
        lowercase=vocabulary.lowercase,
        digits=vocabulary.digits,
        drop_punctuation=vocabulary.drop_punctuation,
        token_kind=vocabulary.token_kind,
        simplified=vocabulary.simplified,
    ).save_pretrained(folder)
