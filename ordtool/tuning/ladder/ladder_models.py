"""A ladder on its backbone: Hugging Face models that read tokens, for labels and for text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    DynamicCache,
    EncoderDecoderCache,
    GenerationMixin,
    PreTrainedModel,
)
from transformers.modeling_outputs import (
    CausalLMOutputWithPast,
    QuestionAnsweringModelOutput,
    Seq2SeqLMOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

from ordtool.models.releases import CheckedCache, cache_argument, takes_cache
from ordtool.tuning.backbone.encoder_decoder import EncoderDecoderBackbone
from ordtool.tuning.backbone.model import Backbone
from ordtool.tuning.ladder.config import LadderConfig
from ordtool.tuning.ladder.model import Ladder, LadderOutput
from ordtool.tuning.loading import load_ladder_and_backbone
from ordtool.tuning.metrics import label_loss
from ordtool.tuning.saving import save_ladder


class _LadderModel(PreTrainedModel):
    """What all of these models share: they are loaded as a ladder and its backbone."""

    config_class = LadderConfig
    base_model_prefix = "ladder"
    _supports_sdpa = True

    def __init__(self, config: Any, ladder: Ladder, backbone: Backbone) -> None:
        super().__init__(config)
        self.ladder = ladder
        # In a list, so that the frozen weights are no part of this module's parameters and are never saved with it.
        self._backbone = [backbone]

    @property
    def backbone(self) -> Backbone:
        """The frozen model."""
        return self._backbone[0]

    def _init_weights(self, module: Any) -> None:
        """Do nothing: both parts come with their weights."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *arguments: Any, **options: Any) -> Any:
        """Load the ladder from a folder and its backbone from where it lives.

        Args:
            pretrained_model_name_or_path: The ladder's folder.
            *arguments: None are taken.
            **options: `backbone` says where the backbone is now; `output_loading_info` as in transformers; others
                belong to transformers and are left alone.
        """
        ladder, backbone = load_ladder_and_backbone(
            pretrained_model_name_or_path, backbone=options.get("backbone")
        )
        dtype = options.get("dtype")
        if isinstance(dtype, torch.dtype):
            ladder = ladder.to(dtype)
            for part in (backbone.model, backbone.head):
                if part is not None:
                    part.to(dtype)
        model = cls(cls._config(ladder, backbone), ladder, backbone).eval()
        info: dict[str, Any] = {
            "missing_keys": set(),
            "unexpected_keys": set(),
            "mismatched_keys": set(),
            "error_msgs": [],
        }
        return (model, info) if options.get("output_loading_info") else model

    @staticmethod
    def _config(ladder: Ladder, backbone: Backbone) -> Any:
        return ladder.config

    def save_pretrained(self, save_directory: Any, **options: Any) -> None:
        """Save the ladder alone.

        Args:
            save_directory: The folder.
            **options: Left alone.
        """
        save_ladder(self.ladder, self.backbone, Path(save_directory))

    def to(self, *arguments: Any, **options: Any) -> Any:
        """Move both parts."""
        super().to(*arguments, **options)
        for part in (self.backbone.model, self.backbone.head):
            if part is not None:
                part.to(*arguments, **options)
        return self

    def _run(
        self, inputs: dict[str, Tensor], backbone: dict[str, Any], side: dict[str, Any]
    ) -> tuple[LadderOutput, Any]:
        dtype = self.ladder.down_weight.dtype
        states = self.backbone.states(inputs, self.ladder.config.layers, dtype, **backbone)
        return self.ladder(states.hidden, states.last, inputs.get("attention_mask"), **side), states

    def _label(self, ids: Tensor, mask: Tensor | None, types: Tensor | None) -> LadderOutput:
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        return self._run({k: v for k, v in inputs.items() if v is not None}, {}, {})[0]

    def _logits(self, ids: Tensor, mask: Tensor | None, types: Tensor | None) -> Tensor:
        logits = self._label(ids, mask, types).logits
        assert logits is not None
        return logits


class LadderForSequenceClassification(_LadderModel):
    """Texts to classes, or to a score: the backbone, the ladder, a linear read-out."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Classify a batch.

        Args:
            input_ids: `(batch, seq)`, padded on the right.
            attention_mask: `(batch, seq)`.
            token_type_ids: `(batch, seq)`.
            labels: `(batch,)`.
            **kwargs: Ignored.
        """
        found = self._label(input_ids, attention_mask, token_type_ids)
        assert found.logits is not None
        loss = None if labels is None else label_loss(found.logits, labels, self.ladder.config.task)
        return SequenceClassifierOutput(loss=loss, logits=found.logits, hidden_states=(found.pooled,))


