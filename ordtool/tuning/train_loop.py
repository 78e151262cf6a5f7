"""The training loop that every method of tuning shares: batches, schedule, dev metric, early stop, checkpoints."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ordtool.batching import shuffled_batches
from ordtool.distributed import ALONE, Ranks
from ordtool.errors import OrdtoolError
from ordtool.io.checkpoint import CHECKPOINT, read_checkpoint, restoring, write_checkpoint
from ordtool.progress import SILENT, Progress
from ordtool.runtime import seed_everything, use_threads
from ordtool.tuning.config import ScheduleConfig
from ordtool.tuning.methods import TuningMethod
from ordtool.tuning.metrics import Metric


@dataclass
class TrainHistory:
    """What came of a training.

    Attributes:
        best: The best metric; the module has its weights.
        epoch: When it was, from 1.
        epochs: Of each epoch: `loss`, the metric, `seconds` of its steps and `steps`.
        seconds: Of all epochs, measurements included.
    """

    best: Metric | None = None
    epoch: int = 0
    epochs: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def seconds_a_step(self) -> float:
        """Mean over the epochs after the first, where there are any."""
        rows = self.epochs[1:] or self.epochs
        return sum(row["seconds"] for row in rows) / max(1, sum(row["steps"] for row in rows))


def train(
    method: TuningMethod,
    lengths: Any,
    schedule: ScheduleConfig,
    *,
    name: str = "ladder",
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: Progress = SILENT,
    ranks: Ranks = ALONE,
) -> TrainHistory:
    """Train a method.

    Args:
        method: The method with its data.
        lengths: Tokens of each training text.
        schedule: How.
        name: For the bar.
        checkpoint: A folder for the state after each epoch, which is there; None: none is kept.
        resume: Go on from the checkpoint.
        progress: Told of steps.
        ranks: Those that train: each has its part of every batch, and the same weights after every step.

    Returns:
        The history; the method's module has the best epoch's weights.

    Raises:
        OrdtoolError: If the loss is no number, or the checkpoint is damaged.
    """
    loop = _Loop(method, lengths, schedule, checkpoint, progress, ranks)
    history = loop.checkpoint.load() if resume else TrainHistory()
    done = sum(row["steps"] for row in history.epochs)
    progress.start(name, loop.total, "steps")
    progress.advance(done)
    best = loop.checkpoint.best
    for epoch in range(len(history.epochs), schedule.epochs):
        if _stops(history, schedule) or done >= loop.total:
            break
        started = time.perf_counter()
        row, found = loop.epoch(epoch, done)
        done += row["steps"]
        if found.better_than(history.best):
            history.best, history.epoch = found, epoch + 1
            best = [parameter.detach().clone() for parameter in loop.parameters]
        history.seconds += time.perf_counter() - started
        history.epochs.append(row)
        progress.note(
            f"{name}: epoch {epoch + 1}, loss {row['loss']:.4f}, dev {found}, {row['seconds']:.1f} s"
        )
        loop.checkpoint.save(history, best)
    progress.close()
    if best is None:
        raise OrdtoolError("the dev figure was never a number", "try a smaller `learning_rate`")
    with torch.no_grad():
        for parameter, value in zip(loop.parameters, best, strict=True):
            parameter.copy_(value)
    method.module.eval()
    return history


class _Loop:
    """What all epochs of a training share."""

    def __init__(
        self,
        method: TuningMethod,
        lengths: Any,
        schedule: ScheduleConfig,
        folder: Path | None,
        progress: Progress,
        ranks: Ranks,
    ) -> None:
        self._ranks = ranks
        self._method, self._lengths, self._schedule, self._progress = method, lengths, schedule, progress
        self.parameters = method.parameters()
        self._optimizer = _optimizer(self.parameters, schedule)
        self.total = schedule.steps(len(lengths))
        self.checkpoint = _Checkpoint(method, self._optimizer, folder, ranks)

    def epoch(self, epoch: int, done: int) -> tuple[dict[str, Any], Metric]:
        """Train for an epoch, or the rest of the steps; return the epoch's row of the history, and the dev metric."""
        schedule, method = self._schedule, self._method
        started = time.perf_counter()
        seed_everything((schedule.seed * 100_003 + epoch + 1_000_003 * self._ranks.rank) % 2**32)
        method.module.train()
        losses: list[float] = []
        with use_threads(method.threads):
            batches = shuffled_batches(self._lengths, schedule.batch_size, schedule.seed, epoch)
            for index in batches[: self.total - done]:
                rate = _rate(done + len(losses), self.total, schedule)
                losses.append(self._step(index, rate))
                self._progress.advance(1, loss=f"{losses[-1]:.3f}")
            seconds = time.perf_counter() - started
            found = Metric(**self._ranks.from_main(asdict(method.measure())))
        row = {
            "epoch": epoch + 1,
            "loss": sum(losses) / len(losses),
            found.name: found.value,
            **found.more,
            "seconds": seconds,
            "steps": len(losses),
        }
        return row, found

    def _step(self, index: list[int], rate: float) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        [value] = self._ranks.sum_numbers([self._backward(index)])
        if not math.isfinite(value):
            raise OrdtoolError(f"the training loss is {value}", "try a smaller `learning_rate`")
        self._ranks.sum_gradients(self.parameters)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return value

    def _backward(self, index: list[int]) -> float:
        """Compute the gradients of this rank's texts, and its part of the loss of the batch."""
        own, train = list(self._ranks.share(index)), self._method.train
        shared = self._ranks.size > 1
        if shared and not (own and train.counted(own)):  # nothing in it to learn
            return 0.0
        loss = self._method.loss(own)
        if shared:
            loss = loss * (train.counted(own) / train.counted(index))
        loss.backward()
        return float(loss.detach())


