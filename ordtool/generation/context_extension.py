"""Reading beyond a model's context: what the engine asks of whoever makes that possible."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class ContextExtension(Protocol):
    """A way for a model to read more than its context, by levels of length.

    A prompt's level follows from its own length alone, and prompts of one level are written
    together, so that a text doesn't depend on its neighbours.
    """

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
