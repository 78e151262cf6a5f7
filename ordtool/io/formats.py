"""Formats of outputs: which one a file's name asks for, and records as lines of JSON or rows of CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ordtool.errors import OrdtoolError, UsageError, close_match_hint
from ordtool.io.jsonl import dumps
from ordtool.io.streams import is_stream

SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "npy": (".npy",),
    "jsonl": (".jsonl", ".ndjson", ".json"),
    "csv": (".csv",),
    "parquet": (".parquet",),
    "arrow": (".arrow", ".feather"),
    "safetensors": (".safetensors",),
    "svg": (".svg",),
    "html": (".html", ".htm"),
    "brackets": (".brackets",),
    "penn": (".mrg", ".ptb", ".penn", ".tree"),
}
"""What names of files end in, by format."""


def output_format(path: str | Path | None, formats: Sequence[str], asked: str | None = None) -> str:
    """Decide what is written, before any work.

    Args:
        path: The output; None or `-` is stdout.
        formats: What the command can write; the first is what stdout, a pipe and a name without a suffix get.
        asked: The format that was named; it is written under any name.

    Returns:
        One of `formats`.

    Raises:
        UsageError: If `asked`, or the suffix of the name, is none of them.
    """
    if asked is not None:
        if asked not in formats:
            raise UsageError(f"unknown format {asked!r}", close_match_hint(asked, formats))
        return asked
    suffix = "" if path is None or is_stream(path) else Path(path).suffix.lower()
    if not suffix:
        return formats[0]
    for name in formats:
        if suffix in SUFFIXES.get(name, ()):
            return name
    known = [ending for name in formats for ending in SUFFIXES.get(name, ())]
    raise UsageError(f"{path}: a {suffix} file isn't written here", "choices: " + ", ".join(known))


class RowLines:
    """Records as lines of text: a JSON object each, or a CSV table whose columns the first record settles.

    In a table, lists and objects are written as JSON, and null as an empty cell.

    Args:
        format: `jsonl` or `csv`.
        columns: Of a table whose beginning is written already; None or empty: the first record settles them.

    Attributes:
        columns: Those of the table, once they are settled.

    Raises:
        UsageError: For another format.
    """

    def __init__(self, format: str, columns: Sequence[str] | None = None) -> None:
        if format not in ("jsonl", "csv"):
            raise UsageError(f"unknown format {format!r}", "choices: csv, jsonl")
        self._table = format == "csv"
        self.columns = list(columns or [])

    def lines(self, record: Mapping[str, Any], where: str = "") -> Iterator[str]:
        """Yield a record's line without its line feed, after that of the columns before the first.

        Args:
            record: What to write.
            where: `file:line` of the input that it is about, for the message.

        Raises:
            OrdtoolError: If the record has a key that the table's first one had not.
        """
        if not self._table:
            yield dumps(record)
            return
        if not self.columns:
            self.columns = list(record)
            yield csv_line(self.columns)
        if new := [name for name in record if name not in self.columns]:
            place = f"{where}: " if where else ""
            raise OrdtoolError(
                f"{place}the key {new[0]!r} is new, and a table's columns are settled by its first record",
                "write JSON lines: -o out.jsonl",
            )
        yield csv_line([record.get(name) for name in self.columns])


def csv_line(cells: Sequence[Any]) -> str:
    """Write a row of CSV without its line feed: text as it is, null as nothing, all else as JSON.

    >>> csv_line(["a, b", None, 0.5, [1, 2]])
    '"a, b",,0.5,"[1, 2]"'
    """
    out = io.StringIO()
    writer = csv.writer(out)  # without its line end, a lone carriage return would not be quoted
    texts = [cell if isinstance(cell, str) else dumps(cell) for cell in cells]
    writer.writerow(
        ["" if text == "null" and text is not cell else text for text, cell in zip(texts, cells, strict=True)]
    )
    return out.getvalue().removesuffix("\r\n")
