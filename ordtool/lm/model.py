"""The small Transformer: pre-norm blocks, gated feed-forward, and one of four objectives by its mask.

The Auto classes load it, transformers' `generate` writes with it, its cache is transformers' own.

A permutation language model with one stream doesn't know which position it is to predict next:
the last token is the same whichever comes next. So each input is told, by a learned embedding of
its *target's* position (XLNet's second stream does the same at twice the cost).
"""

from __future__ import annotations

from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    DynamicCache,
    GenerationMixin,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast, MaskedLMOutput

from ordtool.lm import masks
from ordtool.lm.block import AttentionContext, Block, MaskFunction, TalkingHeads
from ordtool.lm.config import OrdtoolLMConfig
from ordtool.lm.position_schemes import SCHEMES
from ordtool.lm.positions import Positions, count_positions, why_fixed
from ordtool.lm.rotary import RotaryEmbedding, apply_rotary_pos_emb
from ordtool.models.releases import (
    CheckedCache,
    attention_function,
    attention_name,
    cache_argument,
    cache_of,
    causal_mask,
    takes_cache,
)

# The last of these is what a rotary model's file is asked for.
__all__ = [
    "OrdtoolLMConfig",
    "OrdtoolLMForCausalLM",
    "OrdtoolLMForMaskedLM",
    "OrdtoolLMModel",
    "apply_rotary_pos_emb",
]


class ReadingOrder(TypedDict, total=False):
    """What a permutation language model is told of the order in which a text is read.

    Attributes:
        ranks: `(batch, seq)`: the place of each position in the order. None: from left to right.
        target_positions: `(batch, seq)`: the position that each input is to predict. None: the next one.
    """

    ranks: Tensor | None
    target_positions: Tensor | None


class ModelInputs(ReadingOrder, total=False):
    """What `OrdtoolLMModel.forward` takes beside its parameters; anything else is ignored.

    Attributes:
        output_attentions: Return the weights of every layer's attention, a tuple of `(batch, heads, queries, keys)`: what a
            query takes of each key's value, with talking heads after their mixing. A table of queries times keys is made.
    """

    output_attentions: bool | None


class LMInputs(ModelInputs, total=False):
    """What `OrdtoolLMForCausalLM.forward` takes beside its parameters; anything else is ignored.

    Attributes:
        inputs_embeds: `(batch, seq, hidden)`, instead of `input_ids`.
        num_items_in_batch: What the summed loss is divided by; None: the labels.
    """

    inputs_embeds: Tensor | None
    num_items_in_batch: Tensor | int | None


class OrdtoolLMPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation."""

    config_class = OrdtoolLMConfig
    base_model_prefix = "model"
    _supports_sdpa = True
    _supports_attention_backend = True
    _no_split_modules = ["Block"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise parameters that a checkpoint doesn't hold."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, nn.RMSNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, TalkingHeads):
            for mixing in (module.before, module.after):
                if mixing is not None:
                    nn.init.eye_(mixing)
        elif isinstance(module, RotaryEmbedding | Positions):
            module.reset()


def _rotary(config: OrdtoolLMConfig) -> RotaryEmbedding:
    share = config.position_parameters["share"] if config.positions in ("p-rope", "partial") else 1.0
    return RotaryEmbedding(config.key_size, config.rope_theta, share, narrow=config.positions == "partial")


class OrdtoolLMModel(OrdtoolLMPreTrainedModel):
    """Embeddings and blocks, without a softmax layer."""

    def __init__(self, config: OrdtoolLMConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        permuted = config.objective == "permutation"
        # One more: the position after the last.
        size = (config.max_position_embeddings + 1, config.hidden_size)
        self.embed_targets = nn.Embedding(*size) if permuted else None
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = _rotary(config) if SCHEMES[config.positions].rotary else None
        self.post_init()

    @property
    def fixed_positions(self) -> str | None:
        """Why the positions can't be changed after training; None: they can."""
        return why_fixed(self.config)

    @takes_cache
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache: Any = None,
        use_cache: bool | None = None,
        **more: Unpack[ModelInputs],
    ) -> BaseModelOutputWithPast:
        """Run the blocks.

        Args:
            input_ids: `(batch, seq)`.
            attention_mask: `(batch, cached + seq)` with 0 for padding, or `(batch, 1, seq, keys)`
                booleans that say it all.
            position_ids: `(batch, seq)`; from the padding if None.
            token_type_ids: For `prefix`, `(batch, seq)`: 0 for the source, 1 for the target. None:
                what is read at once is source, what comes after it in the cache is target.
            inputs_embeds: Instead of `input_ids`, `(batch, seq, hidden)`.
            cache: Of transformers, with what was read before; `past_key_values` is the same.
            use_cache: Return the cache.
            **more: See `ModelInputs`; the order is for `permutation`.

        Returns:
            Hidden states `(batch, seq, hidden)`, the cache, and the attentions if they were asked for.
        """
        if inputs_embeds is None:
            if input_ids is None:
                raise ValueError("input_ids or inputs_embeds is needed")
            inputs_embeds = self.embed_tokens(input_ids)
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if use_cache and cache is None:
            cache = DynamicCache()
        past = cache.get_seq_length() if cache is not None else 0
        batch, length, _ = inputs_embeds.shape
        if position_ids is None:
            position_ids = count_positions(attention_mask, past, inputs_embeds)
        hidden_states = self._told_targets(inputs_embeds, position_ids, more.get("target_positions"))
        mask_function, padding = self._mask_function(
            attention_mask, token_type_ids, more.get("ranks"), past, length
        )
        context = AttentionContext(
            self.rotary_emb, hidden_states, past, position_ids.expand(batch, -1), mask_function, padding
        )
        name = attention_name(self.config)
        if name not in (None, "eager", "sdpa"):
            context.other = attention_function(name)
            context.padding = causal_mask(self.config, hidden_states, attention_mask, cache, position_ids)
        if more.get("output_attentions"):
            context.weights = []
        for layer in self.layers:
            hidden_states = layer(hidden_states, context, cache)
        return BaseModelOutputWithPast(
            last_hidden_state=self.norm(hidden_states),
            attentions=None if context.weights is None else tuple(context.weights),
            **cache_argument(cache if use_cache else None),
        )

    def _told_targets(self, states: Tensor, position_ids: Tensor, targets: Tensor | None) -> Tensor:
        """Tell each input of a permuted text which position it is to predict."""
        if self.embed_targets is None:
            return states
        told: Tensor = states + self.embed_targets(position_ids + 1 if targets is None else targets)
        return told

    def _mask_function(
        self,
        attention_mask: Tensor | None,
        segments: Tensor | None,
        ranks: Tensor | None,
        past: int,
        length: int,
    ) -> tuple[MaskFunction | None, Tensor | None]:
        """Return who sees whom, None for causal, and the padding, None for none."""
        if attention_mask is not None and attention_mask.dim() == 4:
            mask = attention_mask[:, 0]
            whole = mask if mask.dtype == torch.bool else mask >= 0
            return lambda query, key: whole[:, query - past, key], None
        padding = None if attention_mask is None or bool(attention_mask.all()) else attention_mask
        if self.config.objective == "masked":
            return lambda query, key: masks.bidirectional(query, key)[None], padding
        # What is in the cache came before in any of the orders.
        if past or self.config.objective == "causal":
            return None, padding
        if self.config.objective == "prefix":
            device = self.embed_tokens.weight.device
            own = torch.zeros(1, length, device=device) if segments is None else segments

            def prefix(query: Tensor, key: Tensor) -> Tensor:
                return masks.prefix(query, key, own[:, query], own[:, key])

            return prefix, padding
        if ranks is None:
            return None, padding
        return lambda query, key: masks.permutation(ranks[:, query], ranks[:, key]), padding


