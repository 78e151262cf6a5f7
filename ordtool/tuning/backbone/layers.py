"""A Transformer's layers: how many there are, where they are, and their hidden states brought to one scale."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ordtool.errors import OrdtoolError

DEPTH_NAMES = (
    "num_hidden_layers",
    "num_layers",
    "n_layer",
    "n_layers",
    "encoder_layers",
    "decoder_layers",
    "num_decoder_layers",
)
# What an encoder-decoder's configuration calls the sizes of its two halves, where they may differ.
_HALVES = (
    ("encoder_layers", "decoder_layers"),
    ("num_layers", "num_decoder_layers"),
    ("encoder_attention_heads", "decoder_attention_heads"),
    ("encoder_ffn_dim", "decoder_ffn_dim"),
)


def depth(config: Any) -> int:
    """Return the number of layers of a configuration (of the encoder, for an encoder-decoder).

    Raises:
        OrdtoolError: If it doesn't say.
    """
    names = ("encoder_layers", *DEPTH_NAMES) if config.is_encoder_decoder else DEPTH_NAMES
    for name in names:
        if isinstance(count := getattr(config, name, None), int):
            return count
    raise OrdtoolError(f"a {config.model_type} model does not say how many layers it has")


def as_decoder(config: Any) -> Any:
    """Copy an encoder-decoder's configuration so that what it says of the encoder holds for the decoder."""
    found = copy.deepcopy(config)
    for encoder, decoder in _HALVES:
        if isinstance(value := getattr(config, decoder, None), int):
            setattr(found, encoder, value)
    return found


def find_layers(model: nn.Module, count: int) -> nn.ModuleList:
    """Return the list of a model's layers: the outermost list of `count` modules.

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


def standardise(hidden: Tensor) -> Tensor:
    """Bring every token's state to mean 0 and spread 1, `(..., hidden)`."""
    return F.layer_norm(hidden.float(), hidden.shape[-1:])
