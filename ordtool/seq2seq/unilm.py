"""An encoder that writes: any BERT-like checkpoint under the sequence-to-sequence mask (UniLM).

`[CLS] source [SEP] target [SEP]` is read by one stack. The source sees the source, the target
sees the source and its own past (Dong et al. 2019, section 2.3; Su Jianlin, kexue.fm/6933), so
the hidden state of each target token, and of the `[SEP]` before the first one, predicts the next.

The source never sees a target, hence several targets of one source can stand in one row, each
seeing the source and itself: the same loss as in rows of their own, with the source read once.
"""

from __future__ import annotations

from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DynamicCache,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from ordtool.lm import masks
from ordtool.lm.positions import count_positions
from ordtool.models.limits import usable_context
from ordtool.models.releases import CACHE_NAMES, CheckedCache, attention_name, cache_argument, takes_cache

NEVER = -1e4
"""The bias of tokens that a restricted vocabulary never writes."""


class UnilmConfig(PreTrainedConfig):
    """Which encoder, and which head.

    Args:
        encoder: The encoder's own configuration, as a dictionary with its `model_type`.
        head: `checkpoint`: the masked-LM head of the encoder's family stands before the
            softmax layer; `tied`: nothing does. Either way that layer is the embedding table.
        position_offset: The number of the first position (RoBERTa's family begins at padding_idx + 1).
        **kwargs: See `PreTrainedConfig`.
    """

    model_type = "ordtool_unilm"
    keys_to_ignore_at_inference = [*CACHE_NAMES]

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        head: str = "tied",
        position_offset: int = 0,
        **kwargs: Any,
    ) -> None:
        self.encoder = encoder or {"model_type": "bert"}
        self.head = head
        self.position_offset = position_offset
        self.objective = "prefix"  # what is read is source, what is written is target
        inner = self.encoder_config()
        self.vocab_size = inner.vocab_size
        self.hidden_size = inner.hidden_size
        self.num_hidden_layers = inner.num_hidden_layers
        self.num_attention_heads = inner.num_attention_heads
        self.max_position_embeddings = usable_context(inner)
        for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"):
            kwargs.pop(name, None)
        kwargs.pop("max_position_embeddings", None)
        kwargs.pop("objective", None)
        # The table is used by the head itself; there is no second parameter to tie.
        kwargs["tie_word_embeddings"] = False
        super().__init__(**kwargs)

    def encoder_config(self) -> Any:
        """Return the encoder's configuration, set to keep a cache."""
        options = dict(self.encoder)
        config = AutoConfig.for_model(options.pop("model_type"), **options)
        config.is_decoder = True  # or it would keep no cache; who sees whom is our mask's matter
        config.add_cross_attention = False
        return config


def split_head(lm: Any) -> tuple[Any, nn.Module | None, Tensor | None]:
    """Cut a language model into encoder, what stands before the softmax layer, and that layer's bias.

    Args:
        lm: A model of `AutoModelForCausalLM` whose softmax layer is its last.

    Returns:
        The encoder; the transform, which maps `(..., hidden)` to `(..., embedding)`; the bias.
    """
    output = lm.get_output_embeddings()
    bias, size = getattr(output, "bias", None), output.weight.shape[0]
    lm.set_output_embeddings(_Nothing())
    transform = nn.Sequential(*(part for name, part in lm.named_children() if name != lm.base_model_prefix))
    for module in transform.modules():  # some heads hold the softmax layer's bias a second time
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.shape == (size,) and name == "bias":
                module.register_parameter(name, None)
    return lm.base_model, transform, bias


class _Nothing(nn.Identity):
    """Stands where a softmax layer was."""

    bias = None


class LossPlaces(TypedDict, total=False):
    """What `UnilmForSeq2Seq.forward` takes beside its parameters, for a loss; anything else is ignored.

    Attributes:
        predictors: `(n,)`: places in the flattened `(batch * seq,)` whose next token is learnt.
        num_items_in_batch: What the summed loss is divided by; None: the labels.
    """

    predictors: Tensor
    num_items_in_batch: Tensor | int | None


