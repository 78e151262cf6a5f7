"""The training loop that every method of tuning shares: batches, schedule, dev metric, early stop, checkpoints."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ordtool.errors import OrdtoolError, UsageError
from ordtool.io.checkpoint import CHECKPOINT, read_checkpoint, write_checkpoint
from ordtool.progress import SILENT, Progress
from ordtool.runtime import seed_everything, use_threads
from ordtool.tuning.batching import shuffled_batches
from ordtool.tuning.learners import Learner, Measure

OPTIMIZERS = ("adamw", "adafactor")
USUAL_RATE = 3e-3
# Steps that a labelling ladder takes well at that rate.
_SHORT = 200


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast.

    Attributes:
        epochs: Passes over the data.
        batch_size: Texts a step.
        learning_rate: At its peak; rises over `warmup` of the steps and falls to 0 in a line. None: `USUAL_RATE`,
            and for ladders that label less in long trainings (`label_rate`).
        warmup: Share of the steps.
        weight_decay: Of AdamW.
        optimizer: `adamw` or `adafactor`.
        patience: Epochs without a better dev metric before it stops; None: never.
        max_steps: Steps at most, of all epochs; None: no limit.
        seed: Of weights, dropout and the order.
    """

    epochs: int = 10
    batch_size: int = 32
    learning_rate: float | None = None
    warmup: float = 0.1
    weight_decay: float = 0.01
    optimizer: str = "adamw"
    patience: int | None = None
    max_steps: int | None = None
    seed: int = 0

    @property
    def peak(self) -> float:
        """The learning rate, given or usual."""
        return USUAL_RATE if self.learning_rate is None else self.learning_rate

    def steps(self, texts: int) -> int:
        """Give the steps that a training on some texts takes at most."""
        return int(min(self.epochs * math.ceil(texts / self.batch_size), self.max_steps or math.inf))

    def check(self) -> None:
        """Raise a UsageError for numbers that make no sense."""
        if self.epochs < 1 or self.batch_size < 1 or (self.max_steps is not None and self.max_steps < 1):
            raise UsageError("at least one epoch, one step and one text a batch are needed")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise UsageError(f"learning rate {self.learning_rate:g} is not possible", "a positive number")
        if self.optimizer not in OPTIMIZERS:
            raise UsageError(f"unknown optimizer {self.optimizer!r}", f"choices: {', '.join(OPTIMIZERS)}")
        if not 0 <= self.warmup < 1 or self.weight_decay < 0:
            raise UsageError("the warm-up is a share below 1, and the weight decay not negative")


def label_rate(steps: int) -> float:
    """Give the learning rate of a ladder that labels: in a long training less, as the root of its steps grows.

    Few steps need a high rate to arrive at all; many at a high rate end on noise.
    """
    return USUAL_RATE * math.sqrt(min(1.0, _SHORT / max(1, steps)))


@dataclass
class Fitted:
    """What came of a training.

    Attributes:
        best: The best measurement; the module has its weights.
        epoch: When it was, from 1.
        history: Of each epoch: `loss`, the metric, `seconds` of its steps and `steps`.
        seconds: Of all epochs, measurements included.
    """

    best: Measure | None = None
    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def seconds_a_step(self) -> float:
        """Mean over the epochs after the first, where there are any."""
        rows = self.history[1:] or self.history
        return sum(row["seconds"] for row in rows) / max(1, sum(row["steps"] for row in rows))


