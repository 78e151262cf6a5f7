"""Llama's decoder (Touvron et al. 2023, section 2.2) in torch alone: a checkpoint and its forward pass.

transformers has the same model, but importing its modelling base takes a process longer than importing torch
and writing a first token together. Checkpoints with nothing unusual about them are read here instead. Operations
and their order are those of transformers' implementation on a CPU, so that logits are the same bits (but for the products
of a single row in a large model, see `products`); what isn't known here for certain is not guessed
at: `read_llama` then gives None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding, linear, scaled_dot_product_attention, silu

from ordtool.generation.llama.products import Product, choose_row_product
from ordtool.lm.rotary import apply_rotary

# What a configuration may say beside the shape: only this, or nothing.
_FIXED: Mapping[str, tuple[Any, ...]] = {
    "model_type": ("llama",),
    "architectures": (["LlamaForCausalLM"],),
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "pretraining_tp": (1, None),
    "rope_scaling": (None,),
    "rope_interleaved": (False,),
    "is_encoder_decoder": (False,),
}
_SHAPE = {
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "rms_norm_eps", "rope_theta", "rope_parameters", "tie_word_embeddings",
}  # fmt: skip
# Without a say in what is written, or read by whoever loads the model.
_ELSEWHERE = {
    "_name_or_path", "_model_name_or_path", "attention_dropout", "bos_token_id", "dtype", "eos_token_id",
    "initializer_range", "is_llama_config", "max_position_embeddings", "pad_token_id", "torch_dtype",
    "transformers_version", "unk_token_id", "use_cache",
}  # fmt: skip
_FLOATS = {"F32", "F16", "BF16", "F64"}


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """The numbers of a configuration that the forward pass needs.

    Attributes:
        vocabulary: Tokens.
        hidden: Size of the hidden states.
        inner: Size of the feed-forward layer.
        layers: How many.
        heads: Of the queries.
        groups: Heads of keys and values, each shared by heads / groups queries.
        head_dim: Size of a head.
        eps: Added to the mean square in the normalisation.
        base: Of the rotary frequencies.
        tied: The embedding table is the last layer too.
    """

    vocabulary: int
    hidden: int
    inner: int
    layers: int
    heads: int
    groups: int
    head_dim: int
    eps: float
    base: float
    tied: bool

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Return the names and shapes of a checkpoint's tensors."""
        wide, narrow = self.heads * self.head_dim, self.groups * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, self.hidden)}
        if not self.tied:
            shapes["lm_head.weight"] = (self.vocabulary, self.hidden)
        shapes["model.norm.weight"] = (self.hidden,)
        for number in range(self.layers):
            inside = {
                "input_layernorm": (self.hidden,),
                "self_attn.q_proj": (wide, self.hidden),
                "self_attn.k_proj": (narrow, self.hidden),
                "self_attn.v_proj": (narrow, self.hidden),
                "self_attn.o_proj": (self.hidden, wide),
                "post_attention_layernorm": (self.hidden,),
                "mlp.gate_proj": (self.inner, self.hidden),
                "mlp.up_proj": (self.inner, self.hidden),
                "mlp.down_proj": (self.hidden, self.inner),
            }
            shapes |= {f"model.layers.{number}.{name}.weight": shape for name, shape in inside.items()}
        return shapes


