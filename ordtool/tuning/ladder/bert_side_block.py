"""The side layers of a BERT-like ladder without what surrounds them in transformers.

A layer this narrow takes less time than what is done around it: embeddings that the ladder doesn't use, masks made for
every batch, and three products where one does. The layers' own modules are used, so weights, dropout and activation
are theirs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

FAMILIES = {"bert", "camembert", "roberta", "xlm-roberta"}


def has_bert_blocks(config: Any, layers: Any) -> bool:
    """Whether a side network's layers are BERT's own, and not a decoder's.

    Args:
        config: Of the side network.
        layers: Its layers.
    """
    if config.model_type not in FAMILIES or getattr(config, "is_decoder", False):
        return False
    return all(hasattr(layer, part) for layer in layers for part in ("attention", "intermediate", "output"))


def attention_mask(mask: Tensor | None) -> Tensor | None:
    """Turn a mask `(batch, seq)` into attention's `(batch, 1, 1, seq)`; None where nothing is hidden."""
    if mask is None or bool(mask.all()):
        return None
    return mask.bool()[:, None, None]


def bert_side_block(layer: Any, hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Run one layer.

    Args:
        layer: A `BertLayer` or its like.
        hidden: `(batch, seq, width)`.
        mask: As `attention_mask` returns.
    """
    attention = layer.attention.self
    batch, length, _ = hidden.shape
    maps = (attention.query, attention.key, attention.value)
    projected = F.linear(hidden, torch.cat([m.weight for m in maps]), torch.cat([m.bias for m in maps]))
    query, key, value = projected.view(batch, length, 3, attention.num_attention_heads, -1).permute(
        2, 0, 3, 1, 4
    )
    mixed = F.scaled_dot_product_attention(
        query, key, value, mask, dropout_p=attention.dropout.p if layer.training else 0.0
    )
    hidden = layer.attention.output(mixed.transpose(1, 2).reshape(batch, length, -1), hidden)
    found: Tensor = layer.output(layer.intermediate(hidden), hidden)
    return found
