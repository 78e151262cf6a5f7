"""Tables: the one reader of CSV, TSV, JSON lines, Parquet and Arrow with fields, whatever the fields are for."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ordtool.errors import OnError, OrdtoolError, UsageError, reject
from ordtool.io.arrow import arrow_rows, holds_arrow
from ordtool.io.inputs import Input, decode_line, read_lines, separator_of
from ordtool.io.jsonl import holds_jsonl, parse_json_object

FindColumns = Callable[[Sequence[str], str], tuple[list[int], bool]]
"""From a table's first row and its `file:line` to the places of the columns, and whether the row is a head."""

# What published data call their columns: a first row of such names alone is a head.
_USUAL_NAMES = frozenset(
    """answer article body category class comment content context description document gold headline hypothesis id idx
    index input intent label labels message output paragraph passage polarity premise prompt query question rating
    reference response review score sentence sentence1 sentence2 sentiment source stars summary target text text1 text2
    title topic translation tweet utterance""".split()
)
_HINT = "`field` names another"


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row of a table, or a JSON object.

    Attributes:
        source: The file's name as given, `<stdin>` for a pipe.
        line: The number of its first line, from 1.
        data: All of it: an object as it stands; cells by the names in the head, and where there is no head by the names
            that were asked for, or by number.
        values: Of the fields that were asked for, in their order; None for an optional one that isn't there.
        headless: It is the first row of a table, and no head was found in it.
    """

    source: str
    line: int
    data: dict[str, Any]
    values: list[Any]
    headless: bool = False

    @property
    def where(self) -> str:
        """The place as `file:line`, for messages."""
        return f"{self.source}:{self.line}"


def rows_of(
    stream: Input,
    names: Sequence[str] = (),
    *,
    optional: Sequence[str] = (),
    separator: str | None = None,
    jsonl: bool | None = None,
    find: FindColumns | None = None,
    hint: str = _HINT,
    on_error: OnError | None = None,
) -> Iterator[TableRow]:
    """Read JSON lines, CSV, TSV, Parquet or Arrow row by row.

    Args:
        stream: The input, of which nothing was read yet.
        names: The fields that every row must have: keys, or columns as `find_columns` knows them. Without any the first row
            of a table is its head.
        optional: Fields that a row may have, after the others.
        separator: Between the cells of a table; None goes by the file's name, and takes tabs where that says nothing.
        jsonl: Whether there is an object a line; None goes by `holds_jsonl`.
        find: Finds the columns by a table's first row, and says whether that is a head; None: `find_columns`.
        hint: For messages: how to name other fields.
        on_error: Called with each bad row, which is then left out; None raises it.

    Raises:
        OrdtoolError: With `file:line`: invalid UTF-8, malformed JSON, a field or cell that is missing, where `on_error` is
            None; always for a head without the names, and for CSV whose quotes are wrong.
    """
    if holds_arrow(stream):
        yield from _cells(stream, (names, optional), hint, on_error)
        return
    if jsonl is None:
        jsonl = separator is None and holds_jsonl(stream)
    lines = _decoded(stream, jsonl, on_error)
    if jsonl:
        yield from _objects(
            enumerate(lines, start=stream.first), stream.source, (names, optional), hint, on_error
        )
        return
    separator = separator or separator_of(stream.path) or "\t"
    columns: _Columns | None = None
    for number, cells in table_rows(lines, separator, stream.source):
        headless = False
        if columns is None:
            where = f"{stream.source}:{number}"
            required, head = find(cells, where) if find else find_columns(cells, names, where, hint)
            columns = _columns(cells, (names, optional), required, head)
            if head:
                continue
            headless = True
        if len(cells) <= columns.last:
            reject(_too_few(f"{stream.source}:{number}", cells, columns, separator), on_error)
            continue
        data = dict(zip(columns.names, cells, strict=False))
        values = [None if k is None or k >= len(cells) else cells[k] for k in columns.places]
        yield TableRow(stream.source, number, data, values, headless)


def table_rows(lines: Iterable[str], separator: str, source: str) -> Iterator[tuple[int, list[str]]]:
    """Split the lines of a table into cells.

    CSV has quotes, inside of which a cell may go on in the next line. TSV has none, as published data wants it: a tab
    never stands in a cell, and a quote is a quote.

    Args:
        lines: All lines from the first on, without line feeds.
        separator: `,` for CSV, a tab for TSV.
        source: The file's name for messages.

    Yields:
        The number of the row's first line, and the cells as they stand; rows of nothing but blanks are passed over.

    Raises:
        OrdtoolError: With `file:line`, for CSV whose quotes are wrong.
    """
    for number, cells in _quoted(lines, source) if separator == "," else _plain(lines, separator):
        if any(cell.strip() for cell in cells):
            yield number, cells


def find_column(head: Sequence[str], name: str) -> int | None:
    """Return the place of a column in a head: of that very name, else of one that differs in case alone; None if neither."""
    names = [cell.strip() for cell in head]
    if name in names:
        return names.index(name)
    folded = [cell.casefold() for cell in names]
    return folded.index(name.casefold()) if name.casefold() in folded else None


def find_columns(
    row: Sequence[str], names: Sequence[str], where: str, hint: str = _HINT
) -> tuple[list[int], bool]:
    """Return where a table's columns are, and whether its first row is a head.

    Args:
        row: The first row's cells.
        names: Of the columns, as a head has them in any case; or numbers, from 1, of a table without a head. Where the
            row is no head, the columns stand in the order of the names.
        where: `file:line` of the row.
        hint: For messages: how to name other columns.

    Raises:
        UsageError: For a number below 1.
        OrdtoolError: If the row is a head (it has some of the names, or nothing but names that columns usually have),
            and a column isn't in it.
    """
    if names and all(name.isdecimal() for name in names):
        if min(map(int, names)) < 1:
            raise UsageError("columns are numbered from 1")
        return [int(name) - 1 for name in names], False
    places = [find_column(row, name) for name in names]
    found = [place for place in places if place is not None]
    if len(found) == len(names):
        return found, True
    cells = [cell.strip() for cell in row]
    if found or all(cell.casefold() in _USUAL_NAMES for cell in cells):
        raise no_column(names[places.index(None)], cells, where, hint)
    return list(range(len(names))), False


def no_column(name: str, cells: Sequence[str], where: str, hint: str = _HINT) -> OrdtoolError:
    """Return the error that a table's head has no column of a name."""
    shown = ", ".join(cell.strip() for cell in cells)
    return OrdtoolError(
        f"{where}: no column {name!r} (columns: {shown[:80]})",
        f"{hint}; a number, from 1, counts the columns of a table without a head",
    )


