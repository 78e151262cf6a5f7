"""Text, JSON and CoNLL-U input: one record a line or sentence, from files, gzip files or a pipe.

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
from ordtool.io.conllu import SUFFIX as CONLLU_SUFFIX
from ordtool.io.conllu import conllu_sentences, holds_conllu
from ordtool.io.inputs import JSON_SUFFIX, STDIN, Input, data_suffix, decode_line, open_input, read_lines
from ordtool.io.tables import separator_of

JSON_SUFFIXES = {".jsonl", ".ndjson", JSON_SUFFIX}

Format = Literal["auto", "text", "jsonl", "conllu"]
OnError = Callable[[OrdtoolError], None]
# A word in braces begins no object: a key has quotes.
_OBJECT = re.compile(rb'\s*\{\s*("|\}\s*$)')
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
    field: str | None = "text",
    *,
    format: Format = "auto",
    on_error: OnError | None = None,
) -> Iterator[Record]:
    """Read texts from files, one a line.

    Args:
        paths: Files in order; none, or `-`, is stdin. gzip is recognised by its first bytes.
        field: The key of a JSONL object that holds the text; None: objects are read whole, and their text is empty.
        format: `text`; `jsonl`, an object a line or an array of them; `conllu`, whose texts
            are those of its sentences; or `auto`: what `holds_jsonl` and `holds_conllu` say.
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
    stream: Input, field: str | None = "text", *, format: Format = "auto", on_error: OnError | None = None
) -> Iterator[Record]:
    """Read texts from an input that is open, as `read_records` does."""
    if format == "auto":
        format = "jsonl" if holds_jsonl(stream) else "conllu" if holds_conllu(stream) else "text"
    if format == "conllu":
        for sentence in conllu_sentences(stream, on_error):
            yield Record(stream.source, sentence.line, sentence.text)
        return
    jsonl = format == "jsonl"
    for number, raw in enumerate(read_lines(stream, stream.source, arrays=jsonl), start=1):
        try:
            text = decode_line(raw, stream.source, number)
            if not jsonl:
                yield Record(stream.source, number, text)
            elif text.strip():
                yield parse_json_record(text, stream.source, number, field)
        except OrdtoolError as error:
            if on_error is None:
                raise
            on_error(error)


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


def parse_json_record(text: str, source: str, number: int, field: str | None) -> Record:
    """Parse one JSONL line and take its text; none where `field` is None.

    Raises:
        OrdtoolError: Naming `source:number`, for malformed JSON, something else than an
            object, or a missing or non-string field.
    """
    data = parse_json_object(text, source, number)
    if field is None:
        return Record(source, number, "", data)
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
