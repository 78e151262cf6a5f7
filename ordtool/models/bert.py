"""BERT's encoder (Devlin et al. 2019) in torch alone: a checkpoint and its forward pass.

transformers has the same model, but importing its modelling base takes a process longer than importing torch and
embedding a text together. Checkpoints with nothing unusual about them are read here instead. Operations and their
order are those of transformers' implementation, and so are the names of modules and weights; what isn't known here for
certain is left to transformers: `read_bert` then gives None.
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

# What a configuration may say beside the shape: only this, or nothing.
_FIXED: Mapping[str, tuple[Any, ...]] = {
    "model_type": ("bert",),
    "architectures": (["BertModel"],),
    "hidden_act": ("gelu",),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "chunk_size_feed_forward": (0,),
}
# Without a say in what is computed.
_ELSEWHERE = {
    "_name_or_path", "attention_probs_dropout_prob", "bos_token_id", "classifier_dropout", "dtype", "eos_token_id",
    "gradient_checkpointing", "hidden_dropout_prob", "id2label", "initializer_range", "label2id", "output_attentions",
    "output_hidden_states", "pad_token_id", "problem_type", "return_dict", "tie_word_embeddings", "torch_dtype",
    "transformers_version", "use_cache",
}  # fmt: skip
_FLOATS = {"F32", "F16", "BF16", "F64"}


@dataclass(frozen=True, slots=True)
class BertShape:
    """The numbers of a configuration, by transformers' names.

    Attributes:
        vocab_size: Tokens.
        hidden_size: Of a token's state.
        num_hidden_layers: Layers.
        num_attention_heads: Heads a layer.
        intermediate_size: Of the feed-forward layer.
        max_position_embeddings: Positions.
        type_vocab_size: Kinds of texts.
        layer_norm_eps: Added to the variance.
        pad_token_id: Of padding.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0

    model_type = "bert"
    hidden_act = "gelu"
    architectures = ("BertModel",)
    is_encoder_decoder = False
    is_decoder = False

    def get_text_config(self) -> BertShape:
        """Return itself, as transformers' configurations of texts do."""
        return self

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Return the names and shapes of a checkpoint's tensors, without those of a pooler."""
        hidden, inner = self.hidden_size, self.intermediate_size
        shapes: dict[str, tuple[int, ...]] = {
            "embeddings.word_embeddings.weight": (self.vocab_size, hidden),
            "embeddings.position_embeddings.weight": (self.max_position_embeddings, hidden),
            "embeddings.token_type_embeddings.weight": (self.type_vocab_size, hidden),
            **_norm("embeddings.LayerNorm", hidden),
        }
        for number in range(self.num_hidden_layers):
            shapes |= self.layer_tensors(f"encoder.layer.{number}", hidden, inner)
        return shapes

    @staticmethod
    def layer_tensors(prefix: str, hidden: int, inner: int) -> dict[str, tuple[int, ...]]:
        """Return the names and shapes of a layer's tensors."""
        shapes: dict[str, tuple[int, ...]] = {}
        maps = {f"attention.self.{name}": (hidden, hidden) for name in ("query", "key", "value")}
        maps |= {"attention.output.dense": (hidden, hidden)}
        maps |= {"intermediate.dense": (inner, hidden), "output.dense": (hidden, inner)}
        for name, shape in maps.items():
            shapes |= {f"{prefix}.{name}.weight": shape, f"{prefix}.{name}.bias": shape[:1]}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= _norm(f"{prefix}.{name}", hidden)
        return shapes


