"""Where vectors go: NPY, JSON lines, Parquet, or a folder of NPY files, one a layer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from ordtool.errors import OrdtoolError
from ordtool.io.atomic import atomic_directory, atomic_output, temporary_file
from ordtool.io.jsonl import dumps
from ordtool.io.npy import NpyWriter
from ordtool.io.resumable import Lines, resumable_lines
from ordtool.io.streams import is_stream, refuse_resume
from ordtool.io.text import Record

PRECISIONS = ("float32", "float16", "int8")
FORMATS = ("npy", "jsonl", "parquet")
VECTOR = "vector"

AnyRows = NDArray[Any]


class Output(Protocol):
    """Takes rows in the order of the records.

    Attributes:
        done: Records whose rows an interrupted run has written; they are read back.
    """

    done: int

    def read_back(self, count: int) -> NDArray[np.float32]:
        """Give the next `count` rows of the interrupted run."""

    def write(self, records: Sequence[Record], rows: AnyRows, done: int) -> None:
        """Write the rows of some records; `done` records of the input are now done."""


def to_precision(rows: NDArray[np.float32], precision: str) -> AnyRows:
    """Give rows in the dtype that is written.

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
                "use --precision float32, or --normalize",
            )
        return narrow
    return rows


@contextmanager
def open_output(
    path: Path | None,
    form: str,
    *,
    dim: int,
    precision: str,
    layers: int = 0,
    rows: int | None = None,
    inputs: Sequence[str] = (),
    settings: dict[str, Any] | None = None,
    resume: bool = False,
    force: bool = False,
) -> Iterator[Output]:
    """Open an output; it appears under its name only when the block ends well.

    Args:
        path: The file or folder; None or `-` is stdout.
        form: `npy`, `jsonl` or `parquet`.
        dim: Numbers a vector.
        precision: As in `to_precision`.
        layers: Vectors a text, each to a file of its own in a folder; 0: one, no folder.
        rows: How many there will be, if known.
        inputs: Input files that a resumed run must find unchanged.
        settings: What else must be the same.
        resume: Go on from an interrupted run.
        force: Replace an existing output.

    Yields:
        What takes the rows.

    Raises:
        OrdtoolError: If it can't be written, or can't be resumed.
    """
    dtype = np.dtype(precision)
    if resume:
        refuse_resume(path)
    if layers and path is not None:
        with atomic_directory(path, force=force) as folder:
            yield from _layer_files(folder, layers, dim, dtype)
    elif form == "parquet":
        with atomic_output(path, force=force, binary=True) as file:
            table = _Parquet(file, dim, precision)
            yield table
            table.close()
    elif form == "npy" and is_stream(path):
        with atomic_output(path, binary=True) as file:
            yield from _npy_to_pipe(file, dim, dtype, rows)
    else:
        with resumable_lines(
            path, inputs=inputs, settings=settings or {}, resume=resume, force=force
        ) as lines:
            if form == "jsonl":
                with closing(_JsonLines(lines, dim, precision)) as json_lines:
                    yield json_lines
            else:
                npy = _Npy(lines, dim, dtype)
                yield npy
                npy.writer.close()


class _Npy:
    """One NPY file, with a journal of how far it is."""

    def __init__(self, lines: Lines, dim: int, dtype: np.dtype[Any]) -> None:
        self.done = lines.done
        self._lines = lines
        end = lines.file.tell()
        if self.done:
            lines.file.seek(0)
        self.writer = NpyWriter(lines.file, dim, dtype)
        self._read = 0
        if self.done:
            shape = (self.done, dim)
            start = lines.file.tell()
            if start + self.done * dim * dtype.itemsize != end:
                raise OrdtoolError(
                    f"{lines.file.name}: {self.done:,} vectors are not in it", "--force begins anew"
                )
            self._old = np.memmap(lines.file.name, dtype=dtype, mode="r", offset=start, shape=shape)
            lines.file.seek(end)
            self.writer.rows = self.done

    def read_back(self, count: int) -> NDArray[np.float32]:
        rows = np.asarray(self._old[self._read : self._read + count], dtype=np.float32)
        self._read += count
        return rows

    def write(self, records: Sequence[Record], rows: AnyRows, done: int) -> None:
        self.writer.write(rows)
        self._lines.save(done)


