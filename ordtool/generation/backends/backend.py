"""What the engine asks of a kind of model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch

from ordtool.generation.batch_plan import BATCH_SIZE, STEP_COST

if TYPE_CHECKING:
    from ordtool.generation.config import Decoding
    from ordtool.generation.nbce import ContextPool
    from ordtool.generation.processors import TokenSelector
    from ordtool.generation.stopping import StopStrings, TextStream


class Backend(Protocol):
    """A model that writes, in batches.

    Attributes:
        model: The model itself.
        pad: The token that fills up shorter prompts; it is masked.
        context: The positions that the model has; None for no limit.
        continues: What is written follows the prompt; otherwise it is a text of its own.
        stands_alone: A given answer is plain tokens and the one that ends it, as in a row of its own.
        rotary: Its positions are rotations, which can be made to reach further.
        searches_beams: It has beam search.
        batch_size: Sequences at once, unless another number is asked for.
        step_cost: Reading so many tokens costs about as much as a step of a batch.
        notes: What a person should know of how it writes, once it does.
    """

    model: Any
    pad: int
    context: int | None
    continues: bool
    stands_alone: bool
    rotary: bool
    searches_beams: bool
    batch_size: int
    step_cost: int
    notes: Sequence[str]

    @property
    def stops(self) -> list[int]:
        """The tokens that end a text."""
        ...

    def room(self, prompt: Sequence[int]) -> int | None:
        """Return how many tokens can be written after `prompt`; None for no limit."""
        ...

    def batch(self, prompts: Sequence[Sequence[int]]) -> tuple[dict[str, torch.Tensor], list[int], int]:
        """Put prompts in one batch: inputs `(batch, longest)`, the padding before each, the columns that are prompt."""
        ...

    def unbatched_logits(self, prompt: Sequence[int], generated: torch.Tensor) -> torch.Tensor:
        """Return the next token's logits (vocabulary,), computed without batch, padding and cache."""
        ...

    def logprobs(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[list[float]]:
        """Return ln p of every token of several continuations of one prompt, in nats."""
        ...

    def write(
        self,
        inputs: Mapping[str, torch.Tensor],
        steps: int,
        select: TokenSelector | ContextPool,
        decoding: Decoding,
        stop: StopStrings | None = None,
        stream: TextStream | None = None,
    ) -> torch.Tensor:
        """Write after a batch's prompts.

        Args:
            inputs: What `batch` gave, a row a text.
            steps: Tokens to write at most.
            select: Selects the next token.
            decoding: The options, of which those of beams are looked at.
            stop: Ends a row at a stop string.
            stream: Is told of every token.

        Returns:
            Token ids `(rows, columns + written)`; with beams `n` rows a row given.
        """
        ...


class BackendDefaults:
    """What holds of a backend unless it says something else; see `Backend`."""

    batch_size: int = BATCH_SIZE
    step_cost: int = STEP_COST
    notes: Sequence[str] = ()
