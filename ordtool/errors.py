"""Errors that a person can act on.

Everything that can go wrong with a user's data, options or machine is raised as an
[OrdtoolError][ordtool.errors.OrdtoolError] with one line that says what happened and
one hint that says what to do. The command line prints both and exits with
`exit_code`; any other exception is a bug in ordtool and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence


class OrdtoolError(Exception):
    """The data or the run failed: `error: message`, `hint: hint`, exit status 1.

    Args:
        message: One line: the file, the line, what was expected and what was found.
        hint: One line: what to do about it, if anything is known.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message} ({self.hint})"


class UsageError(OrdtoolError):
    """The command was asked for something that makes no sense: exit status 2."""

    exit_code = 2


class BadRecords:
    """Records that were left out: how many, and the first of them, so that a million take no more memory than a few.

    Attributes:
        count: All of them.
        first: The errors of the first ones.
    """

    LISTED = 20

    def __init__(self) -> None:
        self.count = 0
        self.first: list[OrdtoolError] = []

    def append(self, error: OrdtoolError) -> None:
        """Take note of one; an `OnError`."""
        self.count += 1
        if len(self.first) < self.LISTED:
            self.first.append(error)

    def add(self, count: int, first: Sequence[OrdtoolError]) -> None:
        """Take note of several, of which the first are known."""
        self.count += count
        self.first += first[: self.LISTED - len(self.first)]

    def clear(self) -> None:
        """Forget them."""
        self.count = 0
        self.first.clear()

    def report(self) -> list[str]:
        """Say in lines how many they are, and of the first ones why; nothing if there are none."""
        if not self.count:
            return []
        lines = [f"{self.count:,} bad record{'s' if self.count > 1 else ''} skipped"]
        lines += [error.message for error in self.first]
        rest = self.count - len(self.first)
        return lines + [f"and {rest:,} more"] * bool(rest)


OnError = Callable[[OrdtoolError], None]
"""What a reader calls with each bad record, which it then leaves out."""


def reject(error: OrdtoolError, on_error: OnError | None) -> None:
    """Hand a bad record's error to `on_error`, or raise it where there is none."""
    if on_error is None:
        raise error
    on_error(error)


def close_match_hint(name: str, choices: Iterable[str]) -> str:
    """Say which of `choices` was probably meant by `name`, and list them all.

    Args:
        name: What the user typed.
        choices: What there is.

    Returns:
        A hint such as `did you mean 'mean'? choices: cls, mean, max`.
    """
    names = sorted(choices)
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    listed = "choices: " + ", ".join(names)
    return f"did you mean {close[0]!r}? {listed}" if close else listed