class LadderForTokenClassification(_LadderModel):
    """Tokens to classes: the backbone, the ladder, a linear read-out of each."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> TokenClassifierOutput:
        """Label the tokens of a batch.

        Args:
            input_ids: `(batch, seq)`, padded on the right.
            attention_mask: `(batch, seq)`.
            token_type_ids: `(batch, seq)`.
            labels: `(batch, seq)`, -100 where none counts.
            **kwargs: Ignored.
        """
        logits = self._logits(input_ids, attention_mask, token_type_ids)
        loss = None if labels is None else label_loss(logits, labels, "tokens")
        return TokenClassifierOutput(loss=loss, logits=logits)


class LadderForQuestionAnswering(_LadderModel):
    """Where the answer to a question begins and ends in a context."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> QuestionAnsweringModelOutput:
        """Score the tokens of a batch; see `LadderForTokenClassification.forward`."""
        start, end = self._logits(input_ids, attention_mask, token_type_ids).unbind(dim=-1)
        return QuestionAnsweringModelOutput(start_logits=start, end_logits=end)


class _WithSideCache:
    """A cache that takes another, of the side network, along wherever it goes; None for one that needs none."""

    side: Any

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow the beams."""
        super().reorder_cache(beam_idx)  # type: ignore[misc]
        if self.side is not None:
            self.side.reorder_cache(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row."""
        super().batch_repeat_interleave(repeats)  # type: ignore[misc]
        if self.side is not None:
            self.side.batch_repeat_interleave(repeats)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        super().batch_select_indices(indices)  # type: ignore[misc]
        if self.side is not None:
            self.side.batch_select_indices(indices)

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens."""
        super().crop(tokens_to_remove)  # type: ignore[misc]
        if self.side is not None:
            self.side.crop(tokens_to_remove)

    def reset(self) -> None:
        """Forget everything."""
        super().reset()  # type: ignore[misc]
        if self.side is not None:
            self.side.reset()


class LadderCache(_WithSideCache, DynamicCache):
    """Keys and values of the backbone, and beside them the side network's.

    Args:
        attends: Whether the side network has any.
    """

    def __init__(self, attends: bool = True) -> None:
        super().__init__()
        self.side = DynamicCache() if attends else None

    @property
    def below(self) -> DynamicCache:
        """The backbone's part alone, for models that ask what a cache holds; it shares its layers with this one."""
        found = DynamicCache()
        found.layers = self.layers
        return found


class LadderPairCache(_WithSideCache, EncoderDecoderCache):
    """Keys and values of the decoder, its own and the source's, and beside them the side network's.

    Args:
        attends: Whether the side network has any.
    """

    def __init__(self, attends: bool = True) -> None:
        super().__init__(DynamicCache(), DynamicCache())
        self.side = EncoderDecoderCache(DynamicCache(), DynamicCache()) if attends else None


def _two_part(cache: Any, kind: type, wanted: bool | None, ladder: Ladder) -> Any:
    """Return a cache of two parts: the one given, or a new one for the empty one that `generate` begins with."""
    if isinstance(cache, kind):
        return cache
    if cache is not None and cache.get_seq_length():
        raise ValueError(
            f"a {kind.__name__} is needed, as an earlier call gave, and not a {type(cache).__name__}"
        )
    return kind(ladder.config.block == "transformer") if wanted else None


