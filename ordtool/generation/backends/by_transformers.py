"""The loop of transformers: its `generate`, with our choice of the next token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from ordtool.generation.backends.backend import BackendDefaults

if TYPE_CHECKING:
    from ordtool.generation.config import Decoding
    from ordtool.generation.nbce import ContextPool
    from ordtool.generation.processors import TokenSelector
    from ordtool.generation.stopping import StopStrings, TextStream


class ByTransformers(BackendDefaults):
    """Writing of a model of transformers, in eval mode."""

    model: Any
    searches_beams = True

    @property
    def stops(self) -> list[int]:
        """The tokens that end a text."""
        return list(self.model.generation_config.eos_token_id or [])

    def write(
        self,
        inputs: Mapping[str, torch.Tensor],
        steps: int,
        select: TokenSelector | ContextPool,
        decoding: Decoding,
        stop: StopStrings | None = None,
        stream: TextStream | None = None,
    ) -> torch.Tensor:
        """Write after a batch's prompts; see `Backend.write`."""
        from transformers import LogitsProcessorList, StoppingCriteriaList

        options: dict[str, Any] = {"max_new_tokens": steps}
        if decoding.beams > 1:
            options |= {
                "num_beams": decoding.beams,
                "num_return_sequences": decoding.n,
                "length_penalty": decoding.length_penalty,
            }
        if stream is not None:
            options["streamer"] = stream
        sequences: torch.Tensor = self.model.generate(
            **inputs,
            logits_processor=LogitsProcessorList([select]),
            stopping_criteria=StoppingCriteriaList([stop] if stop else []),
            **options,
        )
        return sequences
