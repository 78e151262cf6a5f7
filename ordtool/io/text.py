"""Text and JSONL input: one record a line, from files, gzip files or a pipe.

Lines are read as bytes and split at the line feed only, because `str.splitlines` also
splits at U+2028, U+0085 and others that occur inside real text. Nothing is held but the
current line, so memory doesn't grow with the input.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from ordtool.arguments import as_strings
from ordtool.errors import OrdtoolError
from ordtool.io.inputs import STDIN, Input, open_input, read_lines

JSONL_SUFFIXES = {".jsonl", ".ndjson"}

Format = Literal["auto", "text", "jsonl"]
OnError = Callable[[OrdtoolError], None]
# A JSON escape of half a character; two halves in the right order are one character.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True, slots=True)
class Record:
    """One line of input.

    Attributes:
        source: The file's name as given, `<stdin>` for a pipe.
        line: Its line number, from 1.
        text: The text; for JSONL the value of the text field.
        data: The whole JSON object of a JSONL line, keys in order; None for plain text.
    """

    source: str
    line: int
    text: str
    data: dict[str, Any] | None = None

    @property
    def where(self) -> str:
        """The place as `file:line`, for messages."""
        return f"{self.source}:{self.line}"


def read_records(
    paths: str | Path | Sequence[str | Path],
    field: str = "text",
    *,
    format: Format = "auto",
    on_error: OnError | None = None,
) -> Iterator[Record]:
    """Read texts from files, one a line.

    Args:
        paths: Files in order; none, or `-`, is stdin. gzip is recognised by its first bytes.
        field: The key of a JSONL object that holds the text.
        format: `text`, `jsonl`, or `auto`: JSONL for `.jsonl` and `.ndjson` (`.gz` too)
            and for a pipe whose first line is a JSON object with the field.
        on_error: Called with each bad record, which is then skipped; None raises it.

    Yields:
        A record a line; empty lines of plain text are records too (ids stay aligned),
        blank lines of JSONL are not.

    Raises:
        OrdtoolError: For a missing or unreadable file, invalid UTF-8 or malformed JSON
            (with `file:line`) where `on_error` is None.
    """
    for path in as_strings(paths) or (STDIN,):
        with open_input(path) as stream:
            yield from records_of(stream, field, format=format, on_error=on_error)


def read_documents(
    paths: str | Path | Sequence[str | Path], field: str = "text", *, end: str = "\n"
) -> Iterator[str]:
    """Read the documents of a corpus: a text file is one, with its lines; a JSONL record is one.

    Args:
        paths: As in `read_records`.
        field: The key of a JSONL object that holds the text.
        end: What ends the last line of a text file.

    Raises:
        OrdtoolError: Naming `file:line`.
    """
    for path in as_strings(paths) or (STDIN,):
        records = read_records(path, field)
        first = next(records, None)
        if first is None:
            if not has_jsonl_suffix(path):
                yield end
            continue
        texts = (record.text for record in chain([first], records))
        if first.data is not None:
            yield from texts
        else:
            yield "\n".join(texts) + end


def records_of(
    stream: Input, field: str = "text", *, format: Format = "auto", on_error: OnError | None = None
) -> Iterator[Record]:
    """Read texts from an input that is open, as `read_records` does."""
    jsonl = format == "jsonl" or (format == "auto" and has_jsonl_suffix(stream.path))
    undecided = format == "auto" and not jsonl and stream.once
    for number, raw in enumerate(read_lines(stream, stream.source), start=1):
        try:
            text = decode_line(raw, stream.source, number)
            if undecided:
                jsonl, undecided = looks_like_jsonl(text, field), False
            if not jsonl:
                yield Record(stream.source, number, text)
            elif text.strip():
                yield parse_json_record(text, stream.source, number, field)
        except OrdtoolError as error:
            if on_error is None:
                raise
            on_error(error)


def holds_jsonl(stream: Input) -> bool:
    """Say whether an input, of which nothing was read yet, is JSONL: by its name, for a pipe by its first line."""
    return has_jsonl_suffix(stream.path) or (stream.once and stream.first_line().lstrip().startswith(b"{"))


def decode_line(raw: bytes, source: str, number: int) -> str:
    """Decode one line as UTF-8.

    Raises:
        OrdtoolError: Naming `source:number` and the first bad byte.
    """
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        hint = "convert it first: iconv -f latin1 -t utf-8 (or the encoding it has)"
        if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
            hint = "this looks like UTF-16: iconv -f utf-16 -t utf-8 converts it"
        elif raw.startswith(b"\x93NUMPY"):
            hint = "this is an NPY file, and a text file is expected here"
        raise OrdtoolError(
            f"{source}:{number}: invalid UTF-8 (byte 0x{raw[error.start]:02x} at column {error.start + 1})",
            hint,
        ) from None


def parse_json_record(text: str, source: str, number: int, field: str) -> Record:
    """Parse one JSONL line and take its text.

    Raises:
        OrdtoolError: Naming `source:number`, for malformed JSON, something else than an
            object, or a missing or non-string field.
    """
    data = parse_json_object(text, source, number)
    if field not in data:
        keys = ", ".join(data) or "none"
        raise OrdtoolError(
            f"{source}:{number}: no field {field!r} (keys: {keys})", "name the text's key with --field"
        )
    if not isinstance(data[field], str):
        found = type(data[field]).__name__
        raise OrdtoolError(f"{source}:{number}: field {field!r} must be a string, found {found}")
    return Record(source, number, data[field], data)


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
            "a .jsonl file has one JSON object a line",
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
    """Say whether a file's name promises JSONL (`x.jsonl`, `x.ndjson`, either with `.gz`)."""
    suffixes = [s.lower() for s in Path(path).suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return bool(suffixes) and suffixes[-1] in JSONL_SUFFIXES


def looks_like_jsonl(text: str, field: str) -> bool:
    """Say whether a line is a JSON object that holds the field."""
    if not text.lstrip().startswith("{"):
        return False
    try:
        data = json.loads(text)
    except ValueError:
        return False
    except RecursionError:  # who parses it says so
        return True
    return isinstance(data, dict) and field in data
