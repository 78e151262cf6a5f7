"""An encoder-decoder that writes, frozen: the ladder stands beside its decoder, and reads its encoder's output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import Seq2SeqModelOutput

from ordtool.errors import OrdtoolError
from ordtool.models.loading import load_model, load_tokenizer
from ordtool.models.releases import cache_argument, cache_of
from ordtool.tuning.backbone import Backbone, States
from ordtool.tuning.ladder import standardise
from ordtool.tuning.side import as_decoder, find_layers
from ordtool.tuning.watching import Kept


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
        """Give logits: `(..., hidden)` to `(..., vocabulary)`."""
        logits: Tensor = self.output(hidden * self.scale)
        return logits if self.bias is None else logits + self.bias[0]


@dataclass
class EncoderDecoderBackbone(Backbone):
    """A frozen encoder-decoder; `model` is an `EncoderDecoder`.

    Attributes:
        start: The token that the decoder begins with.
    """

    start: int = 0

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
        self, inputs: dict[str, Tensor], layers: Sequence[int], kept: Kept, options: dict[str, Any]
    ) -> States:
        """Run a batch of `decoder_input_ids` and `input_ids` of the sources, or `encoder_hidden_states`, and their masks."""
        with torch.inference_mode():
            output = self.model(**inputs, **options)
            last, memory = output.last_hidden_state, output.encoder_last_hidden_state
            if self.depth in layers:
                kept.keep(self.depth, last)
            last, memory = last.to(kept.dtype), standardise(memory).to(kept.dtype)
        mask = inputs.get("decoder_attention_mask")
        if mask is None:
            mask = torch.ones_like(inputs["decoder_input_ids"])
        # Made outside of inference mode from what was made inside, so autograd may keep them as inputs.
        return States(
            kept.take((0, *layers)), last.clone(), mask, memory.clone(), inputs.get("attention_mask")
        )


def load_encoder_decoder(
    name: str, folder: Path, device: torch.device, dtype: torch.dtype
) -> EncoderDecoderBackbone:
    """Load an encoder-decoder to put a ladder beside its decoder.

    Args:
        name: As it was named.
        folder: Where it is.
        device: Where it goes.
        dtype: Of its weights.

    Raises:
        OrdtoolError: If it can't be loaded, has no head or start token, or makes its logits in an unknown way.
    """
    full = load_model(folder, "seq2seq", dtype=dtype, device=device).model
    head = VocabularyHead(full)
    found = EncoderDecoderBackbone(
        name, folder, EncoderDecoder(full), full.config, load_tokenizer(folder), head, full,
        start=_start(full, folder),
    )  # fmt: skip
    _check_head(found)
    return found


def _start(full: Any, folder: Path) -> int:
    for settings in (full.generation_config, full.config):
        for name in ("decoder_start_token_id", "bos_token_id"):
            if isinstance(token := getattr(settings, name, None), int):
                return token
    raise OrdtoolError(
        f"{folder}: the configuration has no decoder_start_token_id, so the decoder can't begin",
        "set it in config.json to the token that the model was trained to begin with",
    )


@torch.inference_mode()
def _check_head(backbone: EncoderDecoderBackbone) -> None:
    """Compare the logits of one token with the whole model's own: there may be kinds that do more than is known here."""
    ids = torch.tensor([[backbone.start]], device=backbone.model.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "decoder_input_ids": ids}
    assert backbone.head is not None
    ours = backbone.head(backbone.model(**inputs).last_hidden_state)
    theirs = backbone.full(**inputs, use_cache=False).logits
    if ours.shape != theirs.shape or not torch.allclose(ours.float(), theirs.float(), rtol=1e-2, atol=1e-2):
        raise OrdtoolError(
            f"{backbone.folder}: a {backbone.config.model_type} model makes its logits in a way that isn't known here",
            "name a T5, BART, Marian or Pegasus",
        )
