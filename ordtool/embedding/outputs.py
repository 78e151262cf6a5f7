"""Where vectors go: NPY, JSON lines, CSV, Parquet, or a folder of NPY files, one a layer."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TextIO

import numpy as np
from numpy.typing import NDArray

from ordtool.errors import OrdtoolError
from ordtool.io.atomic import atomic_directory, atomic_output, temporary_file
from ordtool.io.formats import RowLines
from ordtool.io.jsonl import dumps
from ordtool.io.npy import NpyWriter
from ordtool.io.resumable import Lines, resumable_lines
from ordtool.io.streams import is_stream, refuse_resume
from ordtool.io.text import Record

PRECISIONS = ("float32", "float16", "int8")
FORMATS = ("npy", "jsonl", "csv", "parquet")
VECTOR = "vector"

AnyRows = NDArray[Any]


class EarlierRows(Protocol):
    """Rows that an interrupted run wrote."""

    def read(self, count: int) -> NDArray[np.float32]:
        """Return the next `count` of them, `(count, dim)`."""


class Output(Protocol):
    """Takes rows in the order of the records.

    Attributes:
        done: Records whose rows an interrupted run has written.
        earlier: Those rows; None where there are none.
    """

    done: int
    earlier: EarlierRows | None

    def write(self, records: Sequence[Record], rows: AnyRows, done: int) -> None:
        """Write the rows of some records; `done` records of the input are now done."""


@dataclass(frozen=True, slots=True)
class OutputConfig:
    """Where vectors go.

    Attributes:
        path: The file or folder; None or `-` is stdout.
        format: One of `FORMATS`.
        dim: Numbers a vector.
        precision: One of `PRECISIONS`; see `to_precision`.
        layers: Vectors a text, each to a file of its own in a folder; 0: one, no folder.
        rows: How many there will be, if known.
        inputs: Input files that a resumed run must find unchanged.
        settings: What else must be the same.
        resume: Go on from an interrupted run.
        force: Replace an existing output.
    """

    path: Path | None
    format: str
    dim: int
    precision: str = "float32"
    layers: int = 0
    rows: int | None = None
    inputs: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    resume: bool = False
    force: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the numbers that are written."""
        return np.dtype(self.precision)

    @property
    def number(self) -> str:
        """How a number is written as text: with the digits that its precision has."""
        return {"int8": "%d", "float16": "%.5g"}.get(self.precision, "%.9g")


def to_precision(rows: NDArray[np.float32], precision: str) -> AnyRows:
    """Return rows in the dtype that is written.

    Args:
        rows: `(n, dim)`.
        precision: `float32`, `float16`, or `int8`: each row is divided by its largest
            magnitude, times 127, rounded; its direction is kept, its length is not.

    Returns:
        The rows; int8 ones keep cosine similarities to about 1e-4.

    Raises:
        OrdtoolError: If a number is beyond float16.
    """
    if precision == "int8":
        largest = np.abs(rows).max(axis=-1, keepdims=True, initial=0)
        scaled = np.divide(127 * rows, largest, out=np.zeros_like(rows), where=largest > 0)
        return np.rint(scaled).astype(np.int8)
    if precision == "float16":
        with np.errstate(over="ignore"):
            narrow = rows.astype(np.float16)
        if not np.isfinite(narrow).all():
            raise OrdtoolError(
                f"a vector has {np.abs(rows).max():.3g}, beyond float16, which ends at 65504",
                "use `precision` float32, or `normalize`",
            )
        return narrow
    return rows


@contextmanager
def open_output(config: OutputConfig) -> Iterator[Output]:
    """Open an output; it appears under its name only when the block ends well.

    Yields:
        What takes the rows.

    Raises:
        OrdtoolError: If it can't be written, or can't be resumed.
    """
    path = config.path
    if config.resume:
        refuse_resume(path)
    if config.layers and path is not None:
        with atomic_directory(path, force=config.force) as folder:
            yield from _layer_files(folder, config)
    elif config.format == "parquet":
        with atomic_output(path, force=config.force, binary=True) as file:
            table = _Parquet(file, config)
            yield table
            table.close()
    elif config.format == "npy" and is_stream(path):
        with atomic_output(path, binary=True) as file:
            yield from _npy_to_pipe(file, config)
    else:
        with resumable_lines(
            path,
            inputs=config.inputs,
            settings=dict(config.settings),
            resume=config.resume,
            force=config.force,
        ) as lines:
            yield from _resumable(lines, config)


