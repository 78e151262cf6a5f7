"""Token by token: the model's own loop where it has one, else transformers' `generate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ordtool.errors import OrdtoolError
from ordtool.generation.config import Decoding
from ordtool.generation.llama.fast_start import LightBackend
from ordtool.generation.loading import Backend
from ordtool.generation.processors import ChooseToken
from ordtool.generation.stopping import StopStrings, TextStream


def write_tokens(
    backend: Backend,
    inputs: Mapping[str, torch.Tensor],
    decoding: Decoding,
    steps: int,
    choose: ChooseToken,
    criterion: StopStrings | None,
    stream: TextStream | None,
) -> torch.Tensor:
    """Write a batch.

    Args:
        backend: The model.
        inputs: What `backend.batch` gave, a row a prompt.
        decoding: The options.
        steps: Tokens to write at most.
        choose: Chooses the next token.
        criterion: Ends a row at a stop string.
        stream: Is told of every token.

    Returns:
        Token ids `(prompts * n, columns + written)`, the continuations of a prompt together.

    Raises:
        OrdtoolError: If memory runs out.
    """
    copies = 1 if decoding.beams > 1 else decoding.n
    rows = {name: value.repeat_interleave(copies, dim=0) for name, value in inputs.items()}
    try:
        if isinstance(backend, LightBackend):
            return backend.write(rows, steps, choose, criterion, stream)
        return _by_transformers(backend.model, rows, decoding, steps, choose, criterion, stream)
    except (torch.OutOfMemoryError, MemoryError) as error:
        count = len(inputs["input_ids"]) * decoding.rows_per_prompt
        raise OrdtoolError(
            f"out of memory with {count} sequences at once", "try a smaller --batch-size"
        ) from error


def _by_transformers(
    model: Any,
    inputs: Mapping[str, torch.Tensor],
    decoding: Decoding,
    steps: int,
    choose: ChooseToken,
    criterion: StopStrings | None,
    stream: TextStream | None,
) -> torch.Tensor:
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
    sequences: torch.Tensor = model.generate(
        **inputs,
        logits_processor=LogitsProcessorList([choose]),
        stopping_criteria=StoppingCriteriaList([criterion] if criterion else []),
        **options,
    )
    return sequences
