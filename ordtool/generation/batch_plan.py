"""Which prompts are written together: those of similar length, that read alike and may write equally many tokens."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import Protocol

BATCH_SIZE = 32
"""Sequences at once on a CPU."""
STEP_COST = 30
"""A step of any batch costs about as much as reading so many tokens (smollm2, two cores, float32)."""


class ContextExtension(Protocol):
    """A way for a model to read more than its context, by levels of length.

    A prompt's level follows from its own length alone, and prompts of one level are written
    together, so that a text doesn't depend on its neighbours.
    """

    @property
    def longest(self) -> int | None:
        """Tokens of a text at most, prompt and new ones together; None: no limit."""
        ...

    def level(self, length: int) -> int:
        """Return the level of a text of `length` tokens, prompt and new ones together; 1: the model's own."""
        ...

    def applied(self, level: int) -> AbstractContextManager[object]:
        """Return a context in which the model reads texts of a level."""
        ...


def level_of(extension: ContextExtension | None, length: int) -> int:
    """Return the level of a text; 1 where there is no extension."""
    return 1 if extension is None else extension.level(length)


def extended(extension: ContextExtension | None, level: int) -> AbstractContextManager[object]:
    """Return the context to write a level in."""
    return nullcontext() if extension is None else extension.applied(level)


def plan_batches(
    lengths: Sequence[int],
    steps: Sequence[int],
    levels: Sequence[int],
    size: int,
    step_cost: int = STEP_COST,
) -> list[tuple[int, list[int]]]:
    """Group prompts into batches, the longest prompts first.

    Args:
        lengths: Tokens of each prompt.
        steps: Tokens that each may write.
        levels: Each one's level of context extension.
        size: Prompts a batch at most.
        step_cost: What a step costs, in tokens read.

    Returns:
        For each batch its level and the places of its prompts.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        groups.setdefault((steps[place], levels[place]), []).append(place)
    batches = []
    for (count, level), group in groups.items():
        left = iter(group)
        sizes = partition([lengths[place] for place in group], size, count, step_cost)
        batches += [(level, list(islice(left, some))) for some in sizes]
    return batches


def partition(lengths: Sequence[int], size: int, steps: int, step_cost: int = STEP_COST) -> list[int]:
    """Cut prompts, longest first, into batches: little padding, but few batches.

    A batch of B prompts padded to L tokens costs B L + step_cost * steps, in tokens read: every
    batch has its own steps, whose cost hardly depends on its size. The sum is made smallest
    by dynamic programming over the cuts.

    Args:
        lengths: Tokens of the prompts, descending.
        size: Prompts a batch at most.
        steps: Tokens to write.
        step_cost: What a step costs, in tokens read.

    Returns:
        The sizes of the batches, in order.
    """
    count = len(lengths)
    best = [0.0] + [float("inf")] * count  # of the first so many prompts
    start = [0] * (count + 1)
    for end in range(1, count + 1):
        for begin in range(max(0, end - size), end):
            cost = best[begin] + (end - begin) * lengths[begin] + step_cost * steps
            if cost < best[end]:
                best[end], start[end] = cost, begin
    sizes: list[int] = []
    end = count
    while end:
        sizes.append(end - start[end])
        end = start[end]
    return sizes[::-1]