def _resumable(lines: Lines, config: OutputConfig) -> Iterator[Output]:
    if config.format == "npy":
        npy = _Npy(lines, config)
        yield npy
        npy.writer.close()
        return
    kind = _JsonLines if config.format == "jsonl" else _CsvTable
    if not lines.done:
        yield kind(lines, config)
        return
    with open(lines.file.name, encoding="utf-8", newline="\n") as begun:
        yield kind(lines, config, begun)


class _Npy:
    """One NPY file, with a journal of how far it is."""

    def __init__(self, lines: Lines, config: OutputConfig) -> None:
        self.done = lines.done
        self.earlier: EarlierRows | None = None
        self._lines = lines
        end = lines.file.tell()
        if self.done:
            lines.file.seek(0)
        self.writer = NpyWriter(lines.file, config.dim, config.dtype)
        if self.done:
            start = lines.file.tell()
            if start + self.done * config.dim * config.dtype.itemsize != end:
                raise OrdtoolError(
                    f"{lines.file.name}: {self.done:,} vectors are not in it", "`force` begins anew"
                )
            shape = (self.done, config.dim)
            self.earlier = _EarlierNpy(
                np.memmap(lines.file.name, dtype=config.dtype, mode="r", offset=start, shape=shape)
            )
            lines.file.seek(end)
            self.writer.rows = self.done

    def write(self, records: Sequence[Record], rows: AnyRows, done: int) -> None:
        self.writer.write(rows)
        self._lines.save(done)


class _EarlierNpy:
    def __init__(self, rows: AnyRows) -> None:
        self._rows = rows
        self._read = 0

    def read(self, count: int) -> NDArray[np.float32]:
        rows = np.asarray(self._rows[self._read : self._read + count], dtype=np.float32)
        self._read += count
        return rows


class NpyRows:
    """NPY whose rows are written once, without a journal: to a pipe, or to a temporary file."""

    done = 0
    earlier: EarlierRows | None = None

    def __init__(self, writer: NpyWriter) -> None:
        self.writer = writer

    def write(self, records: Sequence[Record], rows: AnyRows, done: int) -> None:
        """See `Output`."""
        self.writer.write(rows)


def _npy_to_pipe(file: BinaryIO, config: OutputConfig) -> Iterator[Output]:
    """Write at once where the number of rows is known; else wait in a temporary file, as the header comes first."""
    if config.rows is not None:
        writer = NpyWriter(file, config.dim, config.dtype, rows=config.rows)
        yield NpyRows(writer)
        writer.close()
        return
    with temporary_file(None) as spool:
        writer = NpyWriter(spool, config.dim, config.dtype)
        yield NpyRows(writer)
        writer.close()
        spool.seek(0)
        shutil.copyfileobj(spool, file, 1 << 20)


class _JsonLines:
    """The input's keys and the vector, a JSON object a line."""

    def __init__(self, lines: Lines, config: OutputConfig, begun: TextIO | None = None) -> None:
        self.done = lines.done
        self.earlier: EarlierRows | None = (
            None if begun is None else _EarlierLines(begun, lambda line: json.loads(line)[VECTOR])
        )
        self._lines = lines
        self._format = "[" + ", ".join([config.number] * config.dim) + "]"

    def write(self, records: Sequence[Record], rows: AnyRows, done: int) -> None:
        for record, row in zip(records, rows.tolist(), strict=True):
            keys = dumps(fields_of(record))
            start = keys[:-1] + ", " if len(keys) > 2 else "{"
            self._lines.write(f'{start}"{VECTOR}": {self._format % tuple(row)}}}')
        self._lines.save(done)


class _CsvTable:
    """The input's keys, then the numbers of the vector, a column each: `vector_0`, `vector_1`, ..."""

    def __init__(self, lines: Lines, config: OutputConfig, begun: TextIO | None = None) -> None:
        self.done = lines.done
        self.earlier: EarlierRows | None = None
        self._lines = lines
        self._table = RowLines("csv", lines.file.name if begun else None)
        self._names = [f"{VECTOR}_{column}" for column in range(config.dim)]
        self._number = config.number
        if begun is not None:
            rows = csv.reader(begun)
            next(rows, None)
            self.earlier = _EarlierLines(rows, lambda row: [float(cell) for cell in row[-config.dim :]])

    def write(self, records: Sequence[Record], rows: AnyRows, done: int) -> None:
        for record, row in zip(records, rows.tolist(), strict=True):
            numbers = dict(zip(self._names, (self._number % value for value in row), strict=True))
            for line in self._table.lines(fields_of(record) | numbers, record.where):
                self._lines.write(line)
        self._lines.save(done)


