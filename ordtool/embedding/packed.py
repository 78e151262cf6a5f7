r"""BERT's forward pass over texts that stand one after the other, without padding.

All products with weights run over every token of the batch at once, `(tokens, hidden)`; attention runs a group of
equally long texts at a time, so it needs no mask. On a CPU the weights are laid out once as oneDNN wants them, and
GELU is applied inside the product. Post-layer-norm blocks as in Devlin et al. 2019 (BERT) and its relatives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ordtool.models.releases import activation, has_onednn_linear, onednn_linear

if TYPE_CHECKING:
    import torch

    from ordtool.embedding.batching import Batch, EqualLengthGroup

    Map = Callable[[torch.Tensor], torch.Tensor]

FAMILIES = {"bert", "camembert", "roberta", "xlm-roberta"}
# hidden_act of a configuration: oneDNN's name and algorithm.
_FUSED = {
    "gelu": ("gelu", "none"),
    "gelu_new": ("gelu", "tanh"),
    "gelu_pytorch_tanh": ("gelu", "tanh"),
    "relu": ("relu", ""),
}
_TYPICAL_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class _Norm:
    weight: torch.Tensor
    bias: torch.Tensor
    eps: float

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        import torch.nn.functional as F

        return F.layer_norm(states, self.weight.shape, self.weight, self.bias, self.eps)


@dataclass(frozen=True, slots=True)
class _Layer:
    query_key_value: Map
    attention_output: Map
    attention_norm: _Norm
    inner: Map
    output: Map
    output_norm: _Norm


class PackedEncoder:
    """The encoder of a BERT-like model, its weights cast and laid out once.

    Args:
        model: A `BertModel` or one of `FAMILIES`, in float32, in evaluation mode.
        dtype: Of weights and hidden states.
        device: Where it runs.
    """

    def __init__(self, model: Any, dtype: torch.dtype, device: torch.device) -> None:
        config = model.config
        self.heads = int(config.num_attention_heads)
        self._head_size = int(config.hidden_size) // self.heads
        self._first_position = int(config.pad_token_id) + 1 if config.model_type != "bert" else 0
        cast = _Caster(dtype, device)
        embeddings = model.embeddings
        self._words = cast(embeddings.word_embeddings.weight)
        # The type of every token is 0, so its vector can be added to all positions once.
        self._positions = cast(
            embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0]
        )
        self._norm = cast.norm(embeddings.LayerNorm)
        self._layers = [_layer(layer, config.hidden_act, cast) for layer in model.encoder.layer]

    def hidden_states(self, batch: Batch, layers: Sequence[int]) -> list[torch.Tensor]:
        """Run a batch.

        Args:
            batch: The texts.
            layers: Which hidden states to give; 0 is the embeddings.

        Returns:
            `(tokens, hidden)` for each of `layers`.
        """
        import torch

        ids = torch.from_numpy(batch.ids).to(self._words.device)
        positions = torch.cat([torch.arange(group.length).repeat(group.count) for group in batch.groups]).to(
            ids.device
        )
        states = self._norm(self._words[ids] + self._positions[positions + self._first_position])
        kept = {0: states} if 0 in layers else {}
        for number, layer in enumerate(self._layers[: max(layers)], start=1):
            mixed = self._attend(layer.query_key_value(states), batch.groups)
            states = layer.attention_norm(layer.attention_output(mixed).add_(states))
            states = layer.output_norm(layer.output(layer.inner(states)).add_(states))
            if number in layers:
                kept[number] = states
        return [kept[number] for number in layers]

    def _attend(self, projected: torch.Tensor, groups: Sequence[EqualLengthGroup]) -> torch.Tensor:
        """Scaled dot-product attention inside each text; `(tokens, 3 hidden)` to `(tokens, hidden)`."""
        import torch.nn.functional as F

        mixed = projected.new_empty(projected.shape[0], self.heads * self._head_size)
        for group in groups:
            shape = (group.count, group.length, 3, self.heads, self._head_size)
            query, key, value = projected[group.start : group.stop].view(shape).permute(2, 0, 3, 1, 4)
            out = F.scaled_dot_product_attention(query, key, value)
            mixed[group.start : group.stop].view(shape[0], shape[1], *shape[3:]).copy_(out.transpose(1, 2))
        return mixed


class _Caster:
    """Turns a model's parameters into what the packed pass uses."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype, self._device = dtype, device

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.detach().to(self._device, self._dtype).contiguous()

    def norm(self, module: Any) -> _Norm:
        return _Norm(self(module.weight), self(module.bias), float(module.eps))

    def linear(self, modules: Sequence[Any], name: str | None = None) -> Map:
        """Lay out the product with one or several stacked weight matrices."""
        import torch

        weight = self(torch.cat([module.weight for module in modules]))
        bias = self(torch.cat([module.bias for module in modules]))
        if self._device.type == "cpu" and has_onednn_linear():
            return _onednn_linear(weight, bias, name)
        return _plain_linear(weight, bias, name)


def _layer(layer: Any, name: str, cast: _Caster) -> _Layer:
    attention = layer.attention
    return _Layer(
        cast.linear([attention.self.query, attention.self.key, attention.self.value]),
        cast.linear([attention.output.dense]),
        cast.norm(attention.output.LayerNorm),
        cast.linear([layer.intermediate.dense], name),
        cast.linear([layer.output.dense]),
        cast.norm(layer.output.LayerNorm),
    )


def _onednn_linear(weight: torch.Tensor, bias: torch.Tensor, name: str | None) -> Map:
    if name is None or name in _FUSED:
        return onednn_linear(weight, bias, _TYPICAL_TOKENS, *_FUSED.get(name or "", ()))
    apply, after = onednn_linear(weight, bias, _TYPICAL_TOKENS), activation(name)
    return lambda states: after(apply(states))


def _plain_linear(weight: torch.Tensor, bias: torch.Tensor, name: str | None) -> Map:
    import torch.nn.functional as F

    after = None if name is None else activation(name)

    def apply(states: torch.Tensor) -> torch.Tensor:
        out = F.linear(states, weight, bias)
        return out if after is None else after(out)

    return apply
