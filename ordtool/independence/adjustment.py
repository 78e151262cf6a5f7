"""P-values of several tests at once."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    r"""Adjust p-values of $m$ tests, so that those under $\alpha$ hold a false one with probability $\alpha$ at most.

    $$\tilde p_{(i)} = \max_{j \le i} \min(1, (m - j + 1) \, p_{(j)})$$

    for the p-values in ascending order (Holm 1979). Nothing is assumed of how the tests depend on each other.

    Args:
        p_values: One a test.

    Returns:
        The adjusted ones, in the order given.
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
