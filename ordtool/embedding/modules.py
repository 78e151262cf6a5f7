"""sentence-transformers' modules that follow the pooling: Dense, Normalize, LayerNorm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ordtool.embedding.settings import Step, read_json
from ordtool.errors import OrdtoolError, close_match_hint

if TYPE_CHECKING:
    import torch

    Map = Callable[[torch.Tensor], torch.Tensor]

_ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "Sigmoid", "SiLU")


def after_pooling(step: Step, device: torch.device) -> Map:
    """Make the function of a sentence-transformers module that follows the pooling."""
    import torch

    from ordtool.models.loading import read_tensors

    if step.kind == "normalize":
        return lambda rows: torch.nn.functional.normalize(rows, dim=-1)
    tensors = read_tensors(step.folder / "model.safetensors")
    weights = {name: tensor.to(device, torch.float32) for name, tensor in tensors.items()}
    if step.kind == "layer-norm":
        weight, bias = weights["norm.weight"], weights["norm.bias"]
        return lambda rows: torch.nn.functional.layer_norm(rows, weight.shape, weight, bias)
    return _dense(step.folder, weights)


def _dense(folder: Path, weights: dict[str, torch.Tensor]) -> Map:
    import torch

    config = read_json(folder / "config.json")
    name = str(config.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
    if name not in _ACTIVATIONS:
        raise OrdtoolError(f"{folder}: unknown activation {name!r}", close_match_hint(name, _ACTIVATIONS))
    activation = getattr(torch.nn, name)()
    weight, bias = weights["linear.weight"], weights.get("linear.bias")
    residual = weights.get("residual.weight")

    def apply(rows: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = activation(torch.nn.functional.linear(rows, weight, bias))
        if config.get("use_residual"):
            out = out + (rows if residual is None else torch.nn.functional.linear(rows, residual))
        return out

    return apply
