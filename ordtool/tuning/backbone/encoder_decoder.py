"""An encoder-decoder that writes, frozen: the ladder stands beside its decoder, and reads its encoder's output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import Seq2SeqModelOutput

from ordtool.models.layers import find_layers
from ordtool.models.releases import cache_argument, cache_of
from ordtool.tuning.backbone.layers import as_decoder, standardise
from ordtool.tuning.backbone.model import Backbone, BackboneStates
from ordtool.tuning.backbone.recorder import HiddenStateRecorder


class EncoderDecoder(nn.Module):
    """Both halves under the names that transformers gives to inputs, without the head.

    Args:
        full: A `...ForConditionalGeneration` whose parts are used, not copied.
    """

    def __init__(self, full: Any) -> None:
        super().__init__()
        self.config = full.config
        self.encoder = full.get_encoder()
        self.decoder = full.get_decoder()

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        return next(self.parameters()).dtype

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        cache: Any = None,
        use_cache: bool = False,
    ) -> Seq2SeqModelOutput:
        """Read a source, and what is written of its target.

        Args:
            input_ids: The source, `(batch, source)`.
            attention_mask: `(batch, source)`, 1 for tokens.
            decoder_input_ids: `(batch, seq)`, the start token first.
            decoder_attention_mask: `(batch, seq)`.
            encoder_hidden_states: The encoder's output `(batch, source, hidden)`, if it is known already.
            cache: Keys and values of earlier calls.
            use_cache: Give them.
        """
        if encoder_hidden_states is None:
            encoder_hidden_states = self.encoder(
                input_ids=input_ids, attention_mask=attention_mask
            ).last_hidden_state
        found = self.decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=attention_mask,
            **cache_argument(cache),
            use_cache=use_cache,
        )
        return Seq2SeqModelOutput(
            last_hidden_state=found.last_hidden_state,
            encoder_last_hidden_state=encoder_hidden_states,
            **cache_argument(cache_of(found)),
        )


class VocabularyHead(nn.Module):
    """From the decoder's output to logits: T5's kind scales it first, BART's adds a bias that isn't trained.

    Args:
        full: The model whose head it is.
    """

    bias: Tensor | None

    def __init__(self, full: Any) -> None:
        super().__init__()
        self.output = full.get_output_embeddings()
        scaled = getattr(full.config, "scale_decoder_outputs", False)
        self.scale = full.config.hidden_size**-0.5 if scaled else 1.0
        self.register_buffer("bias", getattr(full, "final_logits_bias", None))

    def forward(self, hidden: Tensor) -> Tensor:
        """Return logits: `(..., hidden)` to `(..., vocabulary)`."""
        logits: Tensor = self.output(hidden * self.scale)
        return logits if self.bias is None else logits + self.bias[0]


@dataclass
class EncoderDecoderBackbone(Backbone):
    """A frozen encoder-decoder; `model` is an `EncoderDecoder`."""

    @property
    def shape(self) -> Any:
        """The configuration as it holds for the decoder."""
        return as_decoder(self.config)

    @property
    def decodes(self) -> bool:
        """It does."""
        return True

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder's layers."""
        return find_layers(self.model.decoder, self.depth)

    def _pass(
        self,
        inputs: dict[str, Tensor],
        layers: Sequence[int],
        recorder: HiddenStateRecorder,
        options: dict[str, Any],
    ) -> BackboneStates:
        """Run a batch of `decoder_input_ids` and `input_ids` of the sources, or `encoder_hidden_states`, and their masks."""
        with torch.inference_mode():
            output = self.model(**inputs, **options)
            last, memory = output.last_hidden_state, output.encoder_last_hidden_state
            if self.depth in layers:
                recorder.record(self.depth, last)
            last, memory = last.to(recorder.dtype), standardise(memory).to(recorder.dtype)
        mask = inputs.get("decoder_attention_mask")
        if mask is None:
            mask = torch.ones_like(inputs["decoder_input_ids"])
        # Made outside of inference mode from what was made inside, so autograd may keep them as inputs.
        return BackboneStates(
            recorder.take((0, *layers)), last.clone(), mask, memory.clone(), inputs.get("attention_mask")
        )
