"""Texts far longer than a model reads: tokens take a hundred bytes each, so what will be cut isn't tokenized."""

from __future__ import annotations

from collections.abc import Iterator

CHARACTERS_A_TOKEN = 100
"""More than a token has in any text but an odd one, whose tokens are counted to make sure."""
PIECE = 1 << 20
"""Characters that are tokenized at once where all of a text counts."""
_LEAST = 20_000


def beginning_of(text: str, tokens: int | None) -> str:
    """Return whole words from the beginning of a text that surely have more than so many tokens.

    Surely but for odd texts, so whoever cuts looks at how many there are. A text that isn't much longer is given back.

    Args:
        text: The text.
        tokens: How many are read; None: all.
    """
    most = max(_LEAST, CHARACTERS_A_TOKEN * (tokens or 0))
    if tokens is None or len(text) <= 2 * most:
        return text
    return text[: _last_space(text, most)]


def pieces_of(text: str) -> Iterator[str]:
    """Yield a text in pieces of whole words, each of a million characters or fewer."""
    start = 0
    while len(text) - start > PIECE:
        end = _last_space(text, start + PIECE, start)
        yield text[start:end]
        start = end
    yield text[start:]


def _last_space(text: str, end: int, start: int = 0) -> int:
    """Return where the last space before `end` is; `end` where words are longer than half of what stands before it."""
    found = max(text.rfind(space, start, end) for space in " \n\t\u3000")
    return found if found > start + (end - start) // 2 else end