def fit(
    learner: Learner,
    lengths: Any,
    schedule: Schedule,
    *,
    name: str = "ladder",
    checkpoint: Path | None = None,
    resume: bool = False,
    progress: Progress = SILENT,
) -> Fitted:
    """Train a method.

    Args:
        learner: The method with its data.
        lengths: Tokens of each training text.
        schedule: How.
        name: For the bar.
        checkpoint: A folder for the state after each epoch, which is there; None: none is kept.
        resume: Go on from the checkpoint.
        progress: Told of steps.

    Returns:
        The history; the learner's module has the best epoch's weights.

    Raises:
        OrdtoolError: If the loss is no number, or the checkpoint is damaged.
    """
    schedule.check()
    parameters = learner.parameters()
    optimizer = _optimizer(parameters, schedule)
    total = schedule.steps(len(lengths))
    state = _State(learner, optimizer, checkpoint)
    fitted = state.load() if resume else Fitted()
    best = state.best
    done = sum(row["steps"] for row in fitted.history)
    progress.start(name, total, "steps")
    progress.advance(done)
    for epoch in range(len(fitted.history), schedule.epochs):
        if _stops(fitted, schedule) or done >= total:
            break
        started = time.perf_counter()
        seed_everything((schedule.seed * 100_003 + epoch) % 2**32)
        learner.module.train()
        losses: list[float] = []
        with use_threads(learner.threads):
            for index in shuffled_batches(lengths, schedule.batch_size, schedule.seed, epoch):
                if done >= total:
                    break
                rate = _rate(done, total, schedule)
                losses.append(_step(learner, optimizer, parameters, index, rate))
                done += 1
                progress.advance(1, loss=f"{losses[-1]:.3f}")
            seconds = time.perf_counter() - started
            found = learner.measure()
            if found.better_than(fitted.best):
                fitted.best, fitted.epoch = found, epoch + 1
                best = [parameter.detach().clone() for parameter in parameters]
        fitted.seconds += time.perf_counter() - started
        mean = sum(losses) / len(losses)
        fitted.history.append(
            {
                "epoch": epoch + 1,
                "loss": mean,
                found.name: found.value,
                **found.more,
                "seconds": seconds,
                "steps": len(losses),
            }
        )
        progress.note(
            f"{name}: epoch {epoch + 1}, loss {mean:.4f}, dev {found.name} {found.value:.4g}, {seconds:.1f} s"
        )
        state.save(fitted, best)
    progress.close()
    if best is None:
        raise OrdtoolError(f"the dev {found.name} was never a number", "try a smaller --learning-rate")
    with torch.no_grad():
        for parameter, value in zip(parameters, best, strict=True):
            parameter.copy_(value)
    learner.module.eval()
    return fitted


def _stops(fitted: Fitted, schedule: Schedule) -> bool:
    return schedule.patience is not None and len(fitted.history) - fitted.epoch >= schedule.patience


def _optimizer(parameters: list[Any], schedule: Schedule) -> torch.optim.Optimizer:
    # No decay on gates, norms and biases: they have no scale to be kept small.
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": schedule.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if schedule.optimizer == "adafactor":
        return torch.optim.Adafactor(groups, lr=schedule.peak)
    return torch.optim.AdamW(groups, lr=schedule.peak, fused=True)


def _rate(step: int, total: int, schedule: Schedule) -> float:
    rise = schedule.warmup * total
    if step < rise:
        return schedule.peak * (step + 1) / (rise + 1)
    return schedule.peak * (total - step) / max(1.0, total - rise)


def _step(
    learner: Learner, optimizer: torch.optim.Optimizer, parameters: list[Any], index: list[int], rate: float
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = rate
    loss = learner.loss(index)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise OrdtoolError(f"the training loss is {value}", "try a smaller --learning-rate")
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return value


class _State:
    """What is on disk after each epoch."""

    def __init__(self, learner: Learner, optimizer: torch.optim.Optimizer, folder: Path | None) -> None:
        self._parameters = learner.parameters()
        self._optimizer = optimizer
        self._file = None if folder is None else folder / CHECKPOINT
        self.best: list[Tensor] | None = None

    def save(self, fitted: Fitted, best: list[Tensor] | None) -> None:
        """Replace the checkpoint by this epoch's, whole or not at all."""
        if self._file is None:
            return
        tensors: dict[str, Tensor] = {f"weight.{i}": p for i, p in enumerate(self._parameters)}
        tensors |= {f"best.{i}": p for i, p in enumerate(best or [])}
        for i, parameter in enumerate(self._parameters):
            for key, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{i}.{key}"] = torch.as_tensor(value)
        write_checkpoint(self._file, tensors, {"fitted": asdict(fitted)})

    def load(self) -> Fitted:
        """Take up the checkpoint."""
        if self._file is None:
            return Fitted()
        tensors, state = read_checkpoint(self._file, {"fitted": (dict,)})
        try:
            self._put(tensors)
            saved = state["fitted"]
            best = saved.pop("best")
            return Fitted(best=Measure(**best) if best else None, **saved)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise OrdtoolError(f"{self._file}: damaged: {error}", "--force begins anew") from None

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
