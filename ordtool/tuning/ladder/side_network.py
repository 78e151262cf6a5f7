"""The side network's layers: a narrow copy of the backbone's own architecture.

The copy is a transformers model of the backbone's class whose sizes are divided by the reduction factor, so masks,
rotary angles and relative positions are made as the backbone makes them. Its embeddings and final norm are not used:
what enters each layer is set by the ladder through hooks.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ordtool.errors import OrdtoolError, UsageError
from ordtool.models.layers import DEPTH_NAMES

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
_HEAD_SIZE = 16
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


def choose_layers(wanted: str | None, total: int) -> tuple[int, ...]:
    """Turn `--layers` into the backbone's layers that get a side layer, from 1.

    Args:
        wanted: A number (evenly spaced, the last among them), layers with commas (`2,4,6`), or None: every second, the
            last among them, and of more than 24 every third, fourth..., so that twelve at most have one.
        total: The backbone's layers.

    Raises:
        UsageError: For layers that aren't there.
    """
    if wanted is None:
        step = max(2 if total > 3 else 1, -(-total // 12))
        return tuple(range(total, 0, -step))[::-1]
    try:
        numbers = [int(part) for part in wanted.split(",")]
    except ValueError:
        raise UsageError(f"`layers` {wanted}: a number, or numbers with commas, is expected") from None
    if "," not in wanted:
        if not 1 <= numbers[0] <= total:
            raise UsageError(f"`layers` {wanted}: the backbone has {total} layers")
        return tuple(round(total * (i + 1) / numbers[0]) for i in range(numbers[0]))
    if any(not 1 <= n <= total for n in numbers) or sorted(set(numbers)) != numbers:
        raise UsageError(f"`layers` {wanted}: ascending numbers from 1 to {total} are expected")
    return tuple(numbers)


@dataclass(frozen=True, slots=True)
class Heads:
    """How attention is divided.

    Attributes:
        groups: Heads of keys and values.
        per_group: Heads of queries that share one of them.
        size: Of a head.
    """

    groups: int
    per_group: int
    size: int

    @property
    def count(self) -> int:
        """Heads of queries."""
        return self.groups * self.per_group

    @property
    def width(self) -> int:
        """Of all heads of queries together."""
        return self.count * self.size


def heads_of(config: Any) -> Heads:
    """Read the heads of a configuration."""
    count = int(config.num_attention_heads)
    groups = int(getattr(config, "num_key_value_heads", None) or count)
    size = next(
        (value for name in _HEAD_SIZES if isinstance(value := getattr(config, name, None), int)),
        int(config.hidden_size) // count,
    )
    return Heads(groups, count // groups, size)


def narrow_heads(config: Any, reduction: int) -> Heads:
    """Divide the width by r: as many heads as leave each a size of 16, of an even number as rotary pairs need.

    Heads of 4, which keeping their number would give a small model, cost as much time as heads of 16 and see less.
    """
    old = heads_of(config)
    width = max(2, int(config.hidden_size) // reduction)
    least = min(_HEAD_SIZE, old.size)
    choices = [
        (groups * each, groups, each)
        for groups in range(1, old.groups + 1)
        for each in range(1, old.per_group + 1)
        if old.groups % groups == 0 and old.per_group % each == 0 and width // (groups * each) >= least
    ]
    count, groups, each = max(choices, default=(1, 1, 1))
    return Heads(groups, each, min(old.size, max(2, width // count // 2 * 2)))


def side_config(config: Any, reduction: int, layers: int, dropout: float) -> Any:
    """Divide a configuration's sizes.

    Args:
        config: The backbone's.
        reduction: r.
        layers: Layers of the side network.
        dropout: Replaces the backbone's probabilities.

    Returns:
        The side network's configuration.
    """
    side = copy.deepcopy(config)
    heads = narrow_heads(config, reduction)
    side.num_attention_heads = heads.count
    if getattr(config, "num_key_value_heads", None) is not None:
        side.num_key_value_heads = heads.groups
    if getattr(config, "decoder_attention_heads", None) is not None:
        side.decoder_attention_heads = heads.count
    for name in _HEAD_SIZES:
        if isinstance(getattr(config, name, None), int):
            setattr(side, name, heads.size)
    side.hidden_size = heads.width
    for name in _INNER:
        if isinstance(value := getattr(config, name, None), int):
            setattr(side, name, max(4, value // reduction))
    _set_depth(side, layers)
    for name in _DROPOUTS:
        if isinstance(getattr(side, name, None), float | int):
            setattr(side, name, dropout)
    # Word embeddings are never looked up; a row each is the least that the classes take.
    side.vocab_size = 2
    side.pad_token_id = 0
    if isinstance(getattr(side, "embedding_size", None), int):
        side.embedding_size = side.hidden_size
    return side


def _set_depth(side: Any, layers: int) -> None:
    for name in DEPTH_NAMES:
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


class MlpBlock(nn.Module):
    r"""A side layer without attention: $h + W_2 \, \mathrm{GELU}(W_1 \, \mathrm{LayerNorm}(h))$, which is $h$ at first.

    Args:
        width: Of the ladder.
        inner: Between the two maps.
        dropout: Behind them.
    """

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, inner)
        self.outer = nn.Linear(inner, width)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the next hidden states, `(batch, seq, width)`: of every token by itself."""
        found: Tensor = hidden + self.dropout(self.outer(F.gelu(self.inner(self.norm(hidden)))))
        return found


class MlpSide(nn.Module):
    """A side network of `MlpBlock`s, called as the others are.

    Args:
        config: As `side_config` gives.
        layers: How many.
        dropout: In each.
    """

    def __init__(self, config: Any, layers: int, dropout: float) -> None:
        super().__init__()
        width = int(config.hidden_size)
        inner = next((n for name in _INNER if isinstance(n := getattr(config, name, None), int)), 4 * width)
        self.layers = nn.ModuleList(MlpBlock(width, inner, dropout) for _ in range(layers))

    def forward(self, inputs_embeds: Tensor, **options: Any) -> Tensor:
        """Run the layers; masks, positions and caches are of no use here."""
        hidden = inputs_embeds
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden


def build_side(config: Any, *, decoder: bool = False) -> nn.Module:
    """Make the side network's model, random; of an encoder-decoder the encoder.

    Args:
        config: As `side_config` gives.
        decoder: Of an encoder-decoder the decoder.
    """
    from transformers import AutoModel

    if config.is_encoder_decoder:
        whole = AutoModel.from_config(config, trust_remote_code=False)
        found: nn.Module = whole.get_decoder() if decoder else whole.get_encoder()
        return found
    made: nn.Module = AutoModel.from_config(config, trust_remote_code=False)
    if getattr(made, "pooler", None) is not None:
        setattr(made, "pooler", None)  # noqa: B010 (a module's attributes are not typed)
    return made


def unused_names(model: nn.Module, layers: Sequence[nn.Module]) -> list[str]:
    """Return the names of a side model's parameters that lie outside its layers."""
    used = {id(parameter) for layer in layers for parameter in layer.parameters()}
    return [name for name, parameter in model.named_parameters() if id(parameter) not in used]
