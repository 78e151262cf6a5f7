"""Frequency methods: other rotary frequencies, so that a longer text stays within the angles of training.

`theta_m = base^(-2m/D)`, `m = 0 .. D/2 - 1`, is what a model was trained with; `s` is the
factor by which texts get longer. Where transformers has a rope type, it is called.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch

from ordtool.errors import OrdtoolError
from ordtool.models.releases import rope_frequencies

Frequencies = tuple[torch.Tensor, float]
"""Inverse frequencies `(D/2,)`, and the factor on cos and sin (its square is on the logits)."""

FrequencyRule = Callable[[Any, torch.Tensor], Frequencies]
"""From a model's configuration and its own inverse frequencies to others."""


def pi_rule(factor: float) -> FrequencyRule:
    """Return `theta / s`: position interpolation, transformers' rope type `linear`."""
    return lambda config, theta: _from_transformers(config, theta, "linear", {"factor": factor})


def ntk_rule(factor: float, train_length: int) -> FrequencyRule:
    """Return `base * s^(D/(D-2))`, by transformers' rope type `dynamic` at the length `s * L_train`."""

    def rule(config: Any, theta: torch.Tensor) -> Frequencies:
        settings = {"factor": 1.0}
        return _from_transformers(
            config, theta, "dynamic", settings, train_length, seq_len=factor * train_length
        )

    return rule


def ntk_mixed_rule(factor: float, exponent: float) -> FrequencyRule:
    """Return `theta_m exp(-a m^b)`, `m = 1 .. D/2`, `a (D/2)^b = ln s`.

    `b = 0` is position interpolation, `b = 1` is ntk-fixed.
    """

    def rule(config: Any, theta: torch.Tensor) -> Frequencies:
        half = len(theta)
        order = torch.arange(1, half + 1, dtype=torch.float64)
        slowed = theta.double().cpu() * torch.exp(-math.log(factor) * (order / half) ** exponent)
        return slowed.to(theta), 1.0

    return rule


def yarn_rule(factor: float, turns: float, train_length: int, scaled: bool) -> FrequencyRule:
    """Keep the dimensions that turn more than `turns` times in training, divide the slow ones by s.

    Between `turns` and one turn lies a ramp (over dimensions, as transformers' rope type
    `yarn` has it). With `scaled`, logits are multiplied by `(1 + 0.1 ln s)^2`.
    """
    settings: dict[str, Any] = {
        "factor": factor,
        "beta_fast": turns,
        "beta_slow": 1.0,
        "original_max_position_embeddings": train_length,
    }
    if not scaled:
        settings["attention_factor"] = 1.0
    return lambda config, theta: _from_transformers(config, theta, "yarn", settings, train_length)


def _from_transformers(
    config: Any,
    theta: torch.Tensor,
    rope_type: str,
    settings: dict[str, Any],
    train_length: int | None = None,
    seq_len: float | None = None,
) -> Frequencies:
    """Call one of transformers' rope functions on a copy of a configuration."""
    changed = copy.deepcopy(config)
    kept = {
        name: value
        for name, value in changed.rope_parameters.items()
        if name in ("rope_theta", "partial_rotary_factor")
    }
    changed.rope_parameters = {**kept, "rope_type": rope_type, **settings}
    if train_length is not None:
        changed.max_position_embeddings = train_length
        if hasattr(changed, "original_max_position_embeddings"):  # Phi3's own copy goes before ours
            changed.original_max_position_embeddings = train_length
    if getattr(changed, "head_dim", None) is None:
        changed.head_dim = changed.hidden_size // changed.num_attention_heads
    frequencies, scaling = rope_frequencies(rope_type, changed, theta.device, seq_len)
    if frequencies.shape != theta.shape:
        raise OrdtoolError(
            f"{type(config).__name__}: transformers' rope type {rope_type!r} gives {len(frequencies)} frequencies, "
            f"and the model has {len(theta)}",
            "the position methods (rerope, self-extend) don't need them",
        )
    return frequencies.to(theta), scaling