class _PipedNpy:
    """NPY to a pipe."""

    done = 0

    def __init__(self, writer: NpyWriter) -> None:
        self.writer = writer

    def read_back(self, count: int) -> NDArray[np.float32]:
        raise NotImplementedError

    def write(self, records: Sequence[Record], rows: AnyRows, done: int) -> None:
        self.writer.write(rows)


def _npy_to_pipe(file: BinaryIO, dim: int, dtype: np.dtype[Any], rows: int | None) -> Iterator[Output]:
    """Write at once where the number of rows is known; else wait in a temporary file, as the header comes first."""
    if rows is not None:
        writer = NpyWriter(file, dim, dtype, rows=rows)
        yield _PipedNpy(writer)
        writer.close()
        return
    with temporary_file(None) as spool:
        writer = NpyWriter(spool, dim, dtype)
        yield _PipedNpy(writer)
        writer.close()
        spool.seek(0)
        shutil.copyfileobj(spool, file, 1 << 20)


class _JsonLines:
    """The input's keys and the vector, a JSON object a line."""

    def __init__(self, lines: Lines, dim: int, precision: str) -> None:
        self.done = lines.done
        self._lines = lines
        number = "%d" if precision == "int8" else "%.5g" if precision == "float16" else "%.9g"
        self._format = "[" + ", ".join([number] * dim) + "]"
        self._old = open(lines.file.name, "rb") if self.done else None  # noqa: SIM115

    def read_back(self, count: int) -> NDArray[np.float32]:
        assert self._old is not None
        try:
            rows = [json.loads(self._old.readline())[VECTOR] for _ in range(count)]
            return np.array(rows, dtype=np.float32)
        except (ValueError, KeyError, TypeError):
            raise OrdtoolError(
                f"{self._old.name}: damaged: a line holds no vector", "--force begins anew"
            ) from None

    def write(self, records: Sequence[Record], rows: AnyRows, done: int) -> None:
        for record, row in zip(records, rows.tolist(), strict=True):
            keys = dumps(fields_of(record))
            start = keys[:-1] + ", " if len(keys) > 2 else "{"
            self._lines.write(f'{start}"{VECTOR}": {self._format % tuple(row)}}}')
        self._lines.save(done)

    def close(self) -> None:
        if self._old is not None:
            self._old.close()


def fields_of(record: Record) -> dict[str, Any]:
    """Give the keys that an output keeps: a JSONL line's own, or `text`; never an older vector."""
    given = record.data if record.data is not None else {"text": record.text}
    return {name: value for name, value in given.items() if name != VECTOR}


class _Parquet:
    """A table of the input's keys and the vector; the first records settle the columns' types."""

    done = 0

    def __init__(self, file: BinaryIO, dim: int, precision: str) -> None:
        import pyarrow

        types = {"float32": pyarrow.float32(), "float16": pyarrow.float16(), "int8": pyarrow.int8()}
        self._file = file
        self._dim = dim
        self._type = types[precision]
        self._schema: Any = None
        self._writer: Any = None

    def read_back(self, count: int) -> NDArray[np.float32]:
        raise NotImplementedError

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

    def __init__(self, writers: list[NpyWriter]) -> None:
        self._writers = writers

    def read_back(self, count: int) -> NDArray[np.float32]:
        raise NotImplementedError

    def write(self, records: Sequence[Record], rows: AnyRows, done: int) -> None:
        for layer, writer in enumerate(self._writers):
            writer.write(rows[:, layer])


def _layer_files(folder: Path, layers: int, dim: int, dtype: np.dtype[Any]) -> Iterator[Output]:
    files = [open(folder / f"layer-{layer:02d}.npy", "wb") for layer in range(layers)]  # noqa: SIM115
    try:
        writers = [NpyWriter(file, dim, dtype) for file in files]
        yield _LayerFiles(writers)
        for writer in writers:
            writer.close()
    finally:
        for file in files:
            file.close()
