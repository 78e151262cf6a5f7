"""The side network's layers: a narrow copy of the backbone's own architecture.

The copy is a transformers model of the backbone's class whose sizes are divided by the reduction factor, so masks,
rotary angles and relative positions are made as the backbone makes them. Its embeddings and final norm are not used:
what enters each layer is set by the ladder through hooks.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn

from ordtool.errors import OrdtoolError, UsageError

_INNER = (
    "intermediate_size",
    "ffn_dim",
    "d_ff",
    "n_inner",
    "hidden_dim",
    "encoder_ffn_dim",
    "decoder_ffn_dim",
    "ffn_hidden_size",
)
_HEAD_SIZES = ("head_dim", "d_kv")
_DEPTHS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers")
_DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "hidden_dropout",
    "attention_dropout",
    "dropout",
    "dropout_rate",
    "embd_pdrop",
    "resid_pdrop",
    "attn_pdrop",
    "activation_dropout",
)


def depth(config: Any) -> int:
    """Give the number of layers of a configuration (of the encoder, for an encoder-decoder).

    Raises:
        OrdtoolError: If it doesn't say.
    """
    names = ("encoder_layers", *_DEPTHS) if config.is_encoder_decoder else _DEPTHS
    for name in names:
        if isinstance(count := getattr(config, name, None), int):
            return count
    raise OrdtoolError(f"a {config.model_type} model does not say how many layers it has")


def find_layers(model: nn.Module, count: int) -> nn.ModuleList:
    """Give the list of a model's layers: the outermost list of `count` modules.

    Raises:
        OrdtoolError: If there is none, as in models whose layers share their weights.
    """
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise OrdtoolError(
        f"{type(model).__name__} keeps its {count} layers in no list, so a ladder can't be put beside it",
        "BERT, RoBERTa, DistilBERT, GPT-2, Llama, T5 and models built like them can be used",
    )


def choose_layers(wanted: str | None, total: int) -> tuple[int, ...]:
    """Turn `--layers` into the backbone's layers that get a rung, from 1.

    Args:
        wanted: A number (evenly spaced, the last among them), layers with commas (`2,4,6`), or None: all, of more
            than twelve every second, third...
        total: The backbone's layers.

    Raises:
        UsageError: For layers that aren't there.
    """
    if wanted is None:
        step = -(-total // 12)
        return tuple(range(total, 0, -step))[::-1]
    try:
        numbers = [int(part) for part in wanted.split(",")]
    except ValueError:
        raise UsageError(f"--layers {wanted}: a number, or numbers with commas, is expected") from None
    if "," not in wanted:
        if not 1 <= numbers[0] <= total:
            raise UsageError(f"--layers {wanted}: the backbone has {total} layers")
        return tuple(round(total * (i + 1) / numbers[0]) for i in range(numbers[0]))
    if any(not 1 <= n <= total for n in numbers) or sorted(set(numbers)) != numbers:
        raise UsageError(f"--layers {wanted}: ascending numbers from 1 to {total} are expected")
    return tuple(numbers)


def side_config(config: Any, reduction: int, layers: int, dropout: float | None) -> Any:
    """Divide a configuration's sizes.

    The number of heads stays, and each head becomes narrower: head size / r, at least 2 and even, as rotary pairs
    need. The width is heads times that, so nearly hidden / r.

    Args:
        config: The backbone's.
        reduction: r.
        layers: Layers of the side network.
        dropout: Replaces the backbone's probabilities; None keeps them.

    Returns:
        The side network's configuration.
    """
    side = copy.deepcopy(config)
    heads = int(config.num_attention_heads)
    head_size = next(
        (value for name in _HEAD_SIZES if isinstance(value := getattr(config, name, None), int)),
        config.hidden_size // heads,
    )
    narrow = max(2, head_size // reduction // 2 * 2)
    for name in _HEAD_SIZES:
        if isinstance(getattr(config, name, None), int):
            setattr(side, name, narrow)
    side.hidden_size = heads * narrow
    for name in _INNER:
        if isinstance(value := getattr(config, name, None), int):
            setattr(side, name, max(4, value // reduction))
    _set_depth(side, layers)
    if dropout is not None:
        for name in _DROPOUTS:
            if isinstance(getattr(side, name, None), float):
                setattr(side, name, dropout)
    # Word embeddings are never looked up; a row each is the least that the classes take.
    side.vocab_size = 2
    side.pad_token_id = 0
    if isinstance(getattr(side, "embedding_size", None), int):
        side.embedding_size = side.hidden_size
    return side


def _set_depth(side: Any, layers: int) -> None:
    for name in _DEPTHS:
        if isinstance(getattr(side, name, None), int):
            setattr(side, name, layers)
    if getattr(side, "layer_types", None):
        if len(set(side.layer_types)) > 1:
            raise OrdtoolError(
                f"the layers of this {side.model_type} model are of several kinds: "
                + ", ".join(sorted(set(side.layer_types))),
                "a ladder needs layers of one kind",
            )
        side.layer_types = side.layer_types[:1] * layers


def build_side(config: Any) -> nn.Module:
    """Make the side network's model, random; of an encoder-decoder the encoder.

    Args:
        config: As `side_config` gives.
    """
    from transformers import AutoModel

    if config.is_encoder_decoder:
        found: nn.Module = AutoModel.from_config(config).get_encoder()
        return found
    made: nn.Module = AutoModel.from_config(config)
    if getattr(made, "pooler", None) is not None:
        setattr(made, "pooler", None)  # noqa: B010 (a module's attributes are not typed)
    return made


def unused_names(model: nn.Module, layers: Sequence[nn.Module]) -> list[str]:
    """Give the names of a side model's parameters that lie outside its layers."""
    used = {id(parameter) for layer in layers for parameter in layer.parameters()}
    return [name for name, parameter in model.named_parameters() if id(parameter) not in used]
