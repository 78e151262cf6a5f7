"""A trained ladder of labels beside a plain BERT, without transformers: `predict` starts in half of the time.

The weights and the arithmetic are those of `Ladder`; a folder that says anything which isn't known here is left to it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ordtool.models.bert import BertLayer, BertShape, plain_shape, read_exactly
from ordtool.tuning.ladder.bert_side_block import attention_mask, bert_side_block
from ordtool.tuning.ladder.mixing import mix, pool
from ordtool.tuning.ladder.side_network import narrow_heads

_TASKS = ("classify", "regress", "pairs")
_CHOICES: Mapping[str, tuple[Any, ...]] = {
    "model_type": ("ordtool_ladder",),
    "task": _TASKS,
    "kind": ("gated", "additive"),
    "pooling": ("mean", "cls", "last"),
    "residual": (True, False),
}
_ELSEWHERE = {
    "adds_after", "architectures", "backbone_config", "block", "dropout", "dtype", "id2label", "label2id", "longest_answer",
    "problem_type", "reduction", "transformers_version", "unanswerable",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PlainLadderConfig:
    """What is needed of a `LadderConfig`, which says what the fields are."""

    backbone: str
    backbone_hash: str
    task: str
    kind: str
    layers: list[int]
    residual: bool
    pooling: str
    text_length: int
    pair_field: str | None
    target_mean: float
    target_scale: float
    id2label: dict[int, str]
    adds_after: bool = False

    labels = True


class LabelScores(NamedTuple):
    """What a ladder says of texts: `(texts, classes)`, and what that was read from, `(texts, hidden)`."""

    logits: Tensor
    pooled: Tensor


class PlainLadder(nn.Module):
    """A ladder that labels, for inference.

    Args:
        config: What it is.
        shape: Of the backbone.
        tensors: The weights, by their names in a checkpoint.
        heads: Of the side layers.
    """

    def __init__(
        self, config: PlainLadderConfig, shape: BertShape, tensors: Mapping[str, Tensor], heads: int
    ) -> None:
        super().__init__()
        self.config = config
        self.hidden_size = shape.hidden_size
        self._adds_after = config.kind == "additive" and config.adds_after
        self._tensors = dict(tensors)
        self._side = nn.ModuleList(
            BertLayer(tensors, f"side.encoder.layer.{number}", heads, shape.layer_norm_eps)
            for number in range(len(config.layers))
        )
        self.device = torch.device("cpu")

    def forward(self, states: Tensor, last: Tensor, mask: Tensor | None = None) -> LabelScores:
        """Label a batch; see `Ladder.forward`."""
        weights, how = self._tensors, self.config.pooling
        rows, batch, length, hidden = states.shape
        down = torch.baddbmm(
            weights["down_bias"][:, None], states.reshape(rows, -1, hidden), weights["down_weight"]
        )
        beside = down.view(rows, batch, length, -1)
        seen, narrow, gates = attention_mask(mask), beside[0], weights.get("gates")
        for index, layer in enumerate(self._side):
            if self._adds_after:
                narrow = bert_side_block(layer, narrow, seen) + beside[index + 1]
                continue
            mixed = mix(narrow, beside[index + 1], None if gates is None else gates[index])
            narrow = bert_side_block(layer, mixed, seen)
        narrow = F.layer_norm(narrow, narrow.shape[-1:], weights["norm.weight"], weights["norm.bias"])
        pooled = F.linear(pool(narrow, mask, how), weights["up.weight"], weights["up.bias"])
        if self.config.residual:
            pooled = pooled + pool(last.to(pooled.dtype), mask, how)
        return LabelScores(F.linear(pooled, weights["classifier.weight"], weights["classifier.bias"]), pooled)


def read_plain_ladder(folder: Path) -> PlainLadder | None:
    """Read what `ordtool train ladder` wrote, if it labels beside a plain BERT; else None."""
    try:
        said = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or not isinstance(said.get("backbone_config"), dict):
        return None
    shape, config = plain_shape(said["backbone_config"]), _config(said)
    reduction = said.get("reduction")
    if shape is None or config is None or type(reduction) is not int or reduction < 1:
        return None
    if not config.layers or not 0 < max(config.layers) <= shape.num_hidden_layers:
        return None
    heads = narrow_heads(shape, reduction)
    tensors = read_exactly(
        folder / "model.safetensors",
        lambda: _expected(config, shape, heads.width, reduction),
        len(config.layers),
    )
    return None if tensors is None else PlainLadder(config, shape, tensors, heads.count)


def _config(said: Mapping[str, Any]) -> PlainLadderConfig | None:
    known = {field.name for field in fields(PlainLadderConfig)}
    if set(said) - known - set(_CHOICES) - _ELSEWHERE or not set(_CHOICES) <= set(said):
        return None
    if any(said[name] not in allowed for name, allowed in _CHOICES.items()):
        return None
    if said.get("block", "transformer") != "transformer":  # absent in older files
        return None
    labels, layers = said.get("id2label"), said.get("layers")
    if (
        not isinstance(labels, dict)
        or not isinstance(layers, list)
        or not all(type(n) is int for n in layers)
    ):
        return None
    try:
        names = {int(key): str(name) for key, name in labels.items()}
        found = {name: said[name] for name in known - {"id2label", "adds_after"}}
    except (KeyError, ValueError):
        return None
    numbers = [found["target_mean"], found["target_scale"]]
    if not isinstance(found.get("backbone", ""), str):
        return None
    if type(found["text_length"]) is not int or not all(isinstance(x, int | float) for x in numbers):
        return None
    adds_after = said.get("adds_after", False)  # absent in older files, which add before
    if type(adds_after) is not bool:
        return None
    return (
        PlainLadderConfig(**found, id2label=names, adds_after=adds_after)
        if set(names) == set(range(len(names)))
        else None
    )


def _expected(
    config: PlainLadderConfig, shape: BertShape, width: int, reduction: int
) -> dict[str, tuple[int, ...]]:
    count, hidden, classes = len(config.layers), shape.hidden_size, len(config.id2label)
    shapes: dict[str, tuple[int, ...]] = {
        "down_weight": (count + 1, hidden, width),
        "down_bias": (count + 1, width),
        "norm.weight": (width,),
        "norm.bias": (width,),
        "up.weight": (hidden, width),
        "up.bias": (hidden,),
        "classifier.weight": (classes, hidden),
        "classifier.bias": (classes,),
    }
    if config.kind == "gated":
        shapes["gates"] = (count,)
    inner = max(4, shape.intermediate_size // reduction)
    for number in range(count):
        shapes |= shape.layer_tensors(f"side.encoder.layer.{number}", width, inner)
    return shapes
