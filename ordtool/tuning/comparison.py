"""Ladder, full fine-tuning, LoRA, BitFit and a head, trained on the same data in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ordtool.memory import ExtraMemory
from ordtool.progress import SILENT, Progress
from ordtool.runtime import use_threads
from ordtool.tuning.backbone import Backbone
from ordtool.tuning.baselines import make_baseline
from ordtool.tuning.cache import StateSource
from ordtool.tuning.data import Fields
from ordtool.tuning.fitting import Schedule, fit
from ordtool.tuning.learners import Learner
from ordtool.tuning.reading import LadderData
from ordtool.tuning.settings import LadderSettings
from ordtool.tuning.training import Trained, fit_ladder, make_learner, new_ladder, state_sources

# Learning rates that are usual for each; the ladder's is its own.
RATES = {"full": 1e-4, "lora": 2e-3, "bitfit": 2e-3, "head": 1e-2}
LIVE = "ladder, no cache"
LIVE_STEPS = 8


@dataclass(frozen=True, slots=True)
class Compared:
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
        """Give the fields as a JSON object."""
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
    fields: Fields,
    settings: LadderSettings,
    methods: Sequence[str],
    *,
    runs: int = 3,
    epochs: int = 3,
    progress: Progress = SILENT,
    done: Callable[[Compared], None] | None = None,
) -> tuple[list[Compared], Trained]:
    """Train the ladder and other methods with several seeds.

    Args:
        backbone: The frozen model; the others tune copies of it.
        data: What all are trained on and measured with.
        fields: Where the data's texts are, for the ladder's configuration.
        settings: The ladder's; batch size, length, pooling and seeds are everybody's.
        methods: Of `BASELINES`.
        runs: Seeds, from the schedule's on.
        epochs: Of full fine-tuning, LoRA and BitFit, for which an epoch is dear; the head has the ladder's.
        progress: Told of every training.
        done: Told of each comparison when it is complete.

    Returns:
        One comparison a method, the ladder first, and the ladder of the first seed.
    """
    found, first = _ladders(backbone, data, fields, settings, runs, progress)
    if done is not None:
        for row in found:
            done(row)
    pooling = first.ladder.config.pooling
    labels = first.ladder.config.num_labels if first.ladder.config.labels else 0
    for name in methods:
        own = replace(
            settings.schedule,
            learning_rate=RATES[name],
            optimizer="adamw",
            patience=None,
            epochs=settings.schedule.epochs if name == "head" else epochs,
        )
        sources = (
            state_sources(backbone, data, first.ladder.config.layers, settings) if name == "head" else None
        )
        rows = []
        for run in range(runs):
            schedule = replace(own, seed=own.seed + run)
            learner = make_baseline(
                name, backbone, settings.task, data.train, data.dev,
                labels=labels, pooling=pooling, seed=schedule.seed, states=sources[:2] if sources else None,
            )  # fmt: skip
            test = sources[-1] if sources else None
            label = f"{name}, seed {schedule.seed}"
            rows.append(_train(label, learner, data, schedule, backbone, test, progress))
            del learner
        found.append(_summary(name, rows))
        if done is not None:
            done(found[-1])
    return found, first


def _ladders(
    backbone: Backbone,
    data: LadderData,
    fields: Fields,
    settings: LadderSettings,
    runs: int,
    progress: Progress,
) -> tuple[list[Compared], Trained]:
    trained: list[Trained] = []
    memory: list[float | None] = []
    # Built before anything is measured: the states' own pass has its own time, and its memory is inference's.
    state_sources(
        backbone, data, new_ladder(backbone, data, fields, settings).config.layers, settings, progress
    )
    for run in range(runs):
        own = replace(settings, schedule=replace(settings.schedule, seed=settings.schedule.seed + run))
        ladder = new_ladder(backbone, data, fields, own)
        with ExtraMemory(backbone.model.device) as extra:
            trained.append(fit_ladder(ladder, backbone, data, own, progress=progress))
        memory.append(extra.megabytes)
    best = [t.test or t.fitted.best for t in trained]
    rows = [
        Compared(
            "ladder", b.name, (b.value,), t.parameters, m, t.fitted.seconds_a_step,
            t.fitted.seconds + t.state_seconds, len(t.fitted.history),
        )
        for t, m, b in zip(trained, memory, best, strict=True)
        if b is not None
    ]  # fmt: skip
    found = [_summary("ladder", rows)]
    if settings.cache:
        found.append(_live(trained[0], backbone, data, settings))
    return found, trained[0]


def _live(trained: Trained, backbone: Backbone, data: LadderData, settings: LadderSettings) -> Compared:
    """Time a few steps with the backbone's pass in each, on a copy of nothing: a ladder of the same shape."""
    ladder = type(trained.ladder)(trained.ladder.config).to(backbone.model.device)
    layers = ladder.config.layers
    sources = state_sources(backbone, data, layers, replace(settings, cache=False))
    learner = make_learner(ladder, backbone, data, settings, sources)
    seconds, memory = time_steps(learner, data, settings.schedule, backbone, LIVE_STEPS)
    metric = trained.fitted.best.name if trained.fitted.best else ""
    return Compared(LIVE, metric, (), trained.parameters, memory, seconds, seconds * LIVE_STEPS, 0)


def time_steps(
    learner: Learner, data: LadderData, schedule: Schedule, backbone: Backbone, steps: int
) -> tuple[float, float | None]:
    """Give the mean seconds of some steps after a first one, and the peak extra memory of all."""
    import torch

    from ordtool.tuning.batching import shuffled_batches

    batches = shuffled_batches(data.train.lengths, schedule.batch_size, schedule.seed, 0)
    batches = (batches * (1 + steps // len(batches)))[: steps + 1]
    learner.module.train()
    parameters = learner.parameters()
    seconds = 0.0
    with ExtraMemory(backbone.model.device) as extra:
        optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
        with use_threads(learner.threads):
            for number, index in enumerate(batches):
                started = time.perf_counter()
                learner.loss(index).backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                seconds += time.perf_counter() - started if number else 0.0
    return seconds / max(1, len(batches) - 1), extra.megabytes


def _train(
    name: str,
    learner: Learner,
    data: LadderData,
    schedule: Schedule,
    backbone: Backbone,
    test: StateSource | None,
    progress: Progress,
) -> Compared:
    with ExtraMemory(backbone.model.device) as extra:
        fitted = fit(learner, data.train.lengths, schedule, name=name, progress=progress)
    found = fitted.best if data.test is None else learner.measure((data.test, test))
    assert found is not None
    count = sum(parameter.numel() for parameter in learner.parameters())
    return Compared(
        name, found.name, (found.value,), count, extra.megabytes,
        fitted.seconds_a_step, fitted.seconds, len(fitted.history),
    )  # fmt: skip


def _summary(name: str, rows: Sequence[Compared]) -> Compared:
    known = [row.memory for row in rows if row.memory is not None]
    return Compared(
        name,
        rows[0].metric,
        tuple(score for row in rows for score in row.scores),
        rows[0].parameters,
        max(known) if known else None,
        float(np.mean([row.step for row in rows])),
        float(np.mean([row.seconds for row in rows])),
        rows[0].epochs,
    )
