"""Texts, from plain text, JSON, tables and CoNLL-U: one record a line, row or sentence, from files, gzip files or a pipe.

Lines are read as bytes and split at the line feed only, because `str.splitlines` also
splits at U+2028, U+0085 and others that occur inside real text. Nothing is held but the
current line, so memory doesn't grow with the input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from ordtool.arguments import as_strings
from ordtool.errors import OnError, OrdtoolError, reject
from ordtool.io.arrow import arrow_rows, holds_arrow
from ordtool.io.conllu import conllu_sentences, holds_conllu
from ordtool.io.inputs import STDIN, Input, decode_line, open_input, read_lines, separator_of
from ordtool.io.jsonl import has_jsonl_suffix, holds_jsonl
from ordtool.io.tables import no_column, rows_of

Format = Literal["auto", "text", "jsonl", "conllu"]
_FIELD_HINT = "name the text's key or column with `field`"


@dataclass(frozen=True, slots=True)
class Record:
    """One line of input.

    Attributes:
        source: The file's name as given, `<stdin>` for a pipe.
        line: Its line number, from 1.
        text: The text; for JSONL and tables the value of the text field.
        data: The whole JSON object of a JSONL line, keys in order; the cells of a table's row; None for plain text.
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
        field: The key of a JSONL object, or the column of a table, that holds the text; None: objects and rows are read
            whole, and their text is empty.
        format: `text`; `jsonl`, an object a line or an array of them; `conllu`, whose texts
            are those of its sentences; or `auto`: Parquet or Arrow, a table where the name says so (`.csv`, `.tsv`),
            else what `holds_jsonl` and `holds_conllu` say.
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
    """Read the documents of a corpus: a text file is one, with its lines; a JSONL record or a table's row is one.

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
            if not has_jsonl_suffix(path) and separator_of(path) is None:
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
    if format == "auto" and holds_arrow(stream):
        yield from _cells(stream, field, on_error)
        return
    if format == "auto":
        format = "jsonl" if holds_jsonl(stream) else "conllu" if holds_conllu(stream) else "text"
        if separator_of(stream.path) is not None:
            yield from _fields(stream, field, False, on_error)
            return
    if format == "jsonl":
        yield from _fields(stream, field, True, on_error)
        return
    if format == "conllu":
        for sentence in conllu_sentences(stream, on_error):
            yield Record(stream.source, sentence.line, sentence.text)
        return
    for number, raw in enumerate(read_lines(stream, stream.source, arrays=False), start=stream.first):
        try:
            yield Record(stream.source, number, decode_line(raw, stream.source, number))
        except OrdtoolError as error:
            reject(error, on_error)


def _cells(stream: Input, field: str | None, on_error: OnError | None) -> Iterator[Record]:
    """Records of a Parquet or Arrow table."""
    for number, row in arrow_rows(stream):
        text = "" if field is None else row.get(field)
        if isinstance(text, str):
            yield Record(stream.source, number, text, row)
            continue
        where = f"{stream.source}:{number}"
        if field is not None and field not in row:
            raise no_column(field, list(row), where, _FIELD_HINT)
        kind = "null" if text is None else type(text).__name__
        reject(
            OrdtoolError(f"{where}: field {field!r} must be a string, found {kind}", _FIELD_HINT), on_error
        )


def _fields(stream: Input, field: str | None, jsonl: bool, on_error: OnError | None) -> Iterator[Record]:
    """Records of JSON lines or a table, whose text is a field."""
    names = () if field is None else (field,)
    hint = _FIELD_HINT if jsonl else f"{_FIELD_HINT}, or pipe the file in to take its lines as they are"
    for row in rows_of(stream, names, jsonl=jsonl, hint=hint, on_error=on_error):
        text = row.values[0] if names else ""
        if row.headless and not "".join(names).isdecimal():
            raise no_column(str(field), list(row.data.values()), row.where, hint)
        if isinstance(text, str):
            yield Record(row.source, row.line, text, row.data)
            continue
        kind = type(text).__name__
        reject(OrdtoolError(f"{row.where}: field {field!r} must be a string, found {kind}"), on_error)
