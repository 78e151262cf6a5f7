"""Tables that fit a terminal: no number and no name is ever split.

What is too wide is laid out anew: the last column's words are wrapped, rows and columns change places, or the table is
cut between columns or rows; of these, the one with the fewest lines.
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

GAP = 2
NARROWEST_PROSE = 24

Row = tuple[str, ...]


@dataclass(frozen=True)
class TablePart:
    """A table, or a part of one, as it is to be printed.

    Attributes:
        columns: The heads.
        rows: The cells; those of the last column may hold line feeds.
    """

    columns: Row
    rows: tuple[Row, ...]

    def widths(self) -> list[int]:
        """Give the width of each column in cells of a terminal."""
        return [
            max(text_width(line) for cell in cells for line in cell.split("\n"))
            for cells in zip(self.columns, *self.rows, strict=True)
        ]

    def width(self) -> int:
        """Give the width of all, with the gaps between columns."""
        return sum(self.widths()) + GAP * (len(self.columns) - 1)

    def height(self) -> int:
        """Count its lines: head, rule, rows, and a blank line after it."""
        return 3 + sum(max(cell.count("\n") for cell in row) + 1 for row in self.rows)

    def lines(self) -> list[str]:
        """Draw it: the head first, then a rule; numbers stand at the right of their column."""
        widths = self.widths()
        right = [all(is_number(row[index]) for row in self.rows) for index in range(len(widths))]
        drawn = [_line(self.columns, widths, right), "─" * self.width()]
        for row in self.rows:
            for number in range(max(cell.count("\n") for cell in row) + 1):
                pieces = [cell.split("\n") for cell in row]
                cells = [piece[number] if number < len(piece) else "" for piece in pieces]
                drawn.append(_line(cells, widths, right))
        return drawn


def fit_table(columns: Sequence[str], rows: Sequence[Sequence[object]], width: int) -> list[TablePart]:
    """Lay out a table so that every part is at most `width` wide, where its longest words allow that.

    Args:
        columns: The heads; the first column says what each row is.
        rows: The cells; the last column may be prose, which is wrapped between words.
        width: Of the terminal, in cells.
    """
    whole = TablePart(tuple(columns), tuple(tuple(str(cell) for cell in row) for row in rows))
    if not whole.rows or whole.width() <= width:
        return [whole]
    wrapped = _wrap_prose(whole, width)
    if wrapped is not None:
        return [wrapped]
    ways = [_cut_columns(whole, width), _cut_rows(whole, width)]
    fitting = [parts for parts in ways if all(part.width() <= width for part in parts)] or ways
    return min(fitting, key=lambda parts: sum(part.height() for part in parts))


def text_width(text: str) -> int:
    """Count the cells of a terminal that a line takes: two for East Asian wide characters, none for marks on others."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def is_number(cell: str) -> bool:
    """Say whether a cell is a number, with unit or stars, or stands for a missing one."""
    text = cell.rstrip("*").removesuffix(" MB").rstrip("%x").replace(",", "")
    try:
        float(text or "0")
    except ValueError:
        return text in {"-", "—"}
    return True


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = []
    for cell, width, at_right in zip(cells, widths, right, strict=True):
        space = " " * (width - text_width(cell))
        padded.append(space + cell if at_right else cell + space)
    return (" " * GAP).join(padded).rstrip()


def _wrap_prose(table: TablePart, width: int) -> TablePart | None:
    """Wrap the last column between words, where it is prose and enough room is left for it."""
    last = [row[-1] for row in table.rows]
    room = width - sum(table.widths()[:-1]) - GAP * (len(table.columns) - 1)
    longest_word = max(text_width(word) for cell in [*last, table.columns[-1]] for word in cell.split(" "))
    if room < max(longest_word, NARROWEST_PROSE):
        return None
    rows = tuple((*row[:-1], "\n".join(_wrap(row[-1], room))) for row in table.rows)
    wrapped = TablePart(table.columns, rows)
    return wrapped if wrapped.width() <= width else None


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def _cut_columns(table: TablePart, width: int) -> list[TablePart]:
    """Give as many columns as fit, then the next ones; the first column stands in each part."""
    first, *widths = table.widths()
    parts = []
    for start, end in _groups(widths, width - first):
        chosen = [0, *range(start + 1, end + 1)]
        rows = tuple(tuple(row[index] for index in chosen) for row in table.rows)
        part = TablePart(tuple(table.columns[index] for index in chosen), rows)
        parts.append(part if part.width() <= width else _wrap_prose(part, width) or part)
    return parts


def _cut_rows(table: TablePart, width: int) -> list[TablePart]:
    """Let rows and columns change places, as many rows at a time as fit."""
    heads, *rows = zip(*([table.columns, *table.rows]), strict=True)
    return _cut_columns(TablePart(heads, tuple(rows)), width)


def _groups(widths: Sequence[int], room: int) -> list[tuple[int, int]]:
    """Group neighbours that fit in a line, at least one a group: `(start, end)` of each."""
    groups, start, used = [], 0, 0
    for index, width in enumerate(widths):
        if index > start and used + GAP + width > room:
            groups.append((start, index))
            start, used = index, 0
        used += GAP + width
    return [*groups, (start, len(widths))]
