"""Training of neural grammars on plain text: the probability of its sentences, summed over all their trees, is raised."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch

from ordtool.arguments import with_options
from ordtool.distributed import check_one_rank
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
from ordtool.parsing.onlstm.tokenizer import OnlstmTokenizer
from ordtool.parsing.pcfg.config import PcfgTrainingConfig, PcfgTrainingOptions
from ordtool.parsing.pcfg.inference import PcfgParser, merger_for
from ordtool.parsing.pcfg.inside import inside
from ordtool.parsing.pcfg.model import MODEL_TYPE, PcfgModel
from ordtool.parsing.pcfg.selection import choose_punctuation, score_parser
from ordtool.parsing.pcfg.steps import Steps, make_steps
from ordtool.parsing.training.data import Encoded
from ordtool.parsing.training.run import (
    ParserFiles,
    ParserRun,
    ParserRunConfig,
    ParserRunOptions,
    describe_epoch,
    open_run,
    write_weights,
)
from ordtool.progress import SILENT, Progress
from ordtool.runtime import resolve_device

__all__ = ["train_pcfg"]

# Steps between two looks at the loss, which a GPU would wait for.
_LOOK_EVERY = 50


@dataclass(slots=True)
class _Position:
    """How far a run has come."""

    step: int = 0
    epoch: int = 0
    offset: int = 0  # batches of this epoch that are done
    loss: float = 0.0  # nats of this epoch's sentences
    words: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


class _Options(PcfgTrainingOptions, ParserRunOptions, total=False):
    """The keywords of `train_pcfg`."""


def train_pcfg(
    text: str | Path | Sequence[str | Path],
    output: str | Path,
    config: PcfgTrainingConfig | None = None,
    *,
    dev: str | Path | Sequence[str | Path] = (),
    treebank: str | Path | Sequence[str | Path] = (),
    tune: str | Path | Sequence[str | Path] = (),
    progress: Progress = SILENT,
    **options: Unpack[_Options],
) -> list[dict[str, Any]]:
    """Train a neural grammar on text and save it as a model folder.

    Args:
        text: Training files or folders.
        output: The model folder to make.
        config: What is trained and how.
        dev: Held-out files; empty: a part of the text.
        treebank: Trees to score after each epoch: reported, never used to choose.
        tune: Development trees on which the punctuation bonus of the finished model is chosen.
        progress: Told of everything.
        **options: Fields of `PcfgTrainingConfig`, on top of `config`, and of `ParserRunConfig`: `device`, `resume`, ...

    Returns:
        A record an epoch: `epoch`, `step`, `train_perplexity`, `dev_perplexity` (of a word, in sentences of 2 to
        `max_length` words), `seconds`, and with a treebank `f1`: sentence F1.

    Raises:
        OrdtoolError: Unreadable or empty text or treebank, an output that exists, a checkpoint of another run, a
            loss that is no number.
    """
    config, machine = with_options(
        config or PcfgTrainingConfig(), options, [item.name for item in fields(ParserRunConfig)]
    )
    files = ParserFiles(text, output, dev, treebank, tune)
    fixed = {**asdict(config), "kind": "pcfg"}
    check_one_rank("training of a grammar")
    with open_run(files, config, fixed, ParserRunConfig(**machine), progress) as run:
        trainer = _Trainer(run, config)
        if run.resumed:
            trainer.restore()
        model, tokenizer = trainer.model, run.data.tokenizer
        progress.note(
            f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(trainer.batches):,} sentences of 2 to "
            f"{config.max_length} words an epoch, {trainer.total_steps:,} steps"
        )
        try:
            trainer.run_epochs()
        finally:
            progress.close()
        chosen: dict[str, Any] = {}
        if run.development:
            parser = PcfgParser(model, tokenizer.vocabulary, {})
            chosen = choose_punctuation(parser, run.development, files.many("tune"), progress)
        history, half = trainer.at.history, run.machine.half
        run.save(config, history, lambda made: save_grammar(model, tokenizer, made, half=half, **chosen))
    return history


class LengthBatches:
    """Batches of sentences of one length, in an order that is drawn for each epoch.

    Args:
        encoded: Sentences; those of under 2 and over `max_length` words are left out.
        batch_size: Sentences a batch; the last one of a length may have fewer.
        max_length: In words.
        seed: Of the order.
    """

    def __init__(self, encoded: Encoded, batch_size: int, max_length: int, seed: int) -> None:
        lengths = np.diff(encoded.starts)
        self._starts = encoded.starts
        self._by_length = {
            length: found
            for length in range(2, max_length + 1)
            if len(found := np.flatnonzero(lengths == length))
        }
        self._batch_size, self._seed = batch_size, seed

    def __len__(self) -> int:
        """Number of sentences."""
        return sum(map(len, self._by_length.values()))

    @property
    def count(self) -> int:
        """Batches an epoch."""
        return sum(math.ceil(len(found) / self._batch_size) for found in self._by_length.values())

    def epoch(self, number: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the batches of an epoch: the length, and where each sentence starts."""
        random = np.random.default_rng([self._seed, 2, number])
        batches = []
        for length, found in self._by_length.items():
            order = self._starts[random.permutation(found)]
            batches += [
                (length, order[first : first + self._batch_size])
                for first in range(0, len(order), self._batch_size)
            ]
        for k in random.permutation(len(batches)):
            yield batches[k]


