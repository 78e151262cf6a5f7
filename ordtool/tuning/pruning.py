r"""Initialisation of a ladder from its backbone by structural pruning (Sung et al. 2022, section 3.3).

Whole units are kept, the most important ones: one choice of hidden units for all layers, since the residual stream
ties them together; in each layer a choice of feed-forward units and of heads; and in each head a choice of dimensions,
the same for queries and keys. The importance of a unit is the sum over its weights of $w^2$ (magnitude) or of the squared
gradients of the loss (the empirical Fisher information's diagonal). $D_l$ begins as the map that picks out the hidden
units kept, so the ladder starts as the pruned backbone beside the whole one. A decoder's attention to its source has
heads of its own, and the units of the encoder that its keys and values read are a choice of their own too, with which
$D_e$ begins. Of a ladder of MLPs the $D_l$ alone begin so.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ordtool.errors import UsageError, close_match_hint
from ordtool.tuning.backbone.model import Backbone
from ordtool.tuning.ladder.model import Ladder
from ordtool.tuning.ladder.side_network import Heads, heads_of, narrow_heads

INITIALISATIONS = ("random", "magnitude", "fisher")

# The role of a linear map by the end of its name: what its outputs and its inputs are.
_ROLES: tuple[tuple[str, str, str], ...] = (
    (r"(query|q_proj|q_lin|Attention\.q|attention\.q)$", "q", "hidden"),
    (r"(key|k_proj|k_lin|Attention\.k|attention\.k)$", "k", "hidden"),
    (r"(value|v_proj|v_lin|Attention\.v|attention\.v)$", "v", "hidden"),
    (
        r"(attention\.output\.dense|o_proj|out_lin|out_proj|Attention\.o|attention\.o|attention\.dense)$",
        "hidden",
        "o",
    ),
    (r"(intermediate\.dense|up_proj|gate_proj|lin1|fc1|wi|wi_0|wi_1|dense_h_to_4h)$", "inner", "hidden"),
    (r"((?<!attention\.)output\.dense|down_proj|lin2|fc2|wo|dense_4h_to_h)$", "hidden", "inner"),
)

_CROSS = re.compile(r"(encoder_attn|EncDecAttention|crossattention)\.")
# The same roles in a decoder's attention to its source, whose keys and values read what the encoder gives.
_ACROSS = {"q": "source q", "k": "source k", "v": "source v", "o": "source o"}


def initialise(
    ladder: Ladder, backbone: Backbone, how: str, gradients: Callable[[], dict[str, Tensor]] | None = None
) -> list[str]:
    """Fill a ladder's layers with pruned ones of the backbone.

    Args:
        ladder: Changed in place.
        backbone: Whose layers are pruned.
        how: `random` (nothing is done), `magnitude` or `fisher`.
        gradients: For `fisher`: gives the mean squared gradients by the names of the backbone's parameters.

    Returns:
        Names of the weights in a layer that no rule knows, and which stay random.

    Raises:
        UsageError: For an unknown way.
    """
    if how not in INITIALISATIONS:
        raise UsageError(f"unknown initialisation {how!r}", close_match_hint(how, INITIALISATIONS))
    if how == "random":
        return []
    weights = dict(backbone.model.named_parameters())
    if how == "fisher":
        assert gradients is not None
        scores = gradients()
    else:
        scores = {name: weight.detach().float().square() for name, weight in weights.items()}
    return _prune(ladder, backbone, scores)


@torch.no_grad()
def _prune(ladder: Ladder, backbone: Backbone, scores: dict[str, Tensor]) -> list[str]:
    layers = backbone.layers
    prefix = next(name for name, module in backbone.model.named_modules() if module is layers)
    kept = [layers[number - 1] for number in ladder.config.layers]
    names = [f"{prefix}.{number - 1}." for number in ladder.config.layers]
    old, new = heads_of(backbone.shape), narrow_heads(backbone.shape, ladder.config.reduction)
    importance = [
        _by_role(layer, {key: scores[name + key] for key in _keys(layer)}, old)
        for layer, name in zip(kept, names, strict=True)
    ]
    if "hidden" not in importance[0]:  # no map of these layers is known
        return sorted(key for layer in kept[:1] for key in _keys(layer))
    common: dict[str, Tensor] = {
        space: _top(torch.stack([found[space] for found in importance]).sum(dim=0), ladder.width)
        for space in ("hidden", "memory")
        if space in importance[0]
    }
    hidden = common["hidden"]
    unknown: list[str] = []
    copied = (
        zip(kept, importance, ladder.side_layers, strict=True) if ladder.config.block == "transformer" else ()
    )
    for layer, found, small in copied:
        units = _units(found, common, old, new, small)
        unknown = _copy(layer, small, units, old, new)
    for row in range(len(ladder.down_weight)):
        ladder.down_weight[row].zero_()
        ladder.down_weight[row][hidden, torch.arange(ladder.width)] = 1.0
    if ladder.config.attends_to_source and "memory" in common:
        ladder.memory_weight.zero_()
        ladder.memory_weight[common["memory"], torch.arange(ladder.width)] = 1.0
    return unknown


def _keys(layer: nn.Module) -> list[str]:
    return [name for name, _ in layer.named_parameters()]


def _roles(name: str) -> tuple[str, str] | None:
    """Return what a map's outputs and inputs are; None for a name that no rule knows."""
    for pattern, outputs, inputs in _ROLES:
        if not re.search(pattern, name):
            continue
        if _CROSS.search(name):
            inputs = "memory" if outputs in ("k", "v") else inputs
            return _ACROSS.get(outputs, outputs), _ACROSS.get(inputs, inputs)
        return outputs, inputs
    return None


