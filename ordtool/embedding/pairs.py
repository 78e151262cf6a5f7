"""Sentence pairs with a similarity, as the STS benchmarks have them: CSV, TSV or JSONL."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ordtool.errors import OnError, OrdtoolError, UsageError, reject
from ordtool.io.inputs import Input, open_input
from ordtool.io.jsonl import holds_jsonl
from ordtool.io.tables import TableRow, no_column, no_field, rows_of

# The names that published pair files give to the three columns.
NAMES = (
    ("sentence1", "sentence_1", "sentence_a", "sentence_A", "text1", "s1", "left"),
    ("sentence2", "sentence_2", "sentence_b", "sentence_B", "text2", "s2", "right"),
    ("score", "similarity_score", "similarity", "relatedness_score", "gold", "label"),
)
_HINT = "`columns` names the two sentences and the score, or counts them from 1: 6,7,5"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two sentences and how similar people find them, on any scale."""

    left: str
    right: str
    score: float


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
            "for example: sentence1,sentence2,score",
        )
    with open_input(path) as stream:
        return pairs_of(stream, columns=columns, on_error=on_error)


def pairs_of(
    stream: Input, *, columns: Sequence[str] | None = None, on_error: OnError | None = None
) -> list[Pair]:
    """Read sentence pairs from an input that is open, as `read_pairs` does."""
    jsonl = holds_jsonl(stream)
    separator = None if jsonl else "\t" if b"\t" in stream.first_line() else ","
    names = (columns or ()) if jsonl else ()
    rows = rows_of(
        stream, names, separator=separator, find=partial(_places, columns), hint=_HINT, on_error=on_error
    )
    pairs = []
    for row in rows:
        try:
            pairs.append(_pair(row, _usual(row) if jsonl and not columns else row.values))
        except OrdtoolError as error:
            reject(error, on_error)
    if not pairs:
        raise OrdtoolError(
            f"{stream.source}: no pairs in it", "a line looks like: A man eats.,Someone is eating.,4.5"
        )
    return pairs


def begins_pairs(line: str) -> bool:
    """Whether a line begins a table of pairs: the usual names of the three columns, or a number in the third."""
    cells = line.split("\t") if "\t" in line else next(csv.reader([line]), [])
    named = all(_known(group, [cell.strip() for cell in cells]) for group in NAMES)
    return named or (len(cells) >= 3 and _number(cells[2]) is not None)


def _places(columns: Sequence[str] | None, row: Sequence[str], where: str) -> tuple[list[int], bool]:
    """Where the three columns are, and whether this first row is a header."""
    cells = [cell.strip() for cell in row]
    if columns is not None and all(column.isdecimal() and int(column) > 0 for column in columns):
        places = [int(column) - 1 for column in columns]
        return places, max(places) < len(cells) and _number(cells[places[2]]) is None
    if columns is not None:
        missing = next((column for column in columns if column not in cells), None)
        if missing is not None:
            raise no_column(missing, cells, where, _HINT)
        return [cells.index(column) for column in columns], True
    names = [_known(group, cells) for group in NAMES]
    if all(name is not None for name in names):
        return [cells.index(str(name)) for name in names], True
    if len(cells) < 3 or (len(cells) > 3 and _number(cells[2]) is None):
        raise OrdtoolError(
            f"{where}: no columns sentence1, sentence2 and score (found: {', '.join(cells)[:80]})", _HINT
        )
    return [0, 1, 2], _number(cells[2]) is None


def _usual(row: TableRow) -> list[Any]:
    """The two sentences and the score of an object, under any of the usual keys."""
    names = [_known(group, row.data) for group in NAMES]
    for name, group in zip(names, NAMES, strict=True):
        if name is None:
            raise no_field(group[0], row.data, row.where, _HINT)
    return [row.data[str(name)] for name in names]


def _known(names: Sequence[str], cells: Collection[str]) -> str | None:
    return next((name for name in names if name in cells), None)


def _pair(row: TableRow, values: list[Any]) -> Pair:
    left, right, score = values
    for text in (left, right):
        if not isinstance(text, str):
            raise OrdtoolError(f"{row.where}: a sentence must be a string, found {type(text).__name__}")
    number = _number(score)
    if number is None:
        raise OrdtoolError(f"{row.where}: the score must be a number, found {str(score)[:40]!r}", _HINT)
    return Pair(left, right, number)


def _number(cell: object) -> float | None:
    """A finite number, or None."""
    if isinstance(cell, bool):
        return None
    try:
        value = float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
