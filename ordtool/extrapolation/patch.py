"""A method of length extrapolation on a model, for as long as a `with` lasts.

Frequency methods replace the model's rotary module by one with other frequencies;
attention stays the model's own. The others make the model's own rotation do nothing, so
that queries and cached keys stay raw, and put attention by region in the place of its
attention; that rotates them as the method wants, with the model's own rotary module and
the modelling file's own `apply_rotary_pos_emb`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch import nn

from ordtool.errors import OrdtoolError, UsageError
from ordtool.extrapolation.attention import RegionAttention
from ordtool.extrapolation.methods import Part
from ordtool.extrapolation.plan import Plan, make_plan
from ordtool.extrapolation.replacement import replaced_attention, replaced_rotary
from ordtool.extrapolation.rotary import (
    Rotary,
    check_attention,
    check_frequencies,
    find_rotary,
    model_name,
    trained_length,
)
from ordtool.extrapolation.rotation import changed_module
from ordtool.progress import Progress, PythonWarnings, warn_each

_busy: WeakSet[nn.Module] = WeakSet()
_checked: WeakSet[nn.Module] = WeakSet()


@contextmanager
def context_extension(
    model: Any,
    method: str = "rerope",
    *,
    train_length: int | None = None,
    length: int | None = None,
    progress: Progress | None = None,
    **parameters: float,
) -> Iterator[Plan]:
    """Let a rotary model read texts longer than those it was trained on.

    Within the `with`, forward passes and `generate` use the method: with a key-value
    cache, with batches and left padding. Leaving it restores the model exactly. For
    inference; gradients are right, but slow.

    Args:
        model: A transformers model with one rotary module, in evaluation mode: Llama,
            Mistral, Qwen2, Qwen3, GPT-NeoX, Phi3, GLM, Cohere and those built like them.
        method: A name of `ordtool.extrapolation.methods.METHODS`, several joined by `+`,
            with parameters if wanted: `rerope:window=128+logn`.
        train_length: The length it was trained at, in tokens; None: its configuration's.
        length: The longest text to come, prompt and new tokens together; frequency
            methods take their factor from it. Without it `dynamic-ntk` follows the text.
        progress: Told of warnings; None: Python's `warnings` are.
        **parameters: Parameters of the methods, such as `window=128`.

    Yields:
        What the method was worked out to.

    Raises:
        UsageError: For unknown methods or parameters.
        OrdtoolError: If the model can't be extrapolated; the message says why.
    """
    known = train_length or trained_length(model.config)
    if known is None:
        raise UsageError(
            f"the configuration of {model_name(model)} doesn't say how long its training texts were",
            "give the trained length",
        )
    plan = make_plan(method, train_length=known, length=length, parameters=parameters)
    heard = PythonWarnings() if progress is None else progress
    warn_each(plan.warnings, heard)
    with apply_plan(model, plan, heard):
        yield plan


@contextmanager
def apply_plan(model: Any, plan: Plan, progress: Progress) -> Iterator[None]:
    """Do what `context_extension` does with a plan that is made already."""
    if plan.does_nothing:
        yield
        return
    if getattr(model, "base_model", model) in _busy:
        raise UsageError(f"{model_name(model)} is being extrapolated already", "leave the outer `with` first")
    warn_each(check_plan(model, plan), progress)
    rotary = find_rotary(model)
    _busy.add(rotary.decoder)
    try:
        if plan.needs_attention:
            with replaced_attention(model, rotary, RegionAttention(rotary, plan.part, progress)):
                yield
        else:
            with replaced_rotary(rotary, changed_module(rotary, plan.part)):
                yield
    finally:
        _busy.discard(rotary.decoder)


def check_plan(model: Any, plan: Plan) -> list[str]:
    """Check that a plan can be applied to a model; the model is left as it is.

    Returns:
        What of the model's own the plan replaces, for a person to know.

    Raises:
        OrdtoolError: As `context_extension` does.
    """
    if plan.does_nothing:
        return []
    rotary = find_rotary(model)
    if plan.part.frequencies is not None or plan.part.grows is not None:
        check_frequencies(model, rotary)
    if plan.part.scale is not None and getattr(rotary.config, "logn", False):
        raise OrdtoolError(
            f"{model_name(model)} scales its scores by the logarithm of the length already",
            "it was trained so; leave out logn",
        )
    if not plan.needs_attention:
        return []
    check_attention(model, rotary)
    _check_by_running(model, rotary)
    _check_pairs(model, rotary, plan.part)
    window = getattr(rotary.config, "sliding_window", None)
    return (
        [f"{model_name(model)} attends within {window:,} tokens; {plan.label} replaces that"]
        if window
        else []
    )


@torch.no_grad()
def _check_by_running(model: Any, rotary: Rotary) -> None:
    """Check once a model that plain attention by region gives what its own attention gives.

    This finds what no list of properties does, such as layers that don't rotate.
    """
    if model in _checked:
        return
    device = rotary.inv_freq.device
    vocabulary = model.config.get_text_config().vocab_size
    count = min(11, getattr(rotary.config, "sliding_window", None) or 11)  # within a window of its own
    tokens = (torch.arange(1, count + 1, device=device) * 7 % vocabulary)[None]
    own = model(input_ids=tokens, use_cache=False)[0].double()
    try:
        with replaced_attention(model, rotary, RegionAttention(rotary, Part())):
            ours = model(input_ids=tokens, use_cache=False)[0].double()
    except (RuntimeError, TypeError, ValueError) as error:
        raise OrdtoolError(
            f"{model_name(model)}: can't be extrapolated: {' '.join(str(error).split())[:200]}"
        ) from error
    tolerance = 1e-3 if model.dtype in (torch.float32, torch.float64) else 0.2
    if not bool((own - ours).abs().max() <= tolerance * own.std()):
        raise OrdtoolError(
            f"{model_name(model)}: can't be extrapolated: its attention is not the one that its parts suggest",
            "frequency methods (ntk, yarn) may work on it",
        )
    _checked.add(model)


def _check_pairs(model: nn.Module, rotary: Rotary, part: Part) -> None:
    """Check that groups and key pairs, which belong to one model, can be this one's."""
    if part.columns is None:
        return
    pairs, heads, layers = (
        len(rotary.inv_freq),
        rotary.config.num_attention_heads,
        rotary.config.num_hidden_layers,
    )
    if part.columns.groups > pairs:
        raise OrdtoolError(
            f"dpe: there are {part.columns.groups} lengths, and the pairs of coordinates that turn are {pairs}",
            f"{model_name(model)} can have one length for each, or for each group of them",
        )
    key_pairs = part.columns.key_pairs
    if key_pairs is not None and not (
        len(key_pairs) == layers
        and all(len(layer) == heads for layer in key_pairs)
        and all(number < pairs for layer in key_pairs for head in layer for number in head)
    ):
        raise OrdtoolError(
            f"dpe: the key pairs are not {model_name(model)}'s",
            f"it has {layers} layers, {heads} heads and {pairs} pairs of coordinates that turn",
        )
