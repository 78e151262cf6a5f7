"""JSON lines in and out: one object a line, valid JSON whatever is in it."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from ordtool.errors import OrdtoolError
from ordtool.io.conllu import SUFFIX as CONLLU_SUFFIX
from ordtool.io.inputs import JSON_SUFFIX, Input, data_suffix, separator_of

JSON_SUFFIXES = {".jsonl", ".ndjson", JSON_SUFFIX}
# A word in braces begins no object: a key has quotes.
_OBJECT = re.compile(rb'\s*\{\s*("|\}\s*$)')
# JSON escapes the others itself; a terminal obeys these too.
_CONTROL = re.compile("[\x7f-\x9f]")
# A JSON escape of half a character; two halves in the right order are one character.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def dumps(obj: Any) -> str:
    """Write `obj` as one line of JSON.

    Non-ASCII characters stay as they are, but for control characters; NaN and infinities, which JSON doesn't have,
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
    if not line.isascii() or "\x7f" in line:
        line = _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", line)
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


def holds_jsonl(stream: Input) -> bool:
    """Whether an input, of which nothing was read yet, is JSON objects, one a line or in an array.

    It is if its name ends in `.jsonl`, `.ndjson` or `.json`, or else, but for tables and CoNLL-U, if it begins
    as an object does that has a key, or as an array of such objects: what a file and a pipe hold is decided alike.
    """
    if has_jsonl_suffix(stream.path):
        return True
    if separator_of(stream.path) is not None or data_suffix(stream.path) == CONLLU_SUFFIX:
        return False
    return stream.holds_array() or _OBJECT.match(stream.first_line()) is not None


def parse_json_object(text: str, source: str, number: int) -> dict[str, Any]:
    """Parse one line as a JSON object.

    Raises:
        OrdtoolError: Naming `source:number`, for malformed JSON, something else than an object, or a lone surrogate.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        reason = "nested too deeply" if isinstance(error, RecursionError) else reason
        column = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise OrdtoolError(
            f"{source}:{number}: malformed JSON ({reason}{column})",
            "one JSON object a line, or one array of objects",
        ) from None
    if not isinstance(data, dict):
        raise OrdtoolError(
            f"{source}:{number}: expected a JSON object, found {type(data).__name__}",
            'a line looks like {"text": "..."}',
        )
    _check_characters(text, data, source, number)
    return data


def _check_characters(text: str, data: dict[str, Any], source: str, number: int) -> None:
    """Refuse half a character, which JSON can escape and no text can hold."""
    found = _SURROGATE.search(text)
    if found is None:
        return
    try:
        json.dumps(data, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise OrdtoolError(
            f"{source}:{number}: malformed JSON ({half} is half a character: a surrogate without its other half)",
            "write both halves, or the character itself; was a text cut in the middle?",
        ) from None


def has_jsonl_suffix(path: str | Path) -> bool:
    """Whether a file's name promises JSON objects (`x.jsonl`, `x.ndjson`, `x.json`, each with `.gz`)."""
    return data_suffix(path) in JSON_SUFFIXES
