"""Tables of text, CSV and TSV: one reader of their rows, whatever the columns are for."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ordtool.errors import OrdtoolError, UsageError

_SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
# What published data call their columns: a first row of such names alone is a head.
_USUAL_NAMES = frozenset(
    """answer article body category class comment content context description document gold headline hypothesis id idx
    index input intent label labels message output paragraph passage polarity premise prompt query question rating
    reference response review score sentence sentence1 sentence2 sentiment source stars summary target text text1 text2
    title topic translation tweet utterance""".split()
)


def separator_of(path: str | Path) -> str | None:
    """Return what separates the columns of a file by its name (`.csv`, `.tsv`, `.tab`, each with `.gz`), None for others."""
    name = Path(str(path).lower().removesuffix(".gz"))
    return _SEPARATORS.get(name.suffix)


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


def find_columns(row: Sequence[str], names: Sequence[str], where: str) -> tuple[list[int], bool]:
    """Return where a table's columns are, and whether its first row is a head.

    Args:
        row: The first row's cells.
        names: Of the columns, as a head has them in any case; or numbers, from 1, of a table without a head. Where the
            row is no head, the columns stand in the order of the names.
        where: `file:line` of the row.

    Raises:
        UsageError: For a number below 1.
        OrdtoolError: If the row is a head (it has some of the names, or nothing but names that columns usually have),
            and a column isn't in it.
    """
    if all(name.isdecimal() for name in names):
        if min(map(int, names)) < 1:
            raise UsageError("columns are numbered from 1")
        return [int(name) - 1 for name in names], False
    places = [find_column(row, name) for name in names]
    found = [place for place in places if place is not None]
    if len(found) == len(names):
        return found, True
    cells = [cell.strip() for cell in row]
    if found or all(cell.casefold() in _USUAL_NAMES for cell in cells):
        missing = names[places.index(None)]
        numbers = "--field 1" if len(names) == 1 else "--field 1 --label-field 2"
        raise OrdtoolError(
            f"{where}: no column {missing!r} (columns: {', '.join(cells)})",
            f"--field, --label-field name them; if this is no head, {numbers} says so",
        )
    return list(range(len(names))), False


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
