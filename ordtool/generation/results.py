"""Tokens to results: cut where a text ends, scored and spelled; or the likeliest of given answers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ordtool.generation.backends.backend import Backend
from ordtool.generation.codec import PromptCodec
from ordtool.generation.config import Choice, Continuation, Decoding, Result
from ordtool.generation.stopping import find_stop, tokens_until


def make_result(
    backend: Backend,
    codec: PromptCodec,
    prompt: Sequence[int],
    rows: Sequence[list[int]],
    decoding: Decoding,
    stops: Sequence[str],
    *,
    strip: bool = False,
) -> Result:
    """Make a result of what was written after a prompt.

    Args:
        backend: The model, which scores where that is asked for.
        codec: Its tokens.
        prompt: The prompt's tokens.
        rows: The tokens of each continuation, and whatever follows its end.
        decoding: The options.
        stops: Strings at which a text ends.
        strip: Take white space off both ends.
    """
    before, ends = codec.before(prompt), frozenset(backend.stops)
    cut: list[tuple[list[int], str, bool]] = []
    for row in rows:
        end = next((place for place, token in enumerate(row) if token in ends), None)
        ids = row if end is None else row[: end + 1]
        text = codec.decode(before, ids)
        stop = find_stop(text, stops)
        if stop is not None:
            text = text[:stop]
            ids = ids[: tokens_until(ids, stop, lambda some: codec.decode(before, some))]
        cut.append((ids, text.strip() if strip else text, end is not None or stop is not None))
    scored: Sequence[list[float] | None] = [None] * len(cut)
    if decoding.scored:
        scored = backend.logprobs(prompt, [ids for ids, _, _ in cut])
    return Result(
        tuple(
            Continuation(
                text,
                "stop" if ended else "length",
                None if values is None else _mean(values),
                codec.spelled(before, ids, values) if decoding.logprobs and values is not None else None,
            )
            for (ids, text, ended), values in zip(cut, scored, strict=True)
        )
    )


def compare_answers(
    backend: Backend,
    codec: PromptCodec,
    prompt: Sequence[int],
    answers: Sequence[list[int]],
    decoding: Decoding,
) -> Result:
    """Compare the answers of `decoding.choices` by ln p(answer | prompt), summed over an answer's tokens.

    Args:
        backend: The model.
        codec: Its tokens.
        prompt: The prompt's tokens.
        answers: Those of each choice.
        decoding: The options.
    """
    logprobs = backend.logprobs(prompt, answers)
    scores = torch.tensor([sum(row) for row in logprobs], dtype=torch.float64)
    choices = tuple(
        Choice(text, score, share)
        for text, score, share in zip(
            decoding.choices, scores.tolist(), scores.softmax(0).tolist(), strict=True
        )
    )
    best = max(range(len(choices)), key=lambda place: choices[place].score)
    values = logprobs[best]
    tokens = codec.spelled(codec.before(prompt), answers[best], values) if decoding.logprobs else None
    score = _mean(values) if decoding.scored else None
    return Result((Continuation(choices[best].text, "stop", score, tokens),), choices)


def _mean(logprobs: Sequence[float]) -> float:
    return sum(logprobs) / len(logprobs) if logprobs else 0.0
