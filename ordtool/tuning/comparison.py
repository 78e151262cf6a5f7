"""Ladder, full fine-tuning, LoRA, BitFit and a head, trained on the same data in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ordtool.batching import shuffled_batches
from ordtool.memory import ExtraMemory
from ordtool.progress import SILENT, Progress
from ordtool.runtime import use_threads
from ordtool.tuning.backbone.model import Backbone
from ordtool.tuning.cache import StateSource
from ordtool.tuning.config import ComparisonConfig, LadderTrainingConfig, ScheduleConfig
from ordtool.tuning.dataset import LadderData
from ordtool.tuning.methods import TuningMethod, make_baseline
from ordtool.tuning.train_loop import train
from ordtool.tuning.training import (
    TrainedLadder,
    fit_ladder,
    ladder_method,
    new_ladder,
    state_sources,
)

# Learning rates that are usual for each; the ladder's is its own.
RATES = {"full": 1e-4, "lora": 2e-3, "bitfit": 2e-3, "head": 1e-2}
LIVE = "ladder, no cache"
LIVE_STEPS = 8


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One method over several seeds.

    Attributes:
        method: Its name.
        metric: What the scores are.
        scores: One a seed, each of the epoch that was best on the dev data: on the test data if there is some,
            else on the dev data. Empty where only time and memory were measured.
        parameters: How many are trained.
        memory: Peak extra memory of a training in MB, the largest over seeds; None where it can't be told.
        step: Mean seconds a step, after the first epoch.
        seconds: Mean seconds of a training, with its measurements, and the hidden states where they are computed.
        epochs: Passes over the data.
    """

    method: str
    metric: str
    scores: tuple[float, ...]
    parameters: int
    memory: float | None
    step: float
    seconds: float
    epochs: int

    def record(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        values = np.array(self.scores)
        return {
            "method": self.method,
            "metric": self.metric,
            "score": round(float(values.mean()), 4) if len(values) else None,
            "deviation": round(float(values.std(ddof=1)), 4) if len(values) > 1 else None,
            "scores": [round(float(value), 4) for value in values],
            "trained_parameters": self.parameters,
            "peak_extra_memory_mb": None if self.memory is None else round(self.memory, 1),
            "seconds_a_step": round(self.step, 5),
            "seconds": round(self.seconds, 2),
            "epochs": self.epochs,
        }


def compare_tuning(
    backbone: Backbone,
    data: LadderData,
    config: LadderTrainingConfig,
    comparison: ComparisonConfig,
    *,
    progress: Progress = SILENT,
    done: Callable[[ComparisonRow], None] | None = None,
) -> tuple[list[ComparisonRow], TrainedLadder]:
    """Train the ladder and other methods with several seeds.

    Args:
        backbone: The frozen model; the others tune copies of it.
        data: What all are trained on and measured with.
        config: The ladder's; batch size, length, pooling and seeds are everybody's.
        comparison: The other methods, and how long they are trained.
        progress: Told of every training.
        done: Told of each comparison when it is complete.

    Returns:
        One row a method, the ladder first, and the ladder of the first seed.
    """
    rows, first = _ladders(backbone, data, config, comparison.runs, progress)
    if done is not None:
        for row in rows:
            done(row)
    for name in comparison.methods:
        schedule = replace(
            config.schedule,
            learning_rate=RATES[name],
            optimizer="adamw",
            patience=None,
            epochs=config.schedule.epochs if name == "head" else comparison.epochs,
        )
        own = replace(config, schedule=schedule)
        sources = (
            state_sources(backbone, data, first.ladder.config.layers, config) if name == "head" else None
        )
        found = []
        for run in range(comparison.runs):
            seeded = replace(own, schedule=replace(schedule, seed=schedule.seed + run))
            found.append(_baseline(name, backbone, data, seeded, sources, progress))
        rows.append(_summary(name, found))
        if done is not None:
            done(rows[-1])
    return rows, first


def _baseline(
    name: str,
    backbone: Backbone,
    data: LadderData,
    config: LadderTrainingConfig,
    sources: Sequence[StateSource] | None,
    progress: Progress,
) -> ComparisonRow:
    method = make_baseline(name, backbone, data, config, sources)
    label = f"{name}, seed {config.schedule.seed}"
    with ExtraMemory(backbone.model.device) as extra:
        history = train(method, data.train.lengths, config.schedule, name=label, progress=progress)
    test = sources[-1] if sources else None
    found = history.best if data.test is None else method.measure((data.test, test))
    assert found is not None
    count = sum(parameter.numel() for parameter in method.parameters())
    return ComparisonRow(
        label, found.name, (found.value,), count, extra.megabytes,
        history.seconds_a_step, history.seconds, len(history.epochs),
    )  # fmt: skip


def _ladders(
    backbone: Backbone,
    data: LadderData,
    config: LadderTrainingConfig,
    runs: int,
    progress: Progress,
) -> tuple[list[ComparisonRow], TrainedLadder]:
    trained: list[TrainedLadder] = []
    memory: list[float | None] = []
    # Built before anything is measured: the states' own pass has its own time, and its memory is inference's.
    state_sources(backbone, data, new_ladder(backbone, data, config).config.layers, config, progress)
    for run in range(runs):
        own = replace(config, schedule=replace(config.schedule, seed=config.schedule.seed + run))
        ladder = new_ladder(backbone, data, own)
        with ExtraMemory(backbone.model.device) as extra:
            trained.append(fit_ladder(ladder, backbone, data, own, progress=progress))
        memory.append(extra.megabytes)
    best = [t.test or t.history.best for t in trained]
    rows = [
        ComparisonRow(
            "ladder", b.name, (b.value,), t.parameters, m, t.history.seconds_a_step,
            t.history.seconds + t.state_seconds, len(t.history.epochs),
        )
        for t, m, b in zip(trained, memory, best, strict=True)
        if b is not None
    ]  # fmt: skip
    found = [_summary("ladder", rows)]
    if config.cache:
        found.append(_live(trained[0], backbone, data, config))
    return found, trained[0]


def _live(
    trained: TrainedLadder, backbone: Backbone, data: LadderData, config: LadderTrainingConfig
) -> ComparisonRow:
    """Time a few steps with the backbone's pass in each, on a copy of nothing: a ladder of the same shape."""
    ladder = type(trained.ladder)(trained.ladder.config).to(backbone.model.device)
    layers = ladder.config.layers
    sources = state_sources(backbone, data, layers, replace(config, cache=False))
    method = ladder_method(ladder, backbone, data, config, sources)
    seconds, memory = time_steps(method, data, config.schedule, backbone, LIVE_STEPS)
    metric = trained.history.best.name if trained.history.best else ""
    return ComparisonRow(LIVE, metric, (), trained.parameters, memory, seconds, seconds * LIVE_STEPS, 0)


def time_steps(
    method: TuningMethod, data: LadderData, schedule: ScheduleConfig, backbone: Backbone, steps: int
) -> tuple[float, float | None]:
    """Return the mean seconds of some steps after a first one, and the peak extra memory of all."""
    import torch

    batches = shuffled_batches(data.train.lengths, schedule.batch_size, schedule.seed, 0)
    batches = (batches * (1 + steps // len(batches)))[: steps + 1]
    method.module.train()
    parameters = method.parameters()
    seconds = 0.0
    with ExtraMemory(backbone.model.device) as extra:
        optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
        with use_threads(method.threads):
            for number, index in enumerate(batches):
                started = time.perf_counter()
                method.loss(index).backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                seconds += time.perf_counter() - started if number else 0.0
    return seconds / max(1, len(batches) - 1), extra.megabytes


def _summary(name: str, rows: Sequence[ComparisonRow]) -> ComparisonRow:
    known = [row.memory for row in rows if row.memory is not None]
    return ComparisonRow(
        name,
        rows[0].metric,
        tuple(score for row in rows for score in row.scores),
        rows[0].parameters,
        max(known) if known else None,
        float(np.mean([row.step for row in rows])),
        float(np.mean([row.seconds for row in rows])),
        rows[0].epochs,
    )