class LadderForCausalLM(CheckedCache, _LadderModel, GenerationMixin):
    """A language model whose output the ladder corrects before the frozen head."""

    main_input_name = "input_ids"

    @staticmethod
    def _config(ladder: Ladder, backbone: Backbone) -> Any:
        # Generation asks the configuration for token ids, positions and depth, which are the backbone's.
        return backbone.config

    def get_output_embeddings(self) -> Any:
        """Return the frozen head."""
        return self.backbone.head

    @takes_cache
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Any = None,
        use_cache: bool | None = None,
        labels: Tensor | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Continue a batch.

        Args:
            input_ids: `(batch, new)`.
            attention_mask: `(batch, past + new)`.
            position_ids: `(batch, new)`.
            cache: A `LadderCache` that an earlier call gave.
            use_cache: Give keys and values.
            labels: `(batch, new)`; the loss is of the next tokens, in nats.
            logits_to_keep: Of the last tokens only; 0 is all.
            **kwargs: Ignored.
        """
        cache = _two_part(cache, LadderCache, use_cache, self.ladder)
        inputs = {"input_ids": input_ids} | (
            {} if attention_mask is None else {"attention_mask": attention_mask}
        )
        places = {} if position_ids is None else {"position_ids": position_ids}
        used: dict[str, Any] = {"use_cache": cache is not None}
        below = {**places, **used, **cache_argument(cache.below if cache is not None else None)}
        side = {**places, **used, **cache_argument(cache.side if cache is not None else None)}
        found, _ = self._run(inputs, below, side)
        assert found.output is not None and self.backbone.head is not None
        output = found.output[:, -logits_to_keep:] if logits_to_keep else found.output
        logits = self.backbone.head(output)
        loss = None
        if labels is not None:
            loss = torch.nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten()
            )
        return CausalLMOutputWithPast(loss=loss, logits=logits, **cache_argument(cache))


class LadderForConditionalGeneration(CheckedCache, _LadderModel, GenerationMixin):
    """An encoder-decoder whose decoder's output the ladder corrects before the frozen head."""

    main_input_name = "input_ids"

    def __init__(self, config: Any, ladder: Ladder, backbone: EncoderDecoderBackbone) -> None:
        super().__init__(config, ladder, backbone)
        self.generation_config = backbone.full.generation_config
        self._start = backbone.start

    @staticmethod
    def _config(ladder: Ladder, backbone: Backbone) -> Any:
        return backbone.config

    def get_encoder(self, modality: str | None = None) -> Any:
        """Return the frozen encoder."""
        return self.backbone.model.encoder

    def get_output_embeddings(self) -> Any:
        """Return the frozen head."""
        return self.backbone.head

    @takes_cache
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        cache: Any = None,
        use_cache: bool | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        """Write a batch of targets.

        Args:
            input_ids: The sources, `(batch, source)`.
            attention_mask: `(batch, source)`.
            decoder_input_ids: `(batch, new)`; None: the labels, moved on by the start token.
            decoder_attention_mask: `(batch, past + new)`.
            encoder_outputs: Of the encoder, instead of `input_ids`.
            cache: A `LadderPairCache` that an earlier call gave.
            use_cache: Give keys and values.
            labels: `(batch, new)`, -100 where none counts; the loss is in nats a token.
            **kwargs: Ignored.
        """
        if decoder_input_ids is None and labels is not None:
            start = labels.new_full((len(labels), 1), self._start)
            decoder_input_ids = torch.cat([start, labels[:, :-1].masked_fill(labels[:, :-1] < 0, 0)], dim=1)
        cache = _two_part(cache, LadderPairCache, use_cache, self.ladder)
        inputs: dict[str, Any] = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "decoder_input_ids": decoder_input_ids,
            "decoder_attention_mask": decoder_attention_mask,
            "encoder_hidden_states": None if encoder_outputs is None else encoder_outputs[0],
        }
        used: dict[str, Any] = {"use_cache": cache is not None}
        states = self.backbone.states(
            {name: value for name, value in inputs.items() if value is not None},
            self.ladder.config.layers,
            self.ladder.down_weight.dtype,
            cache=cache,
            **used,
        )
        # A mask that wasn't given is of the new tokens alone, and there may be earlier ones.
        given = {**states.arguments(), "attention_mask": decoder_attention_mask}
        found = self.ladder(**given, **cache_argument(None if cache is None else cache.side), **used)
        assert found.output is not None and self.backbone.head is not None
        logits = self.backbone.head(found.output)
        loss = None
        if labels is not None:
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
        return Seq2SeqLMOutput(loss=loss, logits=logits, **cache_argument(cache))


AutoModelForSequenceClassification.register(LadderConfig, LadderForSequenceClassification, exist_ok=True)
AutoModelForTokenClassification.register(LadderConfig, LadderForTokenClassification, exist_ok=True)
AutoModelForQuestionAnswering.register(LadderConfig, LadderForQuestionAnswering, exist_ok=True)
AutoModelForCausalLM.register(LadderConfig, LadderForCausalLM, exist_ok=True)
AutoModelForSeq2SeqLM.register(LadderConfig, LadderForConditionalGeneration, exist_ok=True)
