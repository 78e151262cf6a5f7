"""How engines tell of their progress without knowing who listens."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """A listener for long work; the command line draws it as a bar on stderr."""

    def start(self, description: str, total: float | None, unit: str) -> None:
        """Begin a bar of `total` units (None: unknown), ending the one before."""

    def advance(self, amount: float = 1, **stats: object) -> None:
        """Move the bar by `amount`; `stats` such as `loss=4.2` stand beside it."""

    def note(self, message: str) -> None:
        """Say one line to the person who watches; silenced by `--quiet`."""

    def warn(self, message: str) -> None:
        """Say one line that must not be missed; printed even with `--quiet`."""

    def close(self) -> None:
        """End the bar."""


class Silent:
    """A listener that says nothing; a base for those that hear little."""

    def start(self, description: str, total: float | None, unit: str) -> None:
        """Say nothing."""

    def advance(self, amount: float = 1, **stats: object) -> None:
        """Say nothing."""

    def note(self, message: str) -> None:
        """Say nothing."""

    def warn(self, message: str) -> None:
        """Say nothing."""

    def close(self) -> None:
        """Say nothing."""


SILENT: Progress = Silent()
"""The listener that says nothing: the default of every engine."""


class PythonWarnings(Silent):
    """A listener for what a `with` in somebody's own program does: warnings are Python's, and nothing else is said."""

    def warn(self, message: str) -> None:
        """Issue a `UserWarning`, at the line that entered the `with`."""
        warnings.warn(message, stacklevel=5)  # by way of `warn_each`, the context manager and its `__enter__`


def counted(number: int, noun: str, plural: str = "") -> str:
    """Write a number of things: `1 text`, `2,000 texts`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def warn_each(lines: Iterable[str], progress: Progress) -> None:
    """Warn in several lines, such as `errors.BadRecords.report` gives."""
    for line in lines:
        progress.warn(line)


_live: set[Progress] = set()
_held = False


def bar_begins(listener: Progress) -> bool:
    """Enter a listener that is about to draw a bar, and say whether it may."""
    if not _held:
        _live.add(listener)
    return not _held


def bar_ended(listener: Progress) -> None:
    """Strike out a listener that draws no bar any more."""
    _live.discard(listener)


def close_bars() -> None:
    """End every bar that is drawn: at the end of a command, however it comes, so that the cursor is seen again."""
    for listener in list(_live):
        listener.close()


def hold_bars(held: bool = True) -> None:
    """End every bar and let none begin: data are about to appear where they stand; False lets them begin again."""
    global _held
    if held and not _held:
        close_bars()
    _held = held
