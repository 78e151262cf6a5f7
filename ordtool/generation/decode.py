"""Token by token: a batch is written by its backend, which for most is transformers' `generate`."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ordtool.errors import OrdtoolError
from ordtool.generation.backends.backend import Backend
from ordtool.generation.config import Decoding
from ordtool.generation.nbce import ContextPool
from ordtool.generation.processors import TokenSelector
from ordtool.generation.stopping import StopStrings, TextStream


def decode(
    backend: Backend,
    inputs: Mapping[str, torch.Tensor],
    steps: int,
    select: TokenSelector | ContextPool,
    decoding: Decoding,
    stop: StopStrings | None,
    stream: TextStream | None,
) -> torch.Tensor:
    """Write a batch.

    Args:
        backend: The model.
        inputs: What `backend.batch` gave, a row a prompt.
        steps: Tokens to write at most.
        select: Selects the next token.
        decoding: The options.
        stop: Ends a row at a stop string.
        stream: Is told of every token.

    Returns:
        Token ids `(prompts * n, columns + written)`, the continuations of a prompt together.

    Raises:
        OrdtoolError: If memory runs out.
    """
    copies = 1 if decoding.beams > 1 else decoding.n
    rows = {name: value.repeat_interleave(copies, dim=0) for name, value in inputs.items()}
    try:
        return backend.write(rows, steps, select, decoding, stop, stream)
    except (torch.OutOfMemoryError, MemoryError) as error:
        count = len(inputs["input_ids"]) * decoding.rows_per_prompt
        raise OrdtoolError(
            f"out of memory with {count} sequences at once", "try a smaller `batch_size`"
        ) from error
