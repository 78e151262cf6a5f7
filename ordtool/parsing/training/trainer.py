"""Training of ON-LSTM language models whose master gates become parsers.

`train_parser` reads text, makes the vocabulary, trains with carried state and truncated back-propagation, and
leaves a Hugging Face model folder. A run that was killed continues bit for bit from its last checkpoint. Several
ranks (see `ordtool.distributed`) deal the shards of a batch out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch

from ordtool.arguments import with_options
from ordtool.distributed import join_ranks
from ordtool.errors import OrdtoolError, UsageError
from ordtool.io.checkpoint import (
    CHECKPOINT,
    DeferredInterrupt,
    part_of,
    read_checkpoint,
    restoring,
    write_checkpoint,
)
from ordtool.parsing.onlstm.directions import BACKWARD_FOLDER
from ordtool.parsing.onlstm.model import OnlstmConfig, OnlstmForCausalLM, save_model
from ordtool.parsing.onlstm.tokenizer import OnlstmTokenizer
from ordtool.parsing.training.data import reversed_data, streams
from ordtool.parsing.training.loss import ShardedLoss, perplexity
from ordtool.parsing.training.optimizers import make_optimizer
from ordtool.parsing.training.plateau import PlateauWatch
from ordtool.parsing.training.recipes import TrainingConfig, TrainingOptions
from ordtool.parsing.training.run import (
    ParserFiles,
    ParserRun,
    ParserRunConfig,
    ParserRunOptions,
    describe_epoch,
    open_run,
)
from ordtool.parsing.training.selection import candidate_settings, choose_settings, score_settings
from ordtool.parsing.trees.treebank import Tree
from ordtool.progress import SILENT, Progress
from ordtool.runtime import resolve_device, resolve_dtype

__all__ = ["train_parser"]

_STEPS_TOLD_TOGETHER = 32
# Of the model that reads backward; it stands beside that of the one that reads forward, which is trained before.
_BACKWARD_CHECKPOINT = "checkpoint-backward.safetensors"


@dataclass
class _Position:
    """How far a run has come."""

    step: int = 0
    epoch: int = 0
    offset: int = 0  # steps of the streams that this epoch has used
    loss: float = 0.0  # sum over the epoch's tokens of a stream
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


class _Options(TrainingOptions, ParserRunOptions, total=False):
    """The keywords of `train_parser`."""


def train_parser(
    text: str | Path | Sequence[str | Path],
    output: str | Path,
    config: TrainingConfig | None = None,
    *,
    dev: str | Path | Sequence[str | Path] = (),
    treebank: str | Path | Sequence[str | Path] = (),
    tune: str | Path | Sequence[str | Path] = (),
    progress: Progress = SILENT,
    **options: Unpack[_Options],
) -> list[dict[str, Any]]:
    """Train a language model on text and save it as a model folder.

    Args:
        text: Training files or folders.
        output: The model folder to make.
        config: What is trained and how; see `TrainingConfig` and `recipe`. None: the recipe `small`.
        dev: Held-out files; empty: a part of the text.
        treebank: Trees to score after each epoch: reported, never used to choose.
        tune: Development trees on which the layers and the builder of the finished model are chosen.
        progress: Told of everything.
        **options: Fields of `TrainingConfig`, on top of `config`, and of `ParserRunConfig`: `device`, `threads`, `resume`,
            `force`, ...

    Returns:
        A record an epoch: `epoch`, `step`, `train_perplexity`, `dev_perplexity`, `seconds`, with a treebank
        `f1`: sentence F1 of each layer with the paper's builder, and of two directions `direction`: first all epochs of the
        model that reads `forward`, then those of the one that reads `backward`.

    Raises:
        OrdtoolError: Unreadable or empty text or treebank, an output that exists, a checkpoint of another run, a
            loss that is no number.
    """
    config, machine = with_options(
        config or TrainingConfig(), options, [item.name for item in fields(ParserRunConfig)]
    )
    files = ParserFiles(text, output, dev, treebank, tune)
    settings = ParserRunConfig(**machine)
    with (
        join_ranks(resolve_device(settings.device)) as ranks,
        open_run(files, config, config.fixed_part(), settings, ranks.heard(progress), ranks) as run,
    ):
        directions = ("both", "backward") if config.bidirectional else ("forward",)
        trained = [_train_direction(run, config, direction) for direction in directions]
        models = [trainer.model.eval() for trainer in trained]
        tokenizer, half = run.data.tokenizer, run.machine.half
        history = [record for trainer in trained for record in trainer.at.history]
        if not ranks.is_main:
            return history
        if run.development:
            _tune(models, tokenizer, run.development, files.many("tune"), run.progress)

        def write(folder: Path) -> None:
            save_model(models[0], tokenizer, folder, half=half)
            for backward in models[1:]:
                (folder / BACKWARD_FOLDER).mkdir()
                save_model(backward, None, folder / BACKWARD_FOLDER, half=half)

        run.save(config, history, write)
    return history


def _train_direction(run: ParserRun, config: TrainingConfig, direction: str) -> _Trainer:
    """Train a model that reads in one direction; `both` is the forward one of two."""
    if direction == "backward":
        run = replace(run, data=reversed_data(run.data))
    trainer = _Trainer(run, config, direction)
    told = {"both": "from left to right: ", "backward": "from right to left: "}.get(direction, "")
    run.progress.note(
        f"{told}{trainer.model.num_parameters():,} parameters, {run.data.train.tokens:,} tokens an epoch, "
        f"{trainer.total_steps:,} steps, matrix products in {str(trainer.dtype).removeprefix('torch.')}"
    )
    try:
        trainer.run_epochs()
    finally:
        trainer.loss.close()
        run.progress.close()
    return trainer


def _tune(
    models: Sequence[OnlstmForCausalLM],
    tokenizer: OnlstmTokenizer,
    trees: list[Tree],
    paths: Sequence[str | Path],
    progress: Progress,
) -> None:
    name = ", ".join("/".join(Path(path).parts[-2:]) for path in paths)
    model = models[0]
    for setting, score in choose_settings(model, tokenizer, trees, name, *models[1:]).items():
        progress.note(f"{name}: {score:5.1f}  {setting.name}")
    progress.note(f"chosen on {model.config.parse_tuned_on}")


def _model_config(config: TrainingConfig, tokenizer: OnlstmTokenizer, direction: str) -> OnlstmConfig:
    shape = ("embedding_size", "hidden_size", "num_hidden_layers", "chunk_size", "input_gate")
    dropouts = ("input_dropout", "layer_dropout", "output_dropout", "weight_dropout", "word_dropout")
    return OnlstmConfig(
        vocab_size=tokenizer.vocab_size,
        eos_token_id=int(tokenizer.eos_token_id),
        direction=direction,
        **{name: getattr(config, name) for name in shape + dropouts},
    )


def _shards(tensors: dict[str, torch.Tensor]) -> int:
    """Count the shards whose states a checkpoint holds: part of what the interrupted run was."""
    return sum(name.startswith("loss.h.") and name.endswith(".0") for name in tensors)


class _Trainer:
    """The loop: epochs, windows, checkpoints."""

    def __init__(self, run: ParserRun, config: TrainingConfig, direction: str) -> None:
        self.run, self.config, self.progress, self.ranks = run, config, run.progress, run.ranks
        self.direction = direction
        self.checkpoint = run.folder / (_BACKWARD_CHECKPOINT if direction == "backward" else CHECKPOINT)
        self.data = data = run.data
        saved = self._read_checkpoint() if run.resumed and self.checkpoint.exists() else None
        device = resolve_device(run.machine.device)
        torch.manual_seed(config.seed)
        self.model = OnlstmForCausalLM(_model_config(config, data.tokenizer, direction)).to(device)
        self.dtype = resolve_dtype(config.dtype, device)
        self.model.use_matmul_dtype(None if self.dtype == torch.float32 else self.dtype)
        self.parameters = list(self.model.parameters())
        self.epoch_steps = (data.train.tokens) // config.batch_size
        if self.epoch_steps < 1:
            streams(data.train, config.batch_size, 0)  # raises with the numbers
        whole, part = divmod(config.epochs, 1)
        per_epoch = math.ceil(self.epoch_steps / config.window)
        self.total_steps = int(whole) * per_epoch + math.ceil(part * self.epoch_steps / config.window)
        self.optimizer = make_optimizer(self.parameters, config, self.total_steps)
        shards = config.shards_on(device.type, self.ranks.size)
        if saved and (shards := _shards(saved[0])) < self.ranks.size:
            raise UsageError(
                f"the interrupted run has {shards} shards, which can't be dealt out to {self.ranks.size} ranks"
            )
        self.loss = ShardedLoss(self.model.train(), config, run.machine.threads, self.ranks, shards)
        # Losses that a card has still to tell: to ask for each would make it wait.
        self.untold: list[tuple[int, float | torch.Tensor, int]] = []
        self.patience = 1 if self.loss.device.type == "cpu" else _STEPS_TOLD_TOGETHER
        self.plateau = PlateauWatch(data.train, config.warmup, self.progress)
        self.at = _Position()
        if saved:
            self._restore(*saved)
        # Machines of other kinds may have drawn other first weights.
        self.ranks.copy_main([parameter.detach() for parameter in self.parameters])

    def run_epochs(self) -> None:
        config = self.config
        tokens = self.epoch_steps * config.batch_size
        self.started = time.monotonic() - self.at.seconds
        self.saved = time.monotonic()
        self.progress.start("training", config.epochs * tokens, "tokens")
        self.progress.advance((self.at.epoch * self.epoch_steps + self.at.offset) * config.batch_size)
        with DeferredInterrupt() as interrupt:
            while self.at.epoch < config.epochs:
                self._epoch(interrupt)
                self._finish_epoch()
        if self.config.optimizer == "asgd":
            self.optimizer.swap_average()

    def _epoch(self, interrupt: DeferredInterrupt) -> None:
        config, at = self.config, self.at
        count = len(self.data.train)
        order = (
            np.random.default_rng([config.seed, 2, at.epoch]).permutation(count) if config.shuffle else None
        )
        eos = self.model.config.eos_token_id
        tokens = torch.from_numpy(streams(self.data.train, config.batch_size, eos, order).tokens)
        if self.loss.on_card:
            tokens = tokens.to(self.loss.device)
        end = (config.epochs - at.epoch) * self.epoch_steps
        for start, length in self._windows():
            if start < at.offset:
                continue
            if start >= end:
                break
            loss = self.loss(tokens[:, start : start + length], tokens[:, start + 1 : start + length + 1])
            self.untold.append((at.step, loss, length))
            if len(self.untold) >= self.patience:
                self._settle()
            torch.nn.utils.clip_grad_norm_(self.parameters, config.clip)
            self.optimizer.step(at.step, length / config.window if config.random_window else 1.0)
            at.step += 1
            at.offset = start + length
            told = at.offset - sum(length for _, _, length in self.untold)
            shown = f"{math.exp(min(at.loss / told, 99)):.1f}" if told else "?"
            stop = False
            try:
                self.progress.advance(length * config.batch_size, epoch=at.epoch + 1, ppl=shown)
                stop, due = self._agree(interrupt.requested)
                if stop:
                    interrupt.check()
                    raise KeyboardInterrupt
            except KeyboardInterrupt:
                if stop or self.ranks.size == 1:  # the others wouldn't know that this one saves
                    self.save()
                    self.progress.note(f"stopped at step {at.step:,}; the same command with `resume` goes on")
                raise
            if due:
                self.save()
                self._note_progress(shown)

    def _agree(self, stopped: bool) -> tuple[bool, bool]:
        """Whether to stop, and whether a checkpoint is due: the same on all ranks.

        Args:
            stopped: Somebody wants this rank to.
        """
        due = time.monotonic() - self.saved > 60 * self.run.machine.checkpoint_minutes
        if self.ranks.size == 1:
            return stopped, due
        if self.untold:  # ranks on cards meet when losses are told
            return False, False
        stops, dues = self.ranks.sum_numbers([stopped, due and self.ranks.is_main])
        return stops > 0, dues > 0

    def _settle(self) -> None:
        """Add up the losses that are to be told.

        Raises:
            OrdtoolError: One of them is no number.
        """
        if not self.untold:
            return
        steps, losses, lengths = zip(*self.untold, strict=True)
        self.untold.clear()
        values = self.ranks.sum_numbers(torch.stack(losses).tolist() if self.loss.on_card else losses)
        for step, value, length in zip(steps, values, lengths, strict=True):
            if not math.isfinite(value):
                raise OrdtoolError(f"the loss is {value} at step {step}", "try a lower `learning_rate`")
            self.at.loss += value * length
            self.plateau.see(step, value)

    def _note_progress(self, shown: str) -> None:
        """One line for logs, where there is no bar."""
        at, seconds = self.at, max(self.at.seconds, 1e-9)
        share = at.step / self.total_steps
        done = (at.epoch * self.epoch_steps + at.offset) * self.config.batch_size
        self.progress.note(
            f"step {at.step:,} of {self.total_steps:,}, train perplexity {shown}, {done / seconds:,.0f} tokens/s, "
            f"{seconds * (1 - share) / share / 60:.0f} minutes left"
        )

    def _windows(self) -> list[tuple[int, int]]:
        """Start and length of the epoch's windows."""
        config, total = self.config, self.epoch_steps
        if not config.random_window:
            return [(s, min(config.window, total - s)) for s in range(0, total, config.window)]
        random = np.random.default_rng([config.seed, 3, self.at.epoch])
        windows, start = [], 0
        while start < total:
            centre = config.window if random.random() < 0.95 else config.window / 2
            length = min(max(5, int(random.normal(centre, 5))), total - start)
            windows.append((start, length))
            start += length
        return windows

    def _finish_epoch(self) -> None:
        at = self.at
        self._settle()
        self.optimizer.swap_average()
        self.model.eval()
        record: dict[str, Any] = {
            "epoch": round(at.epoch + at.offset / self.epoch_steps, 2),
            "step": at.step,
            "train_perplexity": round(math.exp(min(at.loss / max(at.offset, 1), 99)), 2),
        }
        if self.config.bidirectional:
            record = {"direction": "backward" if self.direction == "backward" else "forward", **record}
        if len(self.data.dev):
            record["dev_perplexity"] = round(perplexity(self.model, self.data.dev), 3)
        if self.run.treebank:
            record["f1"] = self._layer_scores()
        record = self.ranks.from_main(record)
        self.model.train()
        self.optimizer.swap_average()
        self.optimizer.evaluated(record.get("dev_perplexity", record["train_perplexity"]))
        record["seconds"] = round(time.monotonic() - self.started)
        at.history.append(record)
        at.epoch, at.offset, at.loss = at.epoch + 1, 0, 0.0
        # A shuffled stream doesn't continue the one before, and nor does the start of the text its end.
        self.loss.reset()
        self.progress.note(describe_epoch(record))
        self.save()

    def _layer_scores(self) -> list[float]:
        settings = [
            s for s in candidate_settings(self.config.num_hidden_layers, ["paper"]) if 1.0 in s.layer_weights
        ]
        scores = score_settings(self.model, self.data.tokenizer, self.run.treebank, settings)
        return [round(scores[setting], 1) for setting in settings]

    def save(self) -> None:
        """Write a checkpoint from which the run continues, on a CPU bit for bit."""
        self._settle()
        self.at.seconds = time.monotonic() - self.started
        tensors = {f"model.{name}": p for name, p in self.model.named_parameters()}
        optimizer, plain = self.optimizer.state()
        tensors |= {f"optimiser.{name}": tensor for name, tensor in optimizer.items()}
        tensors |= {f"loss.{name}": tensor for name, tensor in self.loss.tensors_of_all().items()}
        state = {"position": asdict(self.at), "optimiser": plain}
        self.ranks.on_main(lambda: write_checkpoint(self.checkpoint, tensors, state))
        self.saved = time.monotonic()

    def _read_checkpoint(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return read_checkpoint(self.checkpoint, {"position": (dict,), "optimiser": (dict,)})

    @torch.no_grad()
    def _restore(self, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
        """Continue from a checkpoint.

        Raises:
            OrdtoolError: It is damaged.
        """
        with restoring(self.checkpoint):
            for name, parameter in self.model.named_parameters():
                parameter.copy_(tensors[f"model.{name}"])
            self.optimizer.load(part_of(tensors, "optimiser."), state["optimiser"])
            self.loss.load(part_of(tensors, "loss."))
            self.at = _Position(**state["position"])
