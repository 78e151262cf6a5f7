"""Models whose prompt and continuation stand in one row, padded on the left in a batch."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.functional import log_softmax

from ordtool.generation.backends.backend import BackendDefaults
from ordtool.generation.backends.by_transformers import ByTransformers
from ordtool.models.releases import cache_argument, cache_of


class LeftPadded(BackendDefaults):
    """Reading and scoring as all models do whose prompt and continuation stand in one row.

    Args:
        model: Takes `input_ids`, `attention_mask`, `use_cache` and a cache, and gives logits.
        pad: The token that fills the left of shorter prompts; any, as it is masked.
        context: The positions that the model has; None for no limit.
        last_logits: What tells the model that only the last token's logits are wanted.
    """

    continues = True
    stands_alone = False

    def __init__(
        self, model: Any, pad: int, context: int | None, last_logits: Mapping[str, int] | None = None
    ) -> None:
        self.model = model
        self.pad = pad
        self.context = context
        self._last_logits = dict(last_logits or {})

    def room(self, prompt: Sequence[int]) -> int | None:
        """Return how many tokens the context has left after `prompt`; None for no limit."""
        return None if self.context is None else self.context - len(prompt)

    def batch(self, prompts: Sequence[Sequence[int]]) -> tuple[dict[str, torch.Tensor], list[int], int]:
        """Pad prompts on the left.

        Returns:
            The inputs of `generate` (each `(batch, longest)`), the number of padding
            tokens of each prompt, and the number of columns that are prompt.
        """
        longest = max(map(len, prompts))
        pads = [longest - len(prompt) for prompt in prompts]
        ids = [[self.pad] * pad + list(prompt) for pad, prompt in zip(pads, prompts, strict=True)]
        mask = [[0] * pad + [1] * len(prompt) for pad, prompt in zip(pads, prompts, strict=True)]
        device = self.model.device
        inputs = {
            "input_ids": torch.tensor(ids, device=device),
            "attention_mask": torch.tensor(mask, device=device),
        }
        return inputs, pads, longest

    def unbatched_logits(self, prompt: Sequence[int], generated: torch.Tensor) -> torch.Tensor:
        """Return the next token's logits (vocabulary,), computed without batch, padding and cache."""
        ids = torch.cat([torch.tensor(prompt, device=generated.device), generated])[None]
        told = {**self._last_logits, **self._segments(ids, len(prompt))}
        logits: torch.Tensor = self.model(
            input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **told
        ).logits
        return logits[0, -1]

    def _segments(self, ids: torch.Tensor, prompt: int) -> dict[str, Any]:
        """Return what a model must be told, without a cache, of where its prompt ends."""
        return {}

    def logprobs(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[list[float]]:
        """Return ln p of every token of several continuations of one prompt.

        The prompt is read once; its cache is shared by the continuations. The numbers
        depend on nothing but the arguments, so they are the same whatever was batched.

        Args:
            prompt: Token ids.
            continuations: Token ids, each list of any length.

        Returns:
            Log-probabilities in nats, shaped as `continuations`.
        """
        device = self.model.device
        width = max(map(len, continuations), default=0)
        if not width:
            return [[] for _ in continuations]
        ids = torch.tensor([list(c) + [self.pad] * (width - len(c)) for c in continuations], device=device)
        read = self.model(
            input_ids=torch.tensor([list(prompt)], device=device), use_cache=True, **self._last_logits
        )
        logits = read.logits[:, -1:].expand(len(ids), -1, -1)
        if width > 1:
            cache = self._cache_of(read)
            cache.batch_repeat_interleave(len(ids))
            # What follows a continuation is padding: causal, it changes nothing before it.
            logits = torch.cat([logits, self._go_on(ids[:, :-1], cache)], dim=1)
        found = log_softmax(logits.float(), dim=-1).gather(2, ids[:, :, None])[:, :, 0].tolist()
        return [row[: len(c)] for row, c in zip(found, continuations, strict=True)]

    def _cache_of(self, output: Any) -> Any:
        return cache_of(output)

    def _go_on(self, ids: torch.Tensor, cache: Any) -> torch.Tensor:
        """Return the logits of `(batch, seq)` ids after what is in a cache."""
        logits: torch.Tensor = self.model(input_ids=ids, use_cache=True, **cache_argument(cache)).logits
        return logits


class CausalBackend(ByTransformers, LeftPadded):
    """A causal LM of transformers.

    Args:
        model: In eval mode.
        pad: As in `LeftPadded`.
        context: The positions that the model has; None for no limit.

    Attributes:
        rotary: Whether its positions are rotations, which can be made to reach further.
    """

    def __init__(self, model: Any, pad: int, context: int | None) -> None:
        keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
        super().__init__(model, pad, context, {"logits_to_keep": 1} if keeps else {})
        # A prefix LM reads the prompt in both directions; without a cache it must be told which part that is.
        self._prefix = getattr(model.config, "objective", None) == "prefix"
        self.rotary = any(name.endswith("rotary_emb") for name, _ in model.named_modules())

    def _segments(self, ids: torch.Tensor, prompt: int) -> dict[str, Any]:
        if not self._prefix:
            return {}
        return {"token_type_ids": (torch.arange(ids.shape[1], device=ids.device) >= prompt).long()[None]}


class UnilmBackend(CausalBackend):
    """An encoder trained under the sequence-to-sequence mask (`ordtool train seq2seq`).

    Source and target stand in one row, as a prompt and its continuation do, padded on the left;
    but the target is a text of its own, so its first word has no space before it.
    """

    continues = False
    stands_alone = True
