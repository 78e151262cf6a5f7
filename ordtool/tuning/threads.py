"""How many threads a step is worth."""

from __future__ import annotations

# Numbers in a batch's hidden state, below which a second thread waits more than it works: at a width of 48, two threads
# were slower than one up to 32 texts of 64 tokens, by a third for those of 12 or 26, and faster from 32 of 128 on.
_ALONE = 1 << 17


def ladder_threads(tokens: float, width: int) -> int | None:
    """Give the threads for a ladder's own products: one for small ones, None (as many as there are) for others.

    Args:
        tokens: Of a batch.
        width: The ladder's.
    """
    return 1 if tokens * width < _ALONE else None