def no_field(name: str, data: Mapping[str, Any], where: str, hint: str = _HINT) -> OrdtoolError:
    """Return the error that a JSON object has no such field, or null in it."""
    if name in data:
        return OrdtoolError(f"{where}: field {name!r} is null", hint)
    return OrdtoolError(f"{where}: no field {name!r} (keys: {', '.join(data)[:80] or 'none'})", hint)


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where the fields of a table are.

    Attributes:
        names: Of all columns.
        places: Of the fields that were asked for; None for an optional one that isn't there.
        last: The last place that every row must have; -1 if there is none.
    """

    names: list[str]
    places: list[int | None]
    last: int


def _columns(
    row: Sequence[str], fields: tuple[Sequence[str], Sequence[str]], required: list[int], head: bool
) -> _Columns:
    """Name the columns, and find the optional ones among them."""
    names, optional = fields
    numbered = not head and all(name.isdecimal() for name in names)
    if head:
        known = [cell.strip() for cell in row]
    else:
        asked = [] if numbered else [*names, *optional]
        known = asked + [str(k + 1) for k in range(len(asked), len(row))]
    extra = [int(name) - 1 if name.isdecimal() else find_column(known, name) for name in optional]
    return _Columns(known, [*required, *extra], max(required, default=-1))


def _too_few(where: str, cells: Sequence[str], columns: _Columns, separator: str) -> OrdtoolError:
    return OrdtoolError(
        f"{where}: {len(cells)} column(s), and {columns.last + 1} are needed",
        f"columns: {', '.join(columns.names)}; separated by {'commas' if separator == ',' else 'tabs'}",
    )


def _objects(
    lines: Iterable[tuple[int, str]],
    source: str,
    fields: tuple[Sequence[str], Sequence[str]],
    hint: str,
    on_error: OnError | None,
) -> Iterator[TableRow]:
    names, optional = fields
    for number, line in lines:
        if not line.strip():
            continue
        try:
            data = parse_json_object(line, source, number)
            for name in names:
                if data.get(name) is None:
                    raise no_field(name, data, f"{source}:{number}", hint)
        except OrdtoolError as error:
            reject(error, on_error)
            continue
        yield TableRow(source, number, data, [data.get(name) for name in (*names, *optional)])


def _cells(
    stream: Input, fields: tuple[Sequence[str], Sequence[str]], hint: str, on_error: OnError | None
) -> Iterator[TableRow]:
    """Rows of a Parquet or Arrow table."""
    names, optional = fields
    for number, row in arrow_rows(stream):
        missing = [name for name in names if row.get(name) is None]
        if missing:
            reject(no_field(missing[0], row, f"{stream.source}:{number}", hint), on_error)
            continue
        yield TableRow(stream.source, number, row, [row.get(name) for name in (*names, *optional)])


def _decoded(stream: Input, arrays: bool, on_error: OnError | None) -> Iterator[str]:
    """Lines as text; a bad one becomes an empty one, so that the numbers of the others stay."""
    for number, raw in enumerate(read_lines(stream, stream.source, arrays=arrays), start=stream.first):
        try:
            yield decode_line(raw, stream.source, number)
        except OrdtoolError as error:
            reject(error, on_error)
            yield ""


def _plain(lines: Iterable[str], separator: str) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(lines, start=1):
        yield number, line.split(separator)


def _quoted(lines: Iterable[str], source: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader((line + "\n" for line in lines), strict=True)
    start = 1
    try:
        for cells in reader:
            yield start, cells
            start = reader.line_num + 1
    except csv.Error as error:
        raise OrdtoolError(
            f"{source}:{start}: malformed CSV ({error})",
            'is a quote left open? cells with a comma or a quote are written "so, ""like"" this"',
        ) from None
