"""What Python functions are given: one thing, or many.

A string is a sequence of strings, so that a function that takes texts would read one text letter by letter. Every
function that takes texts or files asks here instead: a text or a path on its own is one thing, anything else is many.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from ordtool.errors import UsageError

_ALONE = (str, os.PathLike)


def is_one(given: object, *kinds: type) -> bool:
    """Whether an argument is a single text, path or object of `kinds`, not a collection of them.

    Raises:
        UsageError: For bytes, which are neither a text nor a path.
    """
    if isinstance(given, bytes | bytearray):
        raise UsageError("bytes were given where a text is meant", "decode them: data.decode('utf-8')")
    return isinstance(given, (*_ALONE, *kinds))


def as_many(given: Any, *kinds: type) -> Iterable[Any]:
    """Give an argument as a collection: a single text, path or object of `kinds` in a tuple, all else as it is.

    >>> as_many("The cat sat.")
    ('The cat sat.',)

    Raises:
        UsageError: As `is_one`.
    """
    return (given,) if is_one(given, *kinds) else given


def as_strings(given: Any) -> tuple[str, ...]:
    """Give names or paths as strings, one or many; raises as `is_one`."""
    return tuple(str(one) for one in as_many(given))