def plain_shape(config: Mapping[str, Any]) -> LlamaShape | None:
    """Return the shape that a config.json describes; None if it says anything that isn't known here."""
    if set(config) - _SHAPE - _ELSEWHERE - set(_FIXED) or not {"model_type", "architectures"} <= set(config):
        return None
    if any(config.get(name, allowed[0]) not in allowed for name, allowed in _FIXED.items()):
        return None
    rope = config.get("rope_parameters") or {"rope_theta": config.get("rope_theta", 10000.0)}
    if (
        not isinstance(rope, dict)
        or set(rope) - {"rope_theta", "rope_type"}
        or rope.get("rope_type", "default") != "default"
    ):
        return None
    try:
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        shape = LlamaShape(
            vocabulary=int(config["vocab_size"]),
            hidden=hidden,
            inner=int(config["intermediate_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            groups=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or hidden // heads),
            eps=float(config["rms_norm_eps"]),
            base=float(rope["rope_theta"]),
            tied=bool(config.get("tie_word_embeddings", False)),
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    if min(shape.heads, shape.groups, shape.head_dim) < 1:
        return None
    fits = shape.heads % shape.groups == 0 and hidden % heads == 0 and shape.head_dim % 2 == 0
    return shape if fits else None


def read_llama(
    folder: Path, config: Mapping[str, Any], device: torch.device, dtype: torch.dtype, kernel: str = "auto"
) -> Llama | None:
    """Read a checkpoint; weights of the wanted dtype stay in the file, mapped into memory.

    Args:
        folder: A model folder.
        config: Its config.json.
        device: Where the weights go.
        dtype: Of weights and arithmetic.
        kernel: Of a single row's products, as in `Llama`.

    Returns:
        The model; None if the configuration says something that isn't known here, or the weights aren't
        exactly those it describes, in one safetensors file.
    """
    shape = plain_shape(config)
    file = folder / "model.safetensors"
    if shape is None or not file.is_file():
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as weights:
            names = set(weights.keys())
            if shape.layers > len(names):  # a damaged number, by which names would be made for hours
                return None
            expected = shape.tensors()
            if names != set(expected):
                return None
            for name, size in expected.items():
                part = weights.get_slice(name)
                if tuple(part.get_shape()) != size or part.get_dtype() not in _FLOATS:
                    return None
            tensors = {name: weights.get_tensor(name).to(device, dtype) for name in expected}
    except (OSError, SafetensorError):
        return None
    return Llama(shape, tensors, kernel)


class KeyValues:
    """Keys and values of the tokens read, `(batch, groups, seq, head_dim)` in each layer."""

    def __init__(self, layers: int) -> None:
        self._layers: list[tuple[Tensor, Tensor] | None] = [None] * layers

    def get_seq_length(self) -> int:
        """Count the tokens."""
        first = self._layers[0]
        return 0 if first is None else first[0].shape[2]

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add the newest tokens' and give all."""
        past = self._layers[layer]
        if past is None:
            both = key.contiguous(), value.contiguous()
        else:
            both = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        self._layers[layer] = both
        return both

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        self._layers = [
            None if pair is None else (pair[0].repeat_interleave(repeats, 0), pair[1].repeat_interleave(repeats, 0))
            for pair in self._layers
        ]  # fmt: skip


@dataclass(frozen=True, slots=True)
class LlamaOutput:
    """Logits `(batch, kept, vocabulary)` and the cache."""

    logits: Tensor
    cache: KeyValues | None


Attention = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, queries `(batch, heads, seq, head_dim)`, keys and values `(batch, groups, seq, head_dim)`), the newest tokens'
and rotated, to what the queries read, of their shape. It keeps what later tokens will ask for."""


class Llama:
    """The decoder: rotary positions, grouped heads, gated feed-forward layers, RMS normalisation.

    Args:
        shape: Its numbers.
        tensors: The weights, by their names in a checkpoint.
        kernel: Of a single row's products, see `products`; with `torch` logits are the same bits as
            those of transformers.

    Attributes:
        shape: As given.
        device: Where the weights are.
        dtype: Of the weights.
        row_alone: A single row's products take one thread.
    """

    def __init__(self, shape: LlamaShape, tensors: Mapping[str, Tensor], kernel: str = "auto") -> None:
        self.shape = shape
        self._tensors = tensors
        self.device = tensors["model.norm.weight"].device
        self.dtype = tensors["model.norm.weight"].dtype
        self._row_product = choose_row_product(tensors.values(), kernel)
        self.row_alone = self._row_product is not linear
        steps = torch.arange(0, shape.head_dim, 2, dtype=torch.float) / shape.head_dim
        self._frequencies = (1.0 / (shape.base**steps)).to(self.device)

    @torch.inference_mode()
    def __call__(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: KeyValues | None = None,
        use_cache: bool = True,
        logits_to_keep: int = 0,
    ) -> LlamaOutput:
        """Return the logits of the next token.

        Args:
            input_ids: `(batch, seq)`.
            attention_mask: `(batch, cached + seq)`, 0 for padding; None: there is none.
            position_ids: `(batch, seq)`; None: from what is cached on.
            cache: The cache of what was read before, which grows; None: nothing was.
            use_cache: Keep a cache.
            logits_to_keep: Only the last so many; 0: all.
        """
        if cache is None and use_cache:
            cache = KeyValues(self.shape.layers)
        past = 0 if cache is None else cache.get_seq_length()
        length = input_ids.shape[1]
        if position_ids is None:
            position_ids = torch.arange(past, past + length, device=self.device)[None]
        mask = causal_mask(attention_mask, past, length, self.device)
        # A prompt's last logits are a single row too, but numba is not to be waited for before the first token.
        product = self._row_product if input_ids.numel() == 1 else linear

        def attention(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            if cache is not None:
                key, value = cache.extend(layer, key, value)
            return attend(query, key, value, mask, self.shape.head_dim**-0.5)

        states = self.states(input_ids, position_ids, attention, product)
        return LlamaOutput(self.logits(states[:, -logits_to_keep:], product), cache)  # [-0:] is all

    def states(
        self, input_ids: Tensor, position_ids: Tensor, attention: Attention, product: Product = linear
    ) -> Tensor:
        """Return the last layer's hidden states, `(batch, seq, hidden)`.

        Args:
            input_ids: `(batch, seq)`.
            position_ids: `(batch or 1, seq)`.
            attention: Keeps keys and values, and attends.
            product: Of states with a matrix.
        """
        states = embedding(input_ids, self._tensors["model.embed_tokens.weight"])
        cos_sin = self._cos_sin(position_ids, states.dtype)
        for number in range(self.shape.layers):
            states = self._layer(number, states, cos_sin, attention, product)
        return states

    def logits(self, states: Tensor, product: Product = linear) -> Tensor:
        """Return the logits `(batch, seq, vocabulary)` of hidden states."""
        table = self._tensors["model.embed_tokens.weight" if self.shape.tied else "lm_head.weight"]
        return product(self._norm("model.norm", states), table)

    def _cos_sin(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        angles = positions[..., None].float() * self._frequencies
        angles = torch.cat((angles, angles), dim=-1)[:, None]
        return angles.cos().to(dtype), angles.sin().to(dtype)

    def _norm(self, name: str, states: Tensor) -> Tensor:
        wide = states.to(torch.float32)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.shape.eps)
        return self._tensors[f"{name}.weight"] * wide.to(states.dtype)

    def _layer(
        self,
        number: int,
        states: Tensor,
        cos_sin: tuple[Tensor, Tensor],
        attention: Attention,
        product: Product,
    ) -> Tensor:
        def project(states: Tensor, name: str) -> Tensor:
            return product(states, self._tensors[f"{layer}.{name}_proj.weight"])

        layer = f"model.layers.{number}"
        read = self._norm(f"{layer}.input_layernorm", states)
        query, key, value = (
            project(read, f"self_attn.{name}").unflatten(-1, (-1, self.shape.head_dim)).transpose(1, 2)
            for name in "qkv"
        )
        query, key = apply_rotary(query, *cos_sin), apply_rotary(key, *cos_sin)
        read = attention(number, query, key, value)
        states = states + project(read.transpose(1, 2).flatten(2), "self_attn.o")
        read = self._norm(f"{layer}.post_attention_layernorm", states)
        inner = silu(project(read, "mlp.gate")) * project(read, "mlp.up")
        return states + project(inner, "mlp.down")


def causal_mask(padding: Tensor | None, past: int, length: int, device: torch.device) -> Tensor | None:
    """Return who sees whom, `(batch or 1, 1, length, past + length)`; None where causality says it all.

    Args:
        padding: `(batch, past + length)`, 0 for padding.
        past: Tokens in the cache.
        length: Tokens that are read now.
        device: Of the result.
    """
    padded = padding is not None and not bool(padding.all())
    if not padded and (length == 1 or past == 0):
        return None
    places = torch.arange(past + length, device=device)
    mask = (places <= places[past:, None])[None, None]
    if padding is not None and padded:
        mask = mask & padding.bool()[:, None, None, :]
    return mask


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Softmax attention in the three forms that transformers takes for grouped heads.

    Args:
        query: `(batch, heads, seq, head_dim)`.
        key: `(batch, groups, keys, head_dim)`.
        value: The same.
        mask: From `causal_mask`.
        scale: Multiplies the scores.

    Returns:
        `(batch, heads, seq, head_dim)`.
    """
    batch, heads, length, size = query.shape
    share = heads // key.shape[1]
    causal = length > 1 and mask is None
    if share == 1 or (mask is None and size <= 256):
        return scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scale, is_causal=causal, enable_gqa=share > 1
        )
    if length == 1:  # the queries of a group stand in one head, and no key is copied
        packed = query.reshape(batch, key.shape[1], share, size)
        found = scaled_dot_product_attention(packed, key, value, attn_mask=mask, scale=scale)
        return found.reshape(batch, heads, 1, size)
    key, value = (x.repeat_interleave(share, dim=1) for x in (key, value))
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale, is_causal=causal)
