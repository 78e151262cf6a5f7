"""Which prompts are written together."""

from __future__ import annotations

from collections.abc import Sequence

STEP_COST = 30
"""A step of any batch costs about as much as reading so many tokens (smollm2, two cores, float32)."""


def partition(lengths: Sequence[int], size: int, steps: int) -> list[int]:
    """Cut prompts, longest first, into batches: little padding, but few batches.

    A batch of B prompts padded to L tokens costs B L + STEP_COST * steps, in tokens read: every
    batch has its own steps, whose cost hardly depends on its size. The sum is made smallest
    by dynamic programming over the cuts.

    Args:
        lengths: Tokens of the prompts, descending.
        size: Prompts a batch at most.
        steps: Tokens to write.

    Returns:
        The sizes of the batches, in order.
    """
    count = len(lengths)
    best = [0.0] + [float("inf")] * count  # of the first so many prompts
    start = [0] * (count + 1)
    for end in range(1, count + 1):
        for begin in range(max(0, end - size), end):
            cost = best[begin] + (end - begin) * lengths[begin] + STEP_COST * steps
            if cost < best[end]:
                best[end], start[end] = cost, begin
    sizes: list[int] = []
    end = count
    while end:
        sizes.append(end - start[end])
        end = start[end]
    return sizes[::-1]