def _by_role(layer: nn.Module, scores: dict[str, Tensor], heads: Heads) -> dict[str, Tensor]:
    """Add up importances: of hidden units, of feed-forward units, and of what attention has.

    Returns:
        `hidden` and `inner`; `qk` and `vo`, of dimensions in each group of heads `(groups, size)`; `query`, of
        heads of queries `(groups, per group)`. Of a decoder `memory`, `source qk`, `source vo` and `source query` too.
    """
    found: dict[str, Tensor] = {}

    def add(space: str, sums: Tensor) -> None:
        found[space] = found[space] + sums if space in found else sums

    for name, module in layer.named_modules():
        roles = _roles(name) if isinstance(module, nn.Linear) else None
        if roles is None:
            continue
        score = scores[f"{name}.weight"]
        for role, sums in zip(roles, (score.sum(dim=1), score.sum(dim=0)), strict=True):
            across = "source " if role.startswith("source ") else ""
            own = role.removeprefix("source ")
            space = {"q": "qk", "k": "qk", "v": "vo", "o": "vo"}.get(own)
            if space is None:
                add(role, sums)
                continue
            by_head = sums.view(heads.groups, -1, heads.size)
            add(across + space, by_head.sum(dim=1))
            if own in ("q", "o"):
                add(across + "query", by_head.sum(dim=2))
    return found


def _top(importance: Tensor, count: int) -> Tensor:
    """Return the places of the `count` largest, ascending; of equal ones the first."""
    return torch.argsort(importance, descending=True, stable=True)[:count].sort().values


def _units(
    found: dict[str, Tensor], common: dict[str, Tensor], old: Heads, new: Heads, small: nn.Module
) -> dict[str, Tensor]:
    """Choose the units of a layer: groups of heads, heads in each, dimensions in each; feed-forward units."""
    units = dict(common)
    if "inner" in found:
        maps = ((_roles(n), m) for n, m in small.named_modules() if isinstance(m, nn.Linear))
        width = next(m.out_features for roles, m in maps if roles is not None and roles[0] == "inner")
        units["inner"] = _top(found["inner"], width)
    for across in ("", "source "):
        if {across + "qk", across + "vo", across + "query"} <= set(found):
            units |= _attention_units(found, across, old, new)
    return units


def _attention_units(found: dict[str, Tensor], across: str, old: Heads, new: Heads) -> dict[str, Tensor]:
    groups = _top(found[across + "qk"].sum(dim=1) + found[across + "vo"].sum(dim=1), new.groups)
    heads = torch.stack([_top(found[across + "query"][g], new.per_group) + g * old.per_group for g in groups])
    units = {across + "heads": heads.flatten()}
    for space, many, few in (("qk", "q", "k"), ("vo", "o", "v")):
        chosen = torch.stack([_in_head(found[across + space][g], old.size, new.size, space) for g in groups])
        units[across + few] = (chosen + groups[:, None] * old.size).flatten()
        units[across + many] = (chosen[:, None] + heads[:, :, None] * old.size).flatten()
    return units


def _in_head(importance: Tensor, size: int, narrow: int, space: str) -> Tensor:
    """Choose dimensions of a head; of queries and keys in both halves alike, so that rotary pairs stay together."""
    if space == "vo" or size % 2:
        return _top(importance, narrow)
    half = size // 2
    pairs = _top(importance[:half] + importance[half:], narrow // 2)
    return torch.cat([pairs, pairs + half])


def _copy(layer: nn.Module, small: nn.Module, units: dict[str, Tensor], old: Heads, new: Heads) -> list[str]:
    """Copy the units kept; give the names that no rule knows."""
    unknown = []
    targets = dict(small.named_modules())
    for name, module in layer.named_modules():
        target: Any = targets.get(name)
        if not list(module.parameters(recurse=False)):
            continue
        weight = getattr(module, "weight", None)
        roles = _roles(name) if isinstance(module, nn.Linear) else None
        if roles is not None and all(role in units for role in roles):
            rows, columns = units[roles[0]], units[roles[1]]
            part = module.weight[rows][:, columns]
            # Scores are divided by the root of the head's size, which is smaller now.
            scale = (new.size / old.size) ** 0.25 if roles[0].removeprefix("source ") in ("q", "k") else 1.0
            target.weight.copy_(part * scale)
            if module.bias is not None:
                target.bias.copy_(module.bias[rows] * scale)
        elif isinstance(weight, Tensor) and weight.dim() == 1 and len(units["hidden"]) == len(target.weight):
            target.weight.copy_(weight[units["hidden"]])
            if getattr(module, "bias", None) is not None:
                target.bias.copy_(module.bias[units["hidden"]])
        elif isinstance(weight, Tensor) and weight.shape == target.weight.shape:
            target.weight.copy_(weight)
        elif isinstance(weight, Tensor) and "heads" in units and weight.shape[-1] == old.count:
            target.weight.copy_(weight[:, units["heads"]])  # T5's position biases, a column a head
        else:
            unknown.append(name)
    return unknown
