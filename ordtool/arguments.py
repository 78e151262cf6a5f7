"""What Python functions are given: one thing, or many.

A string is a sequence of strings, so that a function that takes texts would read one text letter by letter. Every
function that takes texts or files asks here instead: a text or a path on its own is one thing, anything else is many.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any, ClassVar, Protocol, TypeVar

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


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


C = TypeVar("C", bound=_Dataclass)


def with_options(
    config: C, options: Mapping[str, Any], others: Iterable[str] = ()
) -> tuple[C, dict[str, Any]]:
    """Set the fields of a config that stand among a function's keywords.

    Args:
        config: A dataclass.
        options: The keywords.
        others: Keywords that the function knows beside the fields.

    Returns:
        The config with them set, and the rest of the keywords.

    Raises:
        TypeError: For a keyword that is neither, as Python does.
    """
    known = {field.name for field in fields(config)}
    rest = {name: value for name, value in options.items() if name not in known}
    if unknown := [name for name in rest if name not in set(others)]:
        raise TypeError(
            f"{type(config).__name__} has no field {unknown[0]!r}, and it is no option of a training"
        )
    own = {name: value for name, value in options.items() if name in known}
    return replace(config, **own) if own else config, rest
