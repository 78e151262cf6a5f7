"""Tables of text, CSV and TSV: one reader of their rows, whatever the columns are for."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from ordtool.errors import OrdtoolError

_SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}


def separator_of(path: str | Path) -> str | None:
    """Give what separates the columns of a file by its name (`.csv`, `.tsv`, `.tab`, each with `.gz`), None for others."""
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
