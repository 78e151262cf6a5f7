"""Sentence pairs with a similarity, as the STS benchmarks have them: CSV, TSV or JSONL."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ordtool.errors import OrdtoolError, UsageError
from ordtool.io.inputs import Input, open_input, read_lines
from ordtool.io.tables import table_rows
from ordtool.io.text import decode_line, holds_jsonl, parse_json_object

# The names that published pair files give to the three columns.
NAMES = (
    ("sentence1", "sentence_1", "sentence_a", "sentence_A", "text1", "s1", "left"),
    ("sentence2", "sentence_2", "sentence_b", "sentence_B", "text2", "s2", "right"),
    ("score", "similarity_score", "similarity", "relatedness_score", "gold", "label"),
)
OnError = Callable[[OrdtoolError], None]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two sentences and how similar people find them, on any scale."""

    left: str
    right: str
    score: float


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    cells: list[str] | dict[str, Any]


def read_pairs(
    path: str | Path, *, columns: Sequence[str] | None = None, on_error: OnError | None = None
) -> list[Pair]:
    """Read sentence pairs.

    JSON objects are known by the file's suffix or its beginning. Else a first line with a tab makes it TSV, which is
    read without quoting as published STS files want it, and any other file is CSV. A first line whose score is no number is
    a header; without one, the columns are the first three.

    Args:
        path: The file, gzip too; `-` is stdin.
        columns: Names of the header, keys of the objects, or positions from 1, of the two sentences and the
            score; None finds the usual names.
        on_error: Called with each bad line, which is then left out; None raises it.

    Raises:
        OrdtoolError: The file can't be read, a line is bad (named as `file:line`), a column is missing, or there
            are no pairs.
        UsageError: `columns` doesn't name three columns.
    """
    if columns is not None and len(columns) != 3:
        raise UsageError(
            f"three columns are needed, got {len(columns)}",
            "for example: --columns sentence1,sentence2,score",
        )
    with open_input(path) as stream:
        return pairs_of(stream, columns=columns, on_error=on_error)


def pairs_of(
    stream: Input, *, columns: Sequence[str] | None = None, on_error: OnError | None = None
) -> list[Pair]:
    """Read sentence pairs from an input that is open, as `read_pairs` does."""
    source = stream.source
    pairs = []
    for row, places in _rows(stream, columns, on_error):
        try:
            pairs.append(_pair(row, places, source))
        except OrdtoolError as error:
            if on_error is None:
                raise
            on_error(error)
    if not pairs:
        raise OrdtoolError(
            f"{source}: no pairs in it", "a line looks like: A man eats.,Someone is eating.,4.5"
        )
    return pairs


def begins_pairs(line: str) -> bool:
    """Whether a line begins a table of pairs: the usual names of the three columns, or a number in the third."""
    cells = line.split("\t") if "\t" in line else next(csv.reader([line]), [])
    named = all(_known(group, [cell.strip() for cell in cells]) for group in NAMES)
    return named or (len(cells) >= 3 and _number(cells[2]) is not None)


def _rows(
    stream: Input, columns: Sequence[str] | None, on_error: OnError | None
) -> Iterator[tuple[_Row, Sequence[str | int]]]:
    """Rows with the places of their three columns, header gone."""
    source = stream.source
    jsonl = holds_jsonl(stream)
    lines = list(_decoded(stream, source, on_error))
    first = next((line for line in lines if line.strip()), "")
    if jsonl:
        yield from _objects(lines, source, columns, on_error)
        return
    places: Sequence[str | int] | None = None
    for number, cells in table_rows(lines, "\t" if "\t" in first else ",", source):
        row = _Row(number, cells)
        if places is None:
            places, is_header = _places(row, columns, source)
            if is_header:
                continue
        yield row, places


def _decoded(stream: BinaryIO, source: str, on_error: OnError | None) -> Iterator[str]:
    """Lines as text; a bad one becomes an empty one, so that the numbers of the others stay."""
    for number, raw in enumerate(read_lines(stream, source), start=1):
        try:
            yield decode_line(raw, source, number)
        except OrdtoolError as error:
            if on_error is None:
                raise
            on_error(error)
            yield ""


def _objects(
    lines: list[str], source: str, columns: Sequence[str] | None, on_error: OnError | None
) -> Iterator[tuple[_Row, Sequence[str | int]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            data = parse_json_object(line, source, number)
        except OrdtoolError as error:
            if on_error is None:
                raise
            on_error(error)
            continue
        yield _Row(number, data), columns or [_known(names, data) or names[0] for names in NAMES]


def _places(row: _Row, columns: Sequence[str] | None, source: str) -> tuple[Sequence[int], bool]:
    """Where the three columns are, and whether this first row was a header."""
    cells = [str(cell).strip() for cell in row.cells]
    if columns is not None and all(column.isdecimal() and int(column) > 0 for column in columns):
        places = [int(column) - 1 for column in columns]
        return places, max(places) < len(cells) and _number(cells[places[2]]) is None
    if columns is not None:
        return [_named(column, cells, source) for column in columns], True
    names = [_known(group, cells) for group in NAMES]
    if all(name is not None for name in names):
        return [cells.index(str(name)) for name in names], True
    if len(cells) < 3 or (len(cells) > 3 and _number(cells[2]) is None):
        raise OrdtoolError(
            f"{source}:{row.line}: no columns sentence1, sentence2 and score (found: {', '.join(cells)[:80]})",
            "name them, or count them from 1: --columns 6,7,5",
        )
    return [0, 1, 2], _number(cells[2]) is None


def _named(column: str, cells: list[str], source: str) -> int:
    if column not in cells:
        raise OrdtoolError(
            f"{source}: no column {column!r} (found: {', '.join(cells)[:80]})", "the first line is the header"
        )
    return cells.index(column)


def _known(names: Sequence[str], cells: list[str] | dict[str, Any]) -> str | None:
    return next((name for name in names if name in cells), None)


def _pair(row: _Row, places: Sequence[str | int], source: str) -> Pair:
    where = f"{source}:{row.line}"
    left, right, score = (_cell(row, place, where) for place in places)
    for text in (left, right):
        if not isinstance(text, str):
            raise OrdtoolError(f"{where}: a sentence must be a string, found {type(text).__name__}")
    number = _number(score)
    if number is None:
        raise OrdtoolError(
            f"{where}: the score must be a number, found {str(score)[:40]!r}",
            "is it another column? see --columns",
        )
    return Pair(left, right, number)


def _cell(row: _Row, place: str | int, where: str) -> Any:
    if isinstance(row.cells, dict):
        if place not in row.cells:
            raise OrdtoolError(
                f"{where}: no key {place!r} (keys: {', '.join(row.cells)[:80]})",
                "name the three keys with --columns",
            )
        return row.cells[str(place)]
    if int(place) >= len(row.cells):
        raise OrdtoolError(f"{where}: {len(row.cells)} columns, and column {int(place) + 1} is needed")
    return row.cells[int(place)]


def _number(cell: object) -> float | None:
    """A finite number, or None."""
    if isinstance(cell, bool):
        return None
    try:
        value = float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