class _Trainer:
    """The loop: epochs, batches, checkpoints."""

    def __init__(self, run: ParserRun, config: PcfgTrainingConfig) -> None:
        self.run, self.config, self.progress = run, config, run.progress
        self.data = data = run.data
        torch.manual_seed(config.seed)
        shape = config.shape(data.tokenizer.vocab_size)
        self.model = model = PcfgModel(shape).to(resolve_device(run.machine.device))
        self.batches = LengthBatches(data.train, config.batch_size, config.max_length, config.seed)
        if not len(self.batches):
            raise OrdtoolError(
                f"no sentence of 2 to {config.max_length} words in the text", "is it a sentence a line?"
            )
        self.total_steps = max(1, math.ceil(config.epochs * self.batches.count))
        self.steps: Steps = make_steps(model, data.train.ids, config)
        self.at = _Position()

    def run_epochs(self) -> None:
        self.started = time.monotonic() - self.at.seconds
        self.saved = time.monotonic()
        self.progress.start("training", self.total_steps, "steps")
        self.progress.advance(self.at.step)
        with DeferredInterrupt() as interrupt:
            while self.at.step < self.total_steps:
                self._epoch(interrupt)
                self._finish_epoch()

    def _epoch(self, interrupt: DeferredInterrupt) -> None:
        config, at = self.config, self.at
        for number, (length, starts) in enumerate(self.batches.epoch(at.epoch)):
            if number < at.offset:
                continue
            if at.step >= self.total_steps:
                break
            self.steps.take(length, starts, config.learning_rate * rate_share(at.step, self.total_steps))
            at.step, at.offset, at.words = at.step + 1, number + 1, at.words + length * len(starts)
            if at.step % _LOOK_EVERY == 0 or interrupt.requested:
                self._look(interrupt)
        self._collect_loss()

    def _look(self, interrupt: DeferredInterrupt) -> None:
        at = self.at
        self._collect_loss()
        try:
            shown = f"{perplexity_of(at.loss, at.words):.1f}"
            self.progress.advance(_LOOK_EVERY, epoch=at.epoch + 1, ppl=shown)
            interrupt.check()
        except KeyboardInterrupt:
            self.save()
            self.progress.note(f"stopped at step {at.step:,}; the same command with `resume` goes on")
            raise
        if time.monotonic() - self.saved > 60 * self.run.machine.checkpoint_minutes:
            self.save()
            left = (self.total_steps - at.step) * at.seconds / at.step / 60
            self.progress.note(
                f"step {at.step:,} of {self.total_steps:,}, train perplexity {shown}, {left:.0f} minutes left"
            )

    def _collect_loss(self) -> None:
        self.at.loss += self.steps.collect_loss()
        if not math.isfinite(self.at.loss):
            raise OrdtoolError(
                f"the loss is {self.at.loss} at step {self.at.step}", "try a lower `learning_rate`"
            )

    def _finish_epoch(self) -> None:
        at = self.at
        record: dict[str, Any] = {
            "epoch": round(at.epoch + at.offset / self.batches.count, 2),
            "step": at.step,
            "train_perplexity": round(perplexity_of(at.loss, at.words), 2),
        }
        dev = LengthBatches(self.data.dev, 32, self.config.max_length, 0)
        if len(dev):
            record["dev_perplexity"] = round(held_out_perplexity(self.model, self.data.dev.ids, dev), 3)
        if self.run.treebank:
            parser = PcfgParser(self.model, self.data.tokenizer.vocabulary, {})
            record["f1"] = round(score_parser(parser, self.run.treebank), 1)
        record["seconds"] = round(time.monotonic() - self.started)
        at.history.append(record)
        at.epoch, at.offset, at.loss, at.words = at.epoch + 1, 0, 0.0, 0
        self.progress.note(describe_epoch(record))
        self.save()

    def save(self) -> None:
        """Write a checkpoint from which the run continues."""
        self.at.seconds = time.monotonic() - self.started
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"optimiser.{name}": value for name, value in moments(self.steps.optimizer).items()}
        write_checkpoint(self.run.folder / CHECKPOINT, tensors, {"position": asdict(self.at)})
        self.saved = time.monotonic()

    @torch.no_grad()
    def restore(self) -> None:
        """Continue from the checkpoint.

        Raises:
            OrdtoolError: It is damaged.
        """
        path = self.run.folder / CHECKPOINT
        tensors, state = read_checkpoint(path, {"position": (dict,)})
        with restoring(path):
            self.model.load_state_dict(part_of(tensors, "model."))
            load_moments(self.steps.optimizer, part_of(tensors, "optimiser."))
            self.at = _Position(**state["position"])


