"""JSON lines out: one object a line, valid JSON whatever is in it."""

from __future__ import annotations

import json
import math
from typing import Any


def dumps(obj: Any) -> str:
    """Write `obj` as one line of JSON.

    Non-ASCII characters stay as they are; NaN and infinities, which JSON doesn't have,
    become null; numpy scalars and arrays and paths are understood.

    Args:
        obj: Anything made of dicts, lists, strings, numbers, numpy values and paths.

    Returns:
        A line without its line feed.
    """
    try:
        line = json.dumps(obj, ensure_ascii=False, allow_nan=False, default=_plain)
    except ValueError:
        line = json.dumps(_without_nan(obj), ensure_ascii=False, allow_nan=False, default=_plain)
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate, which "\ud800" in the input can bring
        line = json.dumps(json.loads(line), ensure_ascii=True)
    return line


def _plain(value: Any) -> Any:
    """Turn what json doesn't know into what it does: numpy by its own methods."""
    if hasattr(value, "tolist"):
        return _without_nan(value.tolist())
    if hasattr(value, "__fspath__"):
        return str(value)
    raise TypeError(f"{type(value).__name__} can't be written as JSON")


def _without_nan(obj: Any) -> Any:
    if isinstance(obj, float):
        return obj if math.isfinite(obj) else None
    if isinstance(obj, dict):
        return {key: _without_nan(value) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [_without_nan(value) for value in obj]
    if hasattr(obj, "tolist"):
        return _without_nan(obj.tolist())
    return obj
