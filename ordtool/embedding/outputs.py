"""Vectors as bytes: rows of NPY, JSON lines, CSV, Parquet and Arrow."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from ordtool.errors import OrdtoolError
from ordtool.io import arrow
from ordtool.io.formats import RowLines
from ordtool.io.jsonl import dumps
from ordtool.io.npy import NpyWriter
from ordtool.io.resumable_folder import FolderFiles
from ordtool.io.text import Record
from ordtool.sharding.records import form_of
from ordtool.sharding.run import Form, Sink

PRECISIONS = ("float32", "float16", "int8")
FORMATS = ("npy", "jsonl", "csv", *arrow.FORMATS)
VECTOR = "vector"
# How a number is written as text: with the digits that its precision has.
_NUMBERS = {"float32": "%.9g", "float16": "%.5g", "int8": "%d"}

AnyRows = NDArray[Any]


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


def vector_bytes(
    format: str,
    records: Sequence[Record],
    rows: AnyRows,
    precision: str,
    columns: Sequence[str] | None = None,
) -> tuple[bytes, list[str] | None]:
    """Write vectors with the keys of their records, as an output has them after its beginning.

    Args:
        format: One of `FORMATS`; NPY has the rows alone.
        records: The records, `n`.
        rows: Their vectors, `(n, dim)` or, for NPY, `(n, layers, dim)`, in the dtype that is written.
        precision: One of `PRECISIONS`.
        columns: Of a CSV whose head is written already.

    Returns:
        The bytes, and a CSV's columns.

    Raises:
        OrdtoolError: For a key that is no column of the CSV, or has values of several types.
    """
    if format == "npy":
        return np.ascontiguousarray(rows).tobytes(), None
    if format in arrow.FORMATS:
        return arrow.stream_bytes(
            [fields_of(record) for record in records],
            {VECTOR: _arrow_vectors(rows)},
            records[0].where if records else "",
        ), None
    number = _NUMBERS[precision]
    if format == "jsonl":
        form = "[" + ", ".join([number] * rows.shape[1]) + "]"
        return "".join(
            _json_line(record, form % tuple(row)) for record, row in zip(records, rows.tolist(), strict=True)
        ).encode("utf-8"), None
    table = RowLines("csv", columns)
    names = [f"{VECTOR}_{column}" for column in range(rows.shape[1])]
    lines = []
    for record, row in zip(records, rows.tolist(), strict=True):
        numbers = dict(zip(names, (number % value for value in row), strict=True))
        lines += [line + "\n" for line in table.lines(fields_of(record) | numbers, record.where)]
    return "".join(lines).encode("utf-8"), table.columns or None


def _json_line(record: Record, vector: str) -> str:
    keys = dumps(fields_of(record))
    start = keys[:-1] + ", " if len(keys) > 2 else "{"
    return f'{start}"{VECTOR}": {vector}}}\n'


def _arrow_vectors(rows: AnyRows) -> Any:
    import pyarrow

    flat = pyarrow.array(np.ascontiguousarray(rows).reshape(-1))
    return pyarrow.FixedSizeListArray.from_arrays(flat, rows.shape[1])


def fields_of(record: Record) -> dict[str, Any]:
    """Return the keys that an output keeps: a JSONL line's own, or `text`; never an older vector."""
    given = record.data if record.data is not None else {"text": record.text}
    return {name: value for name, value in given.items() if name != VECTOR}


def vector_form(format: str, dim: int, precision: str, rows: int | None = None) -> Form:
    """Return what shards of vectors become.

    Args:
        format: One of `FORMATS`.
        dim: Numbers a vector.
        precision: One of `PRECISIONS`.
        rows: How many vectors there will be, if that is known.
    """
    return NpyForm(dim, precision, rows) if format == "npy" else form_of(format)


class NpyForm(Form):
    """NPY: a header before the rows, which says how many they are.

    Args:
        dim: Numbers a row.
        dtype: Of the numbers.
        rows: How many rows there will be; None: the header is mended at the end.
    """

    binary = True

    def __init__(self, dim: int, dtype: str, rows: int | None = None) -> None:
        self.spooled = rows is None
        self._shape = dim, np.dtype(dtype)
        self._rows = rows
        self._writer: NpyWriter | None = None

    def begin(self, file: BinaryIO, records: int) -> Sink:
        """See `Form`."""
        end = file.tell() if records else 0
        if records:
            file.seek(0)
        dim, dtype = self._shape
        self._writer = NpyWriter(file, dim, dtype, self._rows)
        if records:
            if file.tell() + records * dim * dtype.itemsize != end:
                raise OrdtoolError(f"{file.name}: {records:,} vectors are not in it", "`force` begins anew")
            file.seek(end)
        return file

    def end(self, file: BinaryIO, records: int) -> None:
        """See `Form`."""
        assert self._writer is not None
        self._writer.rows = records
        self._writer.close()


class LayersForm(Form):
    """A folder with an NPY file a layer.

    Args:
        layers: How many.
        dim: Numbers a row.
        dtype: Of the numbers.
    """

    binary = True

    def __init__(self, layers: int, dim: int, dtype: str) -> None:
        self._names = [f"layer-{layer:02d}.npy" for layer in range(layers)]
        self._shape = (-1, layers, dim)
        self._dtype = np.dtype(dtype)
        self._writers: list[NpyWriter] = []
        self._rest = b""

    def begin(self, file: BinaryIO, records: int) -> Sink:
        """See `Form`; the file is a `FolderFiles`."""
        for name in self._names:
            one = cast(FolderFiles, file).open(name)
            size = one.seek(0, os.SEEK_END)
            one.seek(0)
            self._writers.append(NpyWriter(one, self._shape[2], self._dtype))
            end = one.tell() + records * self._shape[2] * self._dtype.itemsize
            if records and size < end:
                raise OrdtoolError(f"{one.name}: {records:,} vectors are not in it", "`force` begins anew")
            # What stands behind was written after the records that are known of.
            one.truncate(end)
            one.seek(end)
        return self

    def write(self, data: bytes) -> None:
        """Part the rows of all layers."""
        data = self._rest + data
        whole = len(data) - len(data) % (self._shape[1] * self._shape[2] * self._dtype.itemsize)
        rows = np.frombuffer(data[:whole], self._dtype).reshape(self._shape)
        self._rest = data[whole:]
        for layer, writer in enumerate(self._writers):
            writer.write(rows[:, layer])

    def end(self, file: BinaryIO, records: int) -> None:
        """See `Form`."""
        for writer in self._writers:
            writer.rows = records
            writer.close()
