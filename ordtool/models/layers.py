"""A Transformer's layers: how many there are, and where they are."""

from __future__ import annotations

from typing import Any

from torch import nn

from ordtool.errors import OrdtoolError

__all__ = ["DEPTH_NAMES", "depth", "find_layers", "freeze"]

DEPTH_NAMES = (
    "num_hidden_layers",
    "num_layers",
    "n_layer",
    "n_layers",
    "encoder_layers",
    "decoder_layers",
    "num_decoder_layers",
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


def find_layers(model: nn.Module, count: int) -> nn.ModuleList:
    """Return the list of a model's layers: the outermost list of `count` modules.

    Raises:
        OrdtoolError: If there is none, as in models whose layers share their weights.
    """
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise OrdtoolError(
        f"{type(model).__name__} keeps its {count} layers in no list, so ordtool can't tell them apart",
        "BERT, RoBERTa, DistilBERT, GPT-2, Llama, T5 and models built like them can be used",
    )


def freeze(model: nn.Module, layers: int) -> None:
    """Keep a model's first layers, and all that stands before them, as they are: they take no gradient.

    Args:
        model: A Transformer of the transformers library.
        layers: How many; 0: the embeddings alone.

    Raises:
        OrdtoolError: If the model has fewer layers.
    """
    total = depth(model.config)
    if layers > total:
        raise OrdtoolError(f"the model has {total} layers, so {layers} can't be kept as they are")
    kept = find_layers(model, total)[layers:]
    trained = {id(parameter) for parameter in kept.parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in trained)
