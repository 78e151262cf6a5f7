"""Optimisers of the two recipes, behind one small interface with a state that saves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ordtool.io.checkpoint import load_moments, moments
from ordtool.parsing.training.recipes import TrainingConfig

__all__ = [
    "AdamWCosine",
    "AveragedSgd",
    "make_optimizer",
    "warmup_cosine",
    "weight_groups",
]


def weight_groups(parameters: Sequence[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Part parameters for AdamW: matrices are decayed, vectors (biases, norms) are not."""
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def warmup_cosine(step: int, warmup: int, total: int) -> float:
    """Return the share of the peak rate at a step, counted from 0: up to 1 in `warmup` steps, then a cosine to 0."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(total - warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


class AdamWCosine:
    """AdamW with linear warm-up and a cosine to zero over the whole run.

    Biases aren't decayed.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], config: TrainingConfig, total_steps: int) -> None:
        """Make the optimiser for a run of `total_steps`."""
        self.config = config
        self.total_steps = total_steps
        fused = all(p.device.type in ("cpu", "cuda") for p in parameters)
        self.inner = torch.optim.AdamW(
            weight_groups(parameters, config.weight_decay), lr=config.learning_rate, fused=fused
        )

    def rate(self, step: int) -> float:
        """Learning rate of step `step`, counted from 0."""
        peak, warmup = self.config.learning_rate, min(self.config.warmup, self.total_steps // 10)
        return peak * warmup_cosine(step, warmup, self.total_steps)

    def step(self, step: int, window_scale: float = 1.0) -> None:
        """Move the parameters by their gradients."""
        for group in self.inner.param_groups:
            group["lr"] = self.rate(step) * window_scale
        self.inner.step()

    def evaluated(self, perplexity: float) -> None:
        """Told of each validation; the schedule doesn't depend on it."""

    def swap_average(self) -> None:
        """Exchange parameters and their average; there is none here."""

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and plain values from which `load` continues."""
        return moments(self.inner), {}

    def load(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Continue from a saved state."""
        load_moments(self.inner, tensors)


class AveragedSgd:
    """SGD at a constant rate; once validation stops improving, the average of the following iterates is the model.

    The trigger is that of Merity et al. 2018 (NT-ASGD): an evaluation worse than the best of those
    more than `patience` evaluations ago.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], config: TrainingConfig, total_steps: int) -> None:
        """Make the optimiser; `total_steps` doesn't matter here."""
        self.parameters = list(parameters)
        self.config = config
        self.history: list[float] = []
        self.averaged = 0
        self.average: list[Tensor] = []

    def rate(self, step: int) -> float:
        """Learning rate of step `step`."""
        return self.config.learning_rate

    @torch.no_grad()
    def step(self, step: int, window_scale: float = 1.0) -> None:
        """Move the parameters by their gradients and add them to the average where it has begun."""
        rate = self.config.learning_rate * window_scale
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.mul_(1 - rate * self.config.weight_decay).add_(parameter.grad, alpha=-rate)
        if self.average:
            self.averaged += 1
            for mean, parameter in zip(self.average, self.parameters, strict=True):
                mean.lerp_(parameter, 1 / self.averaged)

    def evaluated(self, perplexity: float) -> None:
        """Begin to average when validation has stopped improving."""
        old = self.history[: -self.config.patience]
        if not self.average and old and perplexity > min(old):
            self.average = [parameter.detach().clone() for parameter in self.parameters]
            self.averaged = 0
        self.history.append(perplexity)

    @torch.no_grad()
    def swap_average(self) -> None:
        """Exchange parameters and their average, if there is one; a second call changes back."""
        if not self.averaged:
            return
        for mean, parameter in zip(self.average, self.parameters, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(mean)
            mean.copy_(kept)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and plain values from which `load` continues."""
        tensors = {f"average.{k}": mean for k, mean in enumerate(self.average)}
        return tensors, {"history": self.history, "averaged": self.averaged}

    def load(self, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
        """Continue from a saved state."""
        device = self.parameters[0].device
        self.average = [tensors[f"average.{k}"].to(device) for k in range(len(tensors))]
        self.history, self.averaged = list(plain["history"]), int(plain["averaged"])


Optimizer = AdamWCosine | AveragedSgd


def make_optimizer(parameters: Sequence[nn.Parameter], config: TrainingConfig, total_steps: int) -> Optimizer:
    """Make the optimiser that `config.optimizer` names."""
    return (AdamWCosine if config.optimizer == "adamw" else AveragedSgd)(parameters, config, total_steps)