def _norm(name: str, size: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


_SHAPE = {field.name for field in fields(BertShape)}
_POOLER = {"pooler.dense.weight", "pooler.dense.bias"}


def plain_shape(config: Mapping[str, Any]) -> BertShape | None:
    """Return the shape that a config.json describes; None if it says anything that isn't known here."""
    if set(config) - _SHAPE - _ELSEWHERE - set(_FIXED) or not {"model_type", "architectures"} <= set(config):
        return None
    if any(config.get(name, allowed[0]) not in allowed for name, allowed in _FIXED.items()):
        return None
    try:
        numbers = {name: config[name] for name in _SHAPE if name in config}
        shape = BertShape(**numbers)
    except TypeError:
        return None
    sizes = [getattr(shape, name) for name in _SHAPE - {"layer_norm_eps", "pad_token_id"}]
    if not all(type(size) is int and size > 0 for size in sizes) or type(shape.pad_token_id) is not int:
        return None
    plain = type(shape.layer_norm_eps) is float and shape.hidden_size % shape.num_attention_heads == 0
    return shape if plain else None


def read_bert(folder: Path) -> Bert | None:
    """Read a checkpoint in float32, in evaluation mode; weights of that dtype stay in the file, mapped into memory.

    Args:
        folder: A model folder.

    Returns:
        The model; None if the configuration says something that isn't known here, or the weights aren't exactly those
        that it describes, in one safetensors file. transformers then loads the folder, or says what is wrong with it.
    """
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    shape = plain_shape(config) if isinstance(config, dict) else None
    if shape is None:
        return None
    tensors = read_exactly(folder / "model.safetensors", shape.tensors, shape.num_hidden_layers, _POOLER)
    if tensors is None:
        return None
    pooled = {tuple(tensors[name].shape) for name in _POOLER & set(tensors)}
    if pooled not in (set(), {(shape.hidden_size, shape.hidden_size), (shape.hidden_size,)}):
        return None
    return Bert(shape, tensors).eval()


def read_exactly(
    file: Path,
    expected: Any,
    layers: int,
    may_have: set[str] = frozenset(),  # type: ignore[assignment]
) -> dict[str, Tensor] | None:
    """Read a safetensors file as float32, if it holds what is expected and nothing else.

    Args:
        file: The file.
        expected: Gives the names and shapes; called once the number of layers was found to be possible.
        layers: How many there should be.
        may_have: Names that may be there too.

    Returns:
        The tensors; None if anything is different, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        return None
    try:
        with safe_open(file, "pt") as weights:
            names = set(weights.keys()) - {"embeddings.position_ids"}
            if layers > len(names):  # a damaged number, by which names would be made for hours
                return None
            shapes = expected()
            if names - may_have != set(shapes) - may_have:
                return None
            for name in names:
                part = weights.get_slice(name)
                if part.get_dtype() not in _FLOATS or tuple(part.get_shape()) != shapes.get(
                    name, tuple(part.get_shape())
                ):
                    return None
            return {name: weights.get_tensor(name).to(torch.float32) for name in names}
    except (OSError, SafetensorError):
        return None


class BertOutput(NamedTuple):
    """States of tokens.

    Attributes:
        last_hidden_state: `(batch, seq, hidden)`.
        hidden_states: Those of the embeddings and of every layer, if they were asked for.
    """

    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...] | None


class Bert(nn.Module):
    """The encoder.

    Args:
        shape: Its numbers.
        tensors: The weights, by their names in a checkpoint; with those of a pooler, or without.
    """

    def __init__(self, shape: BertShape, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.config = shape
        self.embeddings = _Embeddings(tensors, "embeddings", shape.layer_norm_eps)
        self.encoder: Any = nn.Module()
        self.encoder.layer = nn.ModuleList(
            BertLayer(tensors, f"encoder.layer.{number}", shape.num_attention_heads, shape.layer_norm_eps)
            for number in range(shape.num_hidden_layers)
        )
        self.pooler = _Pooler(tensors, "pooler") if "pooler.dense.weight" in tensors else None

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.embeddings.word_embeddings.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        return self.embeddings.word_embeddings.weight.dtype

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the table of tokens."""
        return self.embeddings.word_embeddings

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> BertOutput:
        """Read a batch.

        Args:
            input_ids: `(batch, seq)`.
            attention_mask: `(batch, seq)`, 0 for padding; None: there is none.
            token_type_ids: `(batch, seq)`, 1 for a second text; None: 0.
            output_hidden_states: Give every layer's states.
        """
        mask = None
        if attention_mask is not None and not bool(attention_mask.all()):
            mask = attention_mask.bool()[:, None, None].expand(-1, 1, input_ids.shape[1], -1)
        states = self.embeddings(input_ids, token_type_ids)
        kept = [states]
        for layer in self.encoder.layer:
            states = layer(states, mask)
            kept.append(states)
        return BertOutput(states, tuple(kept) if output_hidden_states else None)


# Modules of torch draw first values, for which a process imports much that reading a checkpoint doesn't need.


class _Linear(nn.Module):
    def __init__(self, tensors: Mapping[str, Tensor], name: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(tensors[f"{name}.weight"], requires_grad=False)
        self.bias = nn.Parameter(tensors[f"{name}.bias"], requires_grad=False)

    def forward(self, states: Tensor) -> Tensor:
        return F.linear(states, self.weight, self.bias)


class _Norm(_Linear):
    def __init__(self, tensors: Mapping[str, Tensor], name: str, eps: float) -> None:
        super().__init__(tensors, name)
        self.eps = eps

    def forward(self, states: Tensor) -> Tensor:
        return F.layer_norm(states, self.weight.shape, self.weight, self.bias, self.eps)


class _Embeddings(nn.Module):
    def __init__(self, tensors: Mapping[str, Tensor], name: str, eps: float) -> None:
        super().__init__()
        table = nn.Embedding.from_pretrained
        self.word_embeddings = table(tensors[f"{name}.word_embeddings.weight"])
        self.position_embeddings = table(tensors[f"{name}.position_embeddings.weight"])
        self.token_type_embeddings = table(tensors[f"{name}.token_type_embeddings.weight"])
        self.LayerNorm = _Norm(tensors, f"{name}.LayerNorm", eps)

    def forward(self, ids: Tensor, types: Tensor | None) -> Tensor:
        types = torch.zeros_like(ids) if types is None else types
        places = torch.arange(ids.shape[1], device=ids.device)[None]
        states = self.word_embeddings(ids) + self.token_type_embeddings(types)
        normed: Tensor = self.LayerNorm(states + self.position_embeddings(places))
        return normed


class BertLayer(nn.Module):
    """Attention and a feed-forward layer, each with its residual and norm after it.

    Args:
        tensors: The weights.
        name: What theirs begin with.
        heads: Of the attention.
        eps: Of the norms.
    """

    def __init__(self, tensors: Mapping[str, Tensor], name: str, heads: int, eps: float) -> None:
        super().__init__()
        self.attention: Any = nn.Module()
        self.attention.self = _SelfAttention(tensors, f"{name}.attention.self", heads)
        self.attention.output = _Residual(tensors, f"{name}.attention.output", eps)
        self.intermediate = _Intermediate(tensors, f"{name}.intermediate")
        self.output = _Residual(tensors, f"{name}.output", eps)

    def forward(self, hidden_states: Tensor, mask: Tensor | None = None) -> Tensor:
        """Run over `(batch, seq, hidden)`; the mask is `(batch, 1, seq, seq)`, True where a token is seen."""
        seen = self.attention.output(self.attention.self(hidden_states, mask), hidden_states)
        out: Tensor = self.output(self.intermediate(seen), seen)
        return out


class _SelfAttention(nn.Module):
    def __init__(self, tensors: Mapping[str, Tensor], name: str, heads: int) -> None:
        super().__init__()
        self.num_attention_heads = heads
        self.query = _Linear(tensors, f"{name}.query")
        self.key = _Linear(tensors, f"{name}.key")
        self.value = _Linear(tensors, f"{name}.value")
        self.dropout = nn.Dropout(0.0)

    def forward(self, states: Tensor, mask: Tensor | None) -> Tensor:
        query, key, value = (
            project(states).unflatten(-1, (self.num_attention_heads, -1)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, mask, scale=query.shape[-1] ** -0.5)
        return mixed.transpose(1, 2).flatten(2)


class _Intermediate(nn.Module):
    def __init__(self, tensors: Mapping[str, Tensor], name: str) -> None:
        super().__init__()
        self.dense = _Linear(tensors, f"{name}.dense")

    def forward(self, states: Tensor) -> Tensor:
        return F.gelu(self.dense(states))


class _Residual(nn.Module):
    def __init__(self, tensors: Mapping[str, Tensor], name: str, eps: float) -> None:
        super().__init__()
        self.dense = _Linear(tensors, f"{name}.dense")
        self.LayerNorm = _Norm(tensors, f"{name}.LayerNorm", eps)

    def forward(self, states: Tensor, residual: Tensor) -> Tensor:
        normed: Tensor = self.LayerNorm(self.dense(states) + residual)
        return normed


class _Pooler(nn.Module):
    def __init__(self, tensors: Mapping[str, Tensor], name: str) -> None:
        super().__init__()
        self.dense = _Linear(tensors, f"{name}.dense")

    def forward(self, hidden_states: Tensor) -> Tensor:
        return torch.tanh(self.dense(hidden_states[:, 0]))
