"""Other parts in the place of a model's own, for as long as a `with` lasts: its rotary module, its attention.

transformers has tables of attentions and of masks, by name; ours stand in both as `NAME`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface

from ordtool.errors import OrdtoolError
from ordtool.extrapolation.attention import RegionAttention
from ordtool.extrapolation.rotary import Rotary
from ordtool.models.releases import attention_name, name_attention, plain_causal_rule

NAME = "ordtool_extrapolate"  # of our attention, in transformers' table
_FOREIGN = ("softcap", "s_aux", "position_bias")  # what other attentions add to the scores

_active: WeakKeyDictionary[nn.Module, RegionAttention] = WeakKeyDictionary()


@contextmanager
def replaced_rotary(rotary: Rotary, module: nn.Module) -> Iterator[None]:
    """Let a model rotate by another module."""
    decoder: Any = rotary.decoder
    decoder.rotary_emb = module
    try:
        yield
    finally:
        decoder.rotary_emb = rotary.module


@contextmanager
def replaced_attention(model: nn.Module, rotary: Rotary, attention: RegionAttention) -> Iterator[None]:
    """Let a model attend by region, to raw queries and keys, without a window of its own."""
    config = rotary.config
    implementation, window = attention_name(config), getattr(config, "sliding_window", None)
    modules = list(model.modules())
    try:
        _active.update(dict.fromkeys(modules, attention))
        name_attention(config, NAME)
        if window is not None:
            config.sliding_window = None
        with replaced_rotary(rotary, _Still(2 * len(rotary.inv_freq))):
            yield
    finally:
        name_attention(config, implementation)
        if window is not None:
            config.sliding_window = window
        for module in modules:
            _active.pop(module, None)


class _Still(nn.Module):
    """Stands for a rotary module and turns nothing: cos is 1, sin is 0."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, states: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (*position_ids.shape, self.dim)
        return states.new_ones(shape), states.new_zeros(shape)


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Stand in transformers' table of attentions."""
    attention = _active.get(module)
    if attention is None:
        raise OrdtoolError(
            "a model shares its configuration with one that is being extrapolated",
            "load it with a configuration of its own",
        )
    if foreign := [name for name in _FOREIGN if options.get(name) is not None]:
        raise OrdtoolError(f"{type(module).__name__} adds {foreign[0]} to its scores, which is not supported")
    if attention_mask is not None and attention_mask.ndim != 2:
        raise OrdtoolError(
            "a mask of queries and keys was given, and the method decides which keys are seen",
            "give a padding mask of shape (batch, tokens), or none",
        )
    output = attention(query, key, value, attention_mask, scaling or query.shape[-1] ** -0.5, module)
    return output.transpose(1, 2).contiguous(), None


def _padding(
    *,
    q_length: int,
    kv_length: int,
    q_offset: Any = 0,
    kv_offset: Any = 0,
    mask_function: Callable[..., Any] | None = None,
    attention_mask: torch.Tensor | None = None,
    **_: Any,
) -> torch.Tensor | None:
    """Stand in transformers' table of masks: hand on the padding, `(batch, keys)`, if there is any."""
    if mask_function not in (None, plain_causal_rule()):
        raise OrdtoolError(
            "several texts packed in one row can't be extrapolated", "give a row to each, with left padding"
        )
    if int(kv_offset) or kv_length != int(q_offset) + q_length:
        raise OrdtoolError(
            "a static or sliding cache can't hold raw keys of any length",
            "use the default, transformers' DynamicCache",
        )
    if attention_mask is None:
        return None
    present = nn.functional.pad(attention_mask, (0, max(0, kv_length - attention_mask.shape[1])))[
        :, :kv_length
    ]
    return None if bool(present.all()) else present


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _padding)
