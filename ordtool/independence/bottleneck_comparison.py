"""The HSIC bottleneck beside back-propagation, a linear read-out and random layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ordtool.errors import UsageError, close_match_hint
from ordtool.independence.bottleneck import BottleneckForClassification, nhsic
from ordtool.independence.bottleneck_training import (
    METHODS,
    BottleneckTrainingConfig,
    batches,
    train_network,
    training_metadata,
    training_path,
)
from ordtool.independence.labelled import Labelled
from ordtool.io.runs import RunFolder
from ordtool.progress import SILENT, Progress


def accuracy(model: BottleneckForClassification, data: Labelled) -> float:
    """Return the share of rows whose most probable class is the right one."""
    return float((model.probabilities(data.vectors).argmax(axis=1) == data.labels).mean())


@torch.no_grad()
def layer_dependence(
    model: BottleneckForClassification, data: Labelled, config: BottleneckTrainingConfig
) -> list[tuple[float, float]]:
    """Return nHSIC of every layer with the inputs and with the labels, in the mean over batches of held-out rows."""
    device = model.device
    vectors = torch.tensor(np.asarray(data.vectors, dtype=np.float32), device=device)
    labels = torch.tensor(data.labels, device=device)
    values = []
    for index in batches(len(data), config, epoch=0):
        inputs = model.standardise(vectors[index])
        classes = nn.functional.one_hot(labels[index], len(data.names))
        values.append(
            [
                [nhsic(z, other, config.sigma, config.epsilon).item() for other in (inputs, classes)]
                for z in model.hidden(vectors[index])
            ]
        )
    means = np.mean(values, axis=0)
    return [(float(x), float(y)) for x, y in means]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One method over several seeds.

    Attributes:
        method: Its name.
        accuracies: On the held-out data, one a seed.
        seconds: Mean time of a training.
        dependence: nHSIC of each layer with inputs and labels, means over seeds.
        first: The network of the first seed.
    """

    method: str
    accuracies: tuple[float, ...]
    seconds: float
    dependence: tuple[tuple[float, float], ...]
    first: BottleneckForClassification

    def record(self) -> dict[str, Any]:
        """Return the fields as a JSON object: accuracies in percent."""
        percent = 100 * np.array(self.accuracies)
        return {
            "method": self.method,
            "accuracy": round(float(percent.mean()), 2),
            "deviation": round(float(percent.std(ddof=1)), 2) if len(percent) > 1 else None,
            "accuracies": [round(value, 2) for value in percent.tolist()],
            "seconds": round(self.seconds, 3),
            "nhsic_inputs": [round(x, 4) for x, _ in self.dependence],
            "nhsic_labels": [round(y, 4) for _, y in self.dependence],
        }


def compare_methods(
    train: Labelled,
    held_out: Labelled,
    config: BottleneckTrainingConfig,
    methods: Sequence[str] = METHODS,
    runs: int = 3,
    *,
    embedding_model: str | None = None,
    folder: RunFolder | None = None,
    progress: Progress = SILENT,
) -> list[Comparison]:
    """Train by several methods with several seeds, and measure on data that none of them saw.

    Args:
        train: What they are trained on.
        held_out: What they are measured on.
        config: The settings all share; `method` is replaced, `seed` is the first of the seeds.
        methods: Of `METHODS`.
        runs: Seeds.
        embedding_model: Recorded in the models.
        folder: Keeps a file for each training, from which a resumed run goes on; None: nothing is kept.
        progress: Told of every training.

    Returns:
        One comparison a method.

    Raises:
        OrdtoolError: As `train_bottleneck`.
    """
    if folder is not None:
        settings = {"methods": list(methods), "runs": runs, "embed_model": embedding_model}
        folder.start(training_metadata([train, held_out], config, **settings), progress)
    comparisons = []
    for method in methods:
        trained = []
        for run in range(1 if method == "linear" else runs):  # the linear read-out has one answer
            run_config = replace(config, method=method, seed=config.seed + run)
            file = None if folder is None else training_path(folder, run_config)
            trained.append(
                train_network(
                    train, run_config, embed_model=embedding_model, checkpoint=file, progress=progress
                )
            )
        dependence = [layer_dependence(t.model, held_out, config) for t in trained if t.model.layers]
        comparisons.append(
            Comparison(
                method,
                tuple(accuracy(t.model, held_out) for t in trained),
                float(np.mean([t.seconds for t in trained])),
                tuple(map(tuple, np.mean(dependence, axis=0).tolist())) if dependence else (),
                trained[0].model,
            )
        )
    return comparisons


def check_methods(names: Sequence[str]) -> tuple[str, ...]:
    """Check names of methods, and give them without spaces.

    Raises:
        UsageError: For an unknown one, or one named twice.
    """
    methods = tuple(name.strip() for name in names)
    for name in methods:
        if name not in METHODS:
            raise UsageError(f"unknown method {name!r}", close_match_hint(name, METHODS))
    if len(set(methods)) < len(methods):
        raise UsageError(f"a method is named twice: {', '.join(methods)}")
    return methods
