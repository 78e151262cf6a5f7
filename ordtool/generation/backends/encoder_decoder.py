"""Encoder-decoders: the encoder reads the prompt, the decoder writes from nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import log_softmax

from ordtool.generation.backends.by_transformers import ByTransformers


class EncoderDecoderBackend(ByTransformers):
    """What is particular to an encoder-decoder in batched generation.

    Args:
        model: An encoder-decoder of transformers, in eval mode.
        pad: The encoder's padding token; masked.
        context: The positions of encoder and decoder; None for no limit.
        start: The token that the decoder begins with.
    """

    continues = False
    stands_alone = False
    rotary = False

    def __init__(self, model: Any, pad: int, context: int | None, start: int) -> None:
        self.model = model
        self.pad = pad
        self.context = context
        self.start = start

    def room(self, prompt: Sequence[int]) -> int | None:
        """Return how many tokens the decoder can write; 0 if the encoder can't hold the prompt."""
        if self.context is None:
            return None
        return self.context - 1 if len(prompt) <= self.context else 0

    def batch(self, prompts: Sequence[Sequence[int]]) -> tuple[dict[str, torch.Tensor], list[int], int]:
        """Pad prompts on the right, as encoders with learned positions were trained.

        Returns:
            The inputs of `generate`, the padding in a *decoder's* row (none), and the
            number of columns before what is generated (the start token).
        """
        longest = max(map(len, prompts))
        ids = [list(prompt) + [self.pad] * (longest - len(prompt)) for prompt in prompts]
        mask = [[1] * len(prompt) + [0] * (longest - len(prompt)) for prompt in prompts]
        device = self.model.device
        inputs = {
            "input_ids": torch.tensor(ids, device=device),
            "attention_mask": torch.tensor(mask, device=device),
        }
        return inputs, [0] * len(prompts), 1

    def unbatched_logits(self, prompt: Sequence[int], generated: torch.Tensor) -> torch.Tensor:
        """Return the next token's logits (vocabulary,), computed without batch, padding and cache."""
        source = torch.tensor([list(prompt)], device=generated.device)
        start = torch.tensor([self.start], device=generated.device)
        decoder = torch.cat([start, generated])[None]
        logits: torch.Tensor = self.model(
            input_ids=source,
            attention_mask=torch.ones_like(source),
            decoder_input_ids=decoder,
            use_cache=False,
        ).logits
        return logits[0, -1]

    def logprobs(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[list[float]]:
        """Return ln p of every token of several outputs for one prompt.

        Args:
            prompt: Token ids of the source.
            continuations: Token ids, without the decoder's start token.

        Returns:
            Log-probabilities in nats, shaped as `continuations`.
        """
        from transformers.modeling_outputs import BaseModelOutput

        device = self.model.device
        width = max(map(len, continuations), default=0)
        if not width:
            return [[] for _ in continuations]
        source = torch.tensor([list(prompt)], device=device)
        encoded = self.model.get_encoder()(input_ids=source, attention_mask=torch.ones_like(source))
        hidden = encoded.last_hidden_state.expand(len(continuations), -1, -1)
        ids = torch.tensor([list(c) + [self.pad] * (width - len(c)) for c in continuations], device=device)
        start = torch.full((len(ids), 1), self.start, device=device)
        logits = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden),
            attention_mask=torch.ones(len(ids), len(prompt), dtype=torch.long, device=device),
            decoder_input_ids=torch.cat([start, ids[:, :-1]], dim=1),
            use_cache=False,
        ).logits
        found = log_softmax(logits.float(), dim=-1).gather(2, ids[:, :, None])[:, :, 0].tolist()
        return [row[: len(c)] for row, c in zip(found, continuations, strict=True)]
