"""An encoder-decoder's halves, and hidden states brought to one scale."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor
from torch.nn import functional as F

# What an encoder-decoder's configuration calls the sizes of its two halves, where they may differ.
_HALVES = (
    ("encoder_layers", "decoder_layers"),
    ("num_layers", "num_decoder_layers"),
    ("encoder_attention_heads", "decoder_attention_heads"),
    ("encoder_ffn_dim", "decoder_ffn_dim"),
)


def as_decoder(config: Any) -> Any:
    """Copy an encoder-decoder's configuration so that what it says of the encoder holds for the decoder."""
    found = copy.deepcopy(config)
    for encoder, decoder in _HALVES:
        if isinstance(value := getattr(config, decoder, None), int):
            setattr(found, encoder, value)
    return found


def standardise(hidden: Tensor) -> Tensor:
    """Bring every token's state to mean 0 and spread 1, `(..., hidden)`."""
    return F.layer_norm(hidden.float(), hidden.shape[-1:])
