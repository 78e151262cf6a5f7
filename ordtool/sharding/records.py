"""Records in and out of shards: texts from files, and objects as JSON lines, rows of CSV, Parquet or Arrow."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from ordtool.errors import OnError, OrdtoolError
from ordtool.io import arrow
from ordtool.io.conllu import holds_conllu
from ordtool.io.formats import RowLines
from ordtool.io.inputs import Input, separator_of
from ordtool.io.jsonl import holds_jsonl
from ordtool.io.npy import holds_npy
from ordtool.io.text import Format, Record, records_of
from ordtool.sharding.run import Form
from ordtool.sharding.work import Computed

FORMATS = ("jsonl", "csv", *arrow.FORMATS)
ENDINGS = (".txt", ".text", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".tab", ".conllu", *arrow.SUFFIXES)
"""Which files of a folder are inputs."""


class RecordReader:
    """Reads texts, as `ordtool.io.text.read_records` does.

    Args:
        field: The key or column of the text; None: records are read whole.
    """

    def __init__(self, field: str | None) -> None:
        self._field = field

    def kind_of(self, stream: Input) -> str | None:
        """See `Reader`."""
        return line_kind(stream)

    def read(self, stream: Input, kind: str | None, on_error: OnError | None) -> Iterator[Record]:
        """See `Reader`."""
        format: Format = "auto" if kind is None else "jsonl" if kind == "jsonl" else "text"
        return records_of(stream, self._field, format=format, on_error=on_error)

    def weigh(self, record: Record) -> int:
        """See `Reader`."""
        return len(record.text)


def line_kind(stream: Input) -> str | None:
    """Return `text` or `jsonl` where each line of an input stands for itself, None for all else."""
    if stream.packed or separator_of(stream.path) is not None:
        return None
    if arrow.holds_arrow(stream) or holds_npy(stream) or holds_conllu(stream) or stream.holds_array():
        return None
    return "jsonl" if holds_jsonl(stream) else "text"


Row = tuple[Mapping[str, Any], str]
"""A record, with the `file:line` that it is about."""


def write_rows(
    rows: Iterable[Row], format: str, settled: Any, pairs: Sequence[Any] = ()
) -> Iterator[Computed]:
    """Write the records of a batch; what is wrong with one is raised after those before it were given.

    Args:
        rows: The records; getting one may raise.
        format: One of `FORMATS`.
        settled: The columns of a CSV whose head stands in an earlier shard.
        pairs: See `Computed`.

    Raises:
        OrdtoolError: Of a record, for a key that is no column, or values of several types.
    """
    given: list[Row] = []
    written = bytearray()
    lines = None if format in arrow.FORMATS else RowLines(format, settled)
    failure: OrdtoolError | None = None
    try:
        for row, where in rows:
            if lines is not None:
                written += "".join(line + "\n" for line in lines.lines(row, where)).encode("utf-8")
            given.append((row, where) if lines is None else ({}, ""))
    except OrdtoolError as error:
        failure = error
    if given and lines is None:
        written += arrow.stream_bytes([row for row, _ in given], where=given[0][1])
    columns = None if lines is None else lines.columns or None
    yield Computed(bytes(written), len(given), settled=columns, pairs=list(pairs))
    if failure is not None:
        raise failure


def form_of(format: str) -> Form:
    """Return what shards of records become."""
    return Table(format) if format in arrow.FORMATS else Lines(format == "csv")


class Lines(Form):
    """Lines; of a table, the first shard settles the columns."""

    def __init__(self, settles: bool) -> None:
        self.settles = settles


class Table(Form):
    """Parquet or Arrow: pieces of an Arrow stream, which become one table.

    Args:
        format: `parquet` or `arrow`.
    """

    binary = True
    converts = True

    def __init__(self, format: str) -> None:
        self._format = format

    def convert(self, file: BinaryIO, target: BinaryIO) -> None:
        """See `Form`."""
        arrow.write_table(file, target, self._format)


class Figures(Form):
    """What is worked out from the joined bytes of all shards, such as scores.

    Args:
        write: Takes a file with the bytes, at its beginning, and the output.
        binary: The output is no text.
    """

    converts = True

    def __init__(self, write: Callable[[BinaryIO, BinaryIO], None], *, binary: bool = False) -> None:
        self._write = write
        self.binary = binary

    def convert(self, file: BinaryIO, target: BinaryIO) -> None:
        """See `Form`."""
        self._write(file, target)


def write_all(rows: Iterable[Mapping[str, Any]], format: str, target: BinaryIO) -> None:
    """Write a few records that are at hand, as one of `FORMATS`."""
    for found in write_rows(((row, "") for row in rows), format, None):
        if format in arrow.FORMATS:
            arrow.write_table(io.BytesIO(found.data), target, format)
        else:
            target.write(found.data)