class OrdtoolLMForCausalLM(CheckedCache, OrdtoolLMPreTrainedModel, GenerationMixin):
    """The small Transformer with its softmax layer."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: OrdtoolLMConfig) -> None:
        super().__init__(config)
        self.model = OrdtoolLMModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @takes_cache
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        cache: Any = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **more: Unpack[LMInputs],
    ) -> CausalLMOutputWithPast:
        """Return the logits of the next token, and the loss.

        Args:
            input_ids: `(batch, seq)`.
            attention_mask: As `OrdtoolLMModel.forward`; so the next two, and the cache.
            position_ids: `(batch, seq)`.
            token_type_ids: `(batch, seq)`, for `prefix`.
            labels: `(batch, seq)`, -100 where there is no loss. Shifted here, as is usual: the
                label of an input is the next one; with `target_positions` they are taken
                from those positions instead.
            cache: Of transformers, with what was read before; `past_key_values` is the same.
            use_cache: Return the cache.
            logits_to_keep: Only the last so many, or those at these indices; 0: all.
            **more: See `LMInputs`.

        Returns:
            Logits `(batch, seq, vocabulary)`, the loss in nats a token, the cache, and the attentions if asked for.
        """
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            token_type_ids=token_type_ids,
            inputs_embeds=more.get("inputs_embeds"),
            cache=cache,
            use_cache=use_cache,
            ranks=more.get("ranks"),
            target_positions=more.get("target_positions"),
            output_attentions=more.get("output_attentions"),
        )
        hidden_states = output.last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden_states[:, kept])
        loss = None
        if labels is not None:
            loss = _loss(logits, labels, more.get("target_positions"), more.get("num_items_in_batch"))
        return CausalLMOutputWithPast(
            loss=loss, logits=logits, attentions=output.attentions, **cache_argument(cache_of(output))
        )


class OrdtoolLMForMaskedLM(OrdtoolLMPreTrainedModel):
    """The small Transformer as an encoder that says what stands under hidden tokens (BERT: Devlin et al. 2019)."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: OrdtoolLMConfig) -> None:
        super().__init__(config)
        if config.objective != "masked":
            raise ValueError(f"a model of the objective {config.objective} doesn't read both ways")
        self.model = OrdtoolLMModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> MaskedLMOutput:
        """Return the logits of every position's own token, and the loss.

        Args:
            input_ids: `(batch, seq)`.
            attention_mask: `(batch, seq)` with 0 for padding.
            position_ids: `(batch, seq)`.
            inputs_embeds: Instead of `input_ids`, `(batch, seq, hidden)`.
            labels: `(batch, seq)`: the token that stood there, -100 where there is no loss. Not shifted.
            num_items_in_batch: What the summed loss is divided by; None: the labels.
            **kwargs: `output_attentions`, as `OrdtoolLMModel.forward`; anything else is ignored.

        Returns:
            Logits `(batch, seq, vocabulary)`, the loss in nats a hidden token, and the attentions if asked for.
        """
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=False,
            output_attentions=kwargs.get("output_attentions"),
        )
        logits = self.lm_head(output.last_hidden_state)
        loss = None if labels is None else _cross_entropy(logits, labels, num_items_in_batch)
        return MaskedLMOutput(loss=loss, logits=logits, attentions=output.attentions)


def _loss(logits: Tensor, labels: Tensor, targets: Tensor | None, items: Tensor | int | None) -> Tensor:
    if targets is None:
        wanted = torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], -100)], dim=1)
    else:
        length = labels.shape[1]
        wanted = labels.gather(1, targets.clamp(max=length - 1)).masked_fill(targets >= length, -100)
    return _cross_entropy(logits, wanted, items)


def _cross_entropy(logits: Tensor, wanted: Tensor, items: Tensor | int | None) -> Tensor:
    total = cross_entropy(logits.float().flatten(0, 1), wanted.flatten(), ignore_index=-100, reduction="sum")
    count = (wanted != -100).sum().clamp(min=1) if items is None else items
    return total / count


AutoConfig.register(OrdtoolLMConfig.model_type, OrdtoolLMConfig, exist_ok=True)
AutoModel.register(OrdtoolLMConfig, OrdtoolLMModel, exist_ok=True)
AutoModelForCausalLM.register(OrdtoolLMConfig, OrdtoolLMForCausalLM, exist_ok=True)
AutoModelForMaskedLM.register(OrdtoolLMConfig, OrdtoolLMForMaskedLM, exist_ok=True)