def rate_share(step: int, total: int) -> float:
    """Return the share of the learning rate at a step, counted from 0: 1, then a line to zero over the last fifth."""
    return min(1.0, (total - step) / max(total / 5, 1))


def perplexity_of(nats: float, words: int) -> float:
    """Return the perplexity of a word."""
    return math.exp(min(nats / max(words, 1), 99))


@torch.no_grad()
def held_out_perplexity(model: PcfgModel, ids: np.ndarray, batches: LengthBatches) -> float:
    """Return the perplexity of a word over batches of sentences.

    Args:
        model: The grammar.
        ids: All sentences one after the other.
        batches: Where they start.
    """
    device = model.words.device
    grammar, emission, merger = model.grammar(), model.emission_vectors(), merger_for(device)
    nats, words = 0.0, 0
    for length, starts in batches.epoch(0):
        batch = torch.from_numpy(ids[starts[:, None] + np.arange(length)].astype(np.int64)).to(device)
        nats -= float(inside(model.word_scores(batch, *emission), grammar, merger).sum())
        words += batch.numel()
    return perplexity_of(nats, words)


def save_grammar(
    model: PcfgModel, tokenizer: OnlstmTokenizer, folder: Path, *, half: bool = False, **more: Any
) -> None:
    """Write a model folder.

    Args:
        model: The grammar.
        tokenizer: With its vocabulary.
        folder: An existing one.
        half: Weights as float16.
        **more: Further keys of its config.json.
    """
    config = {"model_type": MODEL_TYPE, "architectures": ["PcfgModel"], **asdict(model.config), **more}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    write_weights(model.state_dict(), folder, half=half)
    tokenizer.save_pretrained(folder)