class _EarlierLines:
    """Vectors read back from the lines of a text file."""

    def __init__(self, lines: Iterator[Any], vector_of: Callable[[Any], list[float]]) -> None:
        self._lines = lines
        self._vector_of = vector_of

    def read(self, count: int) -> NDArray[np.float32]:
        try:
            return np.array([self._vector_of(next(self._lines)) for _ in range(count)], dtype=np.float32)
        except (ValueError, KeyError, TypeError, StopIteration, csv.Error):
            raise OrdtoolError(
                "the interrupted output is damaged: a line holds no vector", "`force` begins anew"
            ) from None


def fields_of(record: Record) -> dict[str, Any]:
    """Return the keys that an output keeps: a JSONL line's own, or `text`; never an older vector."""
    given = record.data if record.data is not None else {"text": record.text}
    return {name: value for name, value in given.items() if name != VECTOR}


class _Parquet:
    """A table of the input's keys and the vector; the first records settle the columns' types."""

    done = 0
    earlier: EarlierRows | None = None

    def __init__(self, file: BinaryIO, config: OutputConfig) -> None:
        import pyarrow

        types = {"float32": pyarrow.float32(), "float16": pyarrow.float16(), "int8": pyarrow.int8()}
        self._file = file
        self._dim = config.dim
        self._type = types[config.precision]
        self._schema: Any = None
        self._writer: Any = None

    def write(self, records: Sequence[Record], rows: AnyRows, done: int) -> None:
        import pyarrow
        import pyarrow.parquet

        fields = [fields_of(record) for record in records]
        if self._schema is None:
            names = list(dict.fromkeys(name for row in fields for name in row))
            columns = [[row.get(name) for row in fields] for name in names]
            self._schema = _columns(names, columns, records)
        table = self._table(fields, records)
        flat = pyarrow.array(np.ascontiguousarray(rows).reshape(-1), type=self._type)
        vectors = pyarrow.FixedSizeListArray.from_arrays(flat, self._dim)
        table = table.append_column(VECTOR, vectors)
        if self._writer is None:
            self._writer = pyarrow.parquet.ParquetWriter(self._file, table.schema)
        self._writer.write_table(table)

    def _table(self, fields: list[dict[str, Any]], records: Sequence[Record]) -> Any:
        import pyarrow

        for row, record in zip(fields, records, strict=True):
            if new := row.keys() - set(self._schema.names):
                raise OrdtoolError(
                    f"{record.where}: the key {sorted(new)[0]!r} is new, and a Parquet file's columns are settled by its "
                    "first records",
                    "write JSON lines: -o out.jsonl",
                )
        try:
            return pyarrow.Table.from_pylist(fields, schema=self._schema)
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
            raise _mixed_types(records, error) from None

    def close(self) -> None:
        """Write the footer; an empty input gives an empty table."""
        import pyarrow
        import pyarrow.parquet

        if self._writer is None:
            schema = pyarrow.schema(
                [("text", pyarrow.string()), (VECTOR, pyarrow.list_(self._type, self._dim))]
            )
            self._writer = pyarrow.parquet.ParquetWriter(self._file, schema)
        self._writer.close()


def _columns(names: list[str], columns: list[list[Any]], records: Sequence[Record]) -> Any:
    """Settle the types of the columns by the first records."""
    import pyarrow

    try:
        arrays = [pyarrow.array(column) for column in columns]
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
        raise _mixed_types(records, error) from None
    # A column that is null so far may hold anything later; text is the likeliest.
    types = [pyarrow.string() if pyarrow.types.is_null(array.type) else array.type for array in arrays]
    return pyarrow.schema(list(zip(names, types, strict=True)))


def _mixed_types(records: Sequence[Record], error: Exception) -> OrdtoolError:
    reason = " ".join(str(error).split())[:160]
    return OrdtoolError(
        f"{records[0].where} and after: a key has values of several types, which Parquet doesn't hold ({reason})",
        "write JSON lines: -o out.jsonl",
    )


class _LayerFiles:
    """One NPY file a layer."""

    done = 0
    earlier: EarlierRows | None = None

    def __init__(self, writers: list[NpyWriter]) -> None:
        self._writers = writers

    def write(self, records: Sequence[Record], rows: AnyRows, done: int) -> None:
        for layer, writer in enumerate(self._writers):
            writer.write(rows[:, layer])


def _layer_files(folder: Path, config: OutputConfig) -> Iterator[Output]:
    files = [open(folder / f"layer-{layer:02d}.npy", "wb") for layer in range(config.layers)]  # noqa: SIM115
    try:
        writers = [NpyWriter(file, config.dim, config.dtype) for file in files]
        yield _LayerFiles(writers)
        for writer in writers:
            writer.close()
    finally:
        for file in files:
            file.close()