def _stops(history: TrainHistory, schedule: ScheduleConfig) -> bool:
    return schedule.patience is not None and len(history.epochs) - history.epoch >= schedule.patience


def _optimizer(parameters: list[Any], schedule: ScheduleConfig) -> torch.optim.Optimizer:
    # No decay on gates, norms and biases: they have no scale to be kept small.
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": schedule.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if schedule.optimizer == "adafactor":
        return torch.optim.Adafactor(groups, lr=schedule.peak)
    return torch.optim.AdamW(groups, lr=schedule.peak, fused=True)


def _rate(step: int, total: int, schedule: ScheduleConfig) -> float:
    rise = schedule.warmup * total
    if step < rise:
        return schedule.peak * (step + 1) / (rise + 1)
    return schedule.peak * (total - step) / max(1.0, total - rise)


class _Checkpoint:
    """What is on disk after each epoch."""

    def __init__(
        self, method: TuningMethod, optimizer: torch.optim.Optimizer, folder: Path | None, ranks: Ranks
    ) -> None:
        self._ranks = ranks
        self._parameters = method.parameters()
        self._optimizer = optimizer
        self._file = None if folder is None else folder / CHECKPOINT
        self.best: list[Tensor] | None = None

    def save(self, history: TrainHistory, best: list[Tensor] | None) -> None:
        """Replace the checkpoint by this epoch's, whole or not at all."""
        if self._file is None:
            return
        file = self._file
        tensors: dict[str, Tensor] = {f"weight.{i}": p for i, p in enumerate(self._parameters)}
        tensors |= {f"best.{i}": p for i, p in enumerate(best or [])}
        for i, parameter in enumerate(self._parameters):
            for key, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{i}.{key}"] = torch.as_tensor(value)
        self._ranks.on_main(lambda: write_checkpoint(file, tensors, {"history": asdict(history)}))

    def load(self) -> TrainHistory:
        """Take up the checkpoint."""
        if self._file is None:
            return TrainHistory()
        tensors, state = read_checkpoint(self._file, {"history": (dict,)})
        with restoring(self._file):
            self._put(tensors)
            saved = state["history"]
            best = saved.pop("best")
            return TrainHistory(best=Metric(**best) if best else None, **saved)

    def _put(self, tensors: dict[str, Tensor]) -> None:
        bests = [tensors.get(f"best.{i}") for i in range(len(self._parameters))]
        if all(best is not None for best in bests):
            self.best = [
                b.to(p.device) for b, p in zip(bests, self._parameters, strict=True) if b is not None
            ]
        with torch.no_grad():
            for i, parameter in enumerate(self._parameters):
                parameter.copy_(tensors[f"weight.{i}"])
                keys = [name for name in tensors if name.startswith(f"optimizer.{i}.")]
                self._optimizer.state[parameter] = {
                    name.rsplit(".", 1)[1]: tensors[name].to(parameter.device) for name in keys
                }
