r"""BERT's forward pass over texts that stand one after the other, without padding.

All products with weights run over every token of the batch at once, `(tokens, hidden)`. On a CPU attention runs a group of
equally long texts at a time, so it needs no mask; the weights are laid out once as oneDNN wants them, and GELU is applied
inside the product. On a GPU, where many small kernels cost more than some padding, attention alone sees the texts padded to
the longest: they are sorted by length, so those of a batch are nearly alike. Post-layer-norm blocks as in Devlin et al. 2019
(BERT) and its relatives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ordtool.embedding.padded_encoder import to_device
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
_ALIGNED = 8  # the kernels of attention want masks of a multiple of this


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
        pads_attention: Attend to all texts of a batch at once, padded; None: on all devices but a CPU.
    """

    def __init__(
        self, model: Any, dtype: torch.dtype, device: torch.device, *, pads_attention: bool | None = None
    ) -> None:
        config = model.config
        self._pads_attention = device.type != "cpu" if pads_attention is None else pads_attention
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
        ids, positions, attend = self._place(batch)
        states = self._norm(self._words[ids] + self._positions[positions + self._first_position])
        kept = {0: states} if 0 in layers else {}
        for number, layer in enumerate(self._layers[: max(layers)], start=1):
            mixed = attend(layer.query_key_value(states))
            states = layer.attention_norm(layer.attention_output(mixed).add_(states))
            states = layer.output_norm(layer.output(layer.inner(states)).add_(states))
            if number in layers:
                kept[number] = states
        return [kept[number] for number in layers]

    def _place(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, Map]:
        """Return a batch's tokens and their positions, `(tokens,)`, and attention within its texts."""
        import torch

        lengths = np.array(batch.lengths)
        positions = np.arange(len(batch.ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        device = self._words.device
        if not self._pads_attention:
            ids, positions = (torch.from_numpy(numbers).to(device) for numbers in (batch.ids, positions))
            return ids, positions, lambda projected: self._attend(projected, batch.groups)
        longest = -(-int(lengths.max()) // _ALIGNED) * _ALIGNED
        slots = np.repeat(np.arange(len(lengths)) * longest, lengths) + positions
        numbers = torch.from_numpy(np.stack([batch.ids, positions, slots]))
        ids, positions, slots = to_device(numbers, device).unbind()  # one copy for all
        length_of = to_device(torch.from_numpy(lengths), device)[:, None]
        behind = torch.arange(longest, device=device) >= length_of
        bias = torch.zeros(behind.shape, dtype=self._words.dtype, device=device).masked_fill(
            behind, -torch.inf
        )
        return ids, positions, lambda projected: self._attend_padded(projected, slots, bias[:, None, None])

    def _attend_padded(
        self, projected: torch.Tensor, slots: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        """Do what `_attend` does for all texts at once.

        Args:
            projected: `(tokens, 3 hidden)`.
            slots: Where each token stands among the padded texts, `(tokens,)`.
            bias: `(texts, 1, 1, longest)`, minus infinity on padding.
        """
        import torch.nn.functional as F

        texts, longest = bias.shape[0], bias.shape[3]
        padded = projected.new_zeros(texts * longest, projected.shape[1]).index_copy_(0, slots, projected)
        shape = (texts, longest, 3, self.heads, self._head_size)
        query, key, value = padded.view(shape).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return out.transpose(1, 2).reshape(texts * longest, -1).index_select(0, slots)

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