class UnilmForSeq2Seq(CheckedCache, PreTrainedModel, GenerationMixin):
    """An encoder with a softmax layer, reading sources and writing targets."""

    config_class = UnilmConfig
    base_model_prefix = "encoder"
    main_input_name = "input_ids"
    _supports_sdpa = True

    def __init__(self, config: UnilmConfig) -> None:
        super().__init__(config)
        lm = AutoModelForCausalLM.from_config(config.encoder_config(), trust_remote_code=False)
        self.encoder, transform, _ = split_head(lm)
        self.transform = transform if config.head == "checkpoint" else None
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        # Token ids that the loss is computed over, ascending; None: the whole vocabulary.
        self.restricted: Tensor | None = None
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Leave the parts as their own classes initialised them."""

    def get_input_embeddings(self) -> nn.Module:
        """Return the embedding table, which is the softmax layer too."""
        table: nn.Module = self.encoder.get_input_embeddings()
        return table

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding table."""
        self.encoder.set_input_embeddings(value)

    def get_output_embeddings(self) -> None:
        """There is no second table."""

    @takes_cache
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        cache: Any = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **loss_places: Unpack[LossPlaces],
    ) -> CausalLMOutputWithPast:
        """Return the logits of the next token, or the loss at chosen places.

        Args:
            input_ids: `(batch, seq)`.
            attention_mask: `(batch, cached + seq)`, 0 for padding.
            token_type_ids: `(batch, seq)`: 0 for the source, k for the k-th target of the row.
                None: what is read at once is source, what comes after it in the cache is target.
            position_ids: `(batch, seq)`, from 0; from the padding if None.
            labels: `(n,)`: the tokens after `predictors`. With both, only these logits are computed.
            cache: Of transformers, with what was read before; `past_key_values` is the same.
            use_cache: Return the cache.
            logits_to_keep: Only the last so many, or those at these indices; 0: all.
            **loss_places: See `LossPlaces`.

        Returns:
            Logits `(batch, seq, vocabulary)`, or `(n, vocabulary)` with `labels`; the loss in
            nats a token; the cache.
        """
        past = cache.get_seq_length() if cache is not None else 0
        if use_cache and cache is None:
            cache = DynamicCache()
        batch = len(input_ids)
        if position_ids is None:
            position_ids = count_positions(attention_mask, past, input_ids)
        if token_type_ids is None:
            token_type_ids = torch.full_like(input_ids, 1 if past else 0)
        mask = _attention_mask(attention_mask, token_type_ids, past)
        types = getattr(self.encoder.config, "type_vocab_size", 0)
        hidden_states = self.encoder(
            input_ids=input_ids,
            attention_mask=self._as_encoders_take(mask.expand(batch, -1, -1)[:, None]),
            token_type_ids=token_type_ids.clamp(max=max(types, 1) - 1).clamp(max=1),
            position_ids=position_ids + self.config.position_offset,
            **cache_argument(cache),
            use_cache=bool(use_cache),
        ).last_hidden_state
        loss = None
        if labels is not None:
            logits = self._logits(hidden_states.flatten(0, 1)[loss_places["predictors"]], self.restricted)
            loss = self._loss(logits, labels, loss_places.get("num_items_in_batch"))
        else:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self._logits(hidden_states[:, kept], None)
        return CausalLMOutputWithPast(loss=loss, logits=logits, **cache_argument(cache))

    def _as_encoders_take(self, mask: Tensor) -> Tensor:
        # Eager attention adds its mask, and would add booleans as 0 and 1.
        if attention_name(self.encoder.config) == "sdpa":
            return mask
        return masks.additive(mask, self.dtype)

    def _logits(self, hidden_states: Tensor, rows: Tensor | None) -> Tensor:
        if self.transform is not None:
            hidden_states = self.transform(hidden_states)
        table: Tensor = self.get_input_embeddings().weight  # type: ignore[assignment]
        bias: Tensor = self.bias
        if rows is not None:
            table, bias = table[rows], bias[rows]
        return linear(hidden_states, table, bias)

    def _loss(self, logits: Tensor, labels: Tensor, items: Tensor | int | None) -> Tensor:
        if self.restricted is not None:
            labels = torch.searchsorted(self.restricted, labels)
        total = cross_entropy(logits.float(), labels, reduction="sum")
        return total / (max(len(labels), 1) if items is None else items)

    @torch.no_grad()
    def restrict(self, tokens: Tensor | None) -> None:
        """Let the softmax range over some tokens alone, in training and, by the bias, for good.

        The model is then exactly one of a smaller vocabulary on the writing side; the
        others keep a bias of `NEVER`.

        Args:
            tokens: Token ids, ascending; None lifts it.
        """
        self.restricted = tokens
        if tokens is not None:
            never = torch.ones_like(self.bias, dtype=torch.bool)
            never[tokens] = False
            self.bias[never] = NEVER


def _attention_mask(padding: Tensor | None, segments: Tensor, past: int) -> Tensor:
    """Return who sees whom, `(batch, queries, keys)`."""
    length = segments.shape[1]
    places = torch.arange(past + length, device=segments.device)
    query, key = places[past:, None], places[None, :]
    if past:  # what is in the cache is the source and this target's past
        mask = masks.causal(query, key)[None]
    else:
        mask = masks.prefix(query, key, segments[:, :, None], segments[:, None, :])
    if padding is not None:
        # A padded query sees itself: a softmax over nothing would be no number.
        mask = (mask & padding[:, None, :].bool()) | (query == key)
    return mask


AutoConfig.register(UnilmConfig.model_type, UnilmConfig, exist_ok=True)
AutoModelForCausalLM.register(UnilmConfig, UnilmForSeq2Seq, exist_ok=True)
