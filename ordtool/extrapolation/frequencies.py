"""Frequency methods: other rotary frequencies, so that a longer text stays within the angles of training.

`theta_m = base^(-2m/D)`, `m = 0 .. D/2 - 1`, is what a model was trained with; `s` is the
factor by which texts get longer. Where transformers has a rope type, it is called.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ordtool.errors import OrdtoolError
from ordtool.extrapolation.parameter_files import read_json
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
    `yarn` has it; see `yarn_turns_rule`). With `scaled`, logits are multiplied by `(1 + 0.1 ln s)^2`.
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


def yarn_turns_rule(factor: float, turns: float, train_length: int, scaled: bool) -> FrequencyRule:
    """Return YaRN with the paper's ramp, linear in the turns `r = theta L / 2 pi`.

    `theta (g + (1 - g) / s)`, `g = (r - 1) / (turns - 1)` within 0 and 1: Peng et al. 2023, section 3.2, equation 13, with
    alpha 1 and beta `turns`.
    """

    def rule(config: Any, theta: torch.Tensor) -> Frequencies:
        exact = theta.double().cpu()
        turned = exact * train_length / (2 * math.pi)
        # With a single turn for both ends the ramp is a step.
        kept = ((turned - 1) / max(turns - 1, 1e-12)).clamp(0, 1)
        return (exact * (kept + (1 - kept) / factor)).to(theta), 1 + 0.1 * math.log(factor) if scaled else 1.0

    return rule


def p_rope_rule(share: float) -> FrequencyRule:
    """Turn the fastest `share` of the pairs alone, at their own frequencies; the others don't turn at all."""

    def rule(config: Any, theta: torch.Tensor) -> Frequencies:
        turning = torch.arange(len(theta), device=theta.device) < round(share * len(theta))
        return torch.where(turning, theta, torch.zeros_like(theta)), 1.0

    return rule


def longrope_rule(factors: Sequence[float], factor: float, train_length: int) -> FrequencyRule:
    """Return `theta_m / f_m`; cos and sin are multiplied by `sqrt(1 + ln s / ln L)` (Ding et al. 2024, LongRoPE)."""

    def rule(config: Any, theta: torch.Tensor) -> Frequencies:
        if len(factors) != len(theta):
            raise OrdtoolError(
                f"longrope: there are {len(factors)} factors, and the model has {len(theta)} frequencies",
                "a factor for each pair of coordinates that turns, the fastest first",
            )
        scale = math.sqrt(1 + math.log(factor) / math.log(train_length)) if factor > 1 else 1.0
        divisors = torch.tensor(factors, dtype=torch.float64)
        return (theta.double().cpu() / divisors).to(theta), scale

    return rule


def own_frequencies(config: Any, theta: torch.Tensor) -> Frequencies:
    """Keep a model's frequencies."""
    return theta, 1.0


def read_factors(path: str) -> tuple[list[float] | None, list[float]]:
    """Read LongRoPE's factors from JSON: a list, or an object with `long_factor` and, if wanted, `short_factor`.

    A model's `config.json` with them in `rope_parameters` or `rope_scaling` will do too.

    Returns:
        The factors within the trained length, None: plain rope; and those beyond it.

    Raises:
        OrdtoolError: If the file can't be read or holds no such lists.
    """
    found = read_json(path, "longrope:factors=FILE")
    if isinstance(found, list):
        return None, _factors(path, found)
    for name in ("rope_parameters", "rope_scaling"):
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
    if not isinstance(found, dict) or "long_factor" not in found:
        raise OrdtoolError(f"{path}: has no long_factor", "a list of numbers, or an object with one")
    short = found.get("short_factor")
    return None if short is None else _factors(path, short), _factors(path, found["long_factor"])


def _factors(path: str, values: Any) -> list[float]:
    if not isinstance(values, list) or not all(
        isinstance(value, int | float) and 0 < value < 1e9 for value in values
    ):
        raise OrdtoolError(f"{path}: factors must be numbers above 0")
    return [float(value) for value in values]


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
