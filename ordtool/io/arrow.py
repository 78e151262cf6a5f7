"""Parquet and Arrow in and out: rows as records, and records as the rows of a table; the extra `parquet` brings pyarrow.

Read are Parquet files, Arrow files and streams, and the folders that the package `datasets` saves. Written are pieces of an
Arrow stream, which can stand one behind the other while a run goes on; at its end they become one table, whose columns
are those that any record has, in types that hold all values.
"""

from __future__ import annotations

import datetime
import decimal
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ordtool.errors import OrdtoolError
from ordtool.io.inputs import Input, data_suffix, read_pieces
from ordtool.runtime import require

FORMATS = ("parquet", "arrow")
SUFFIXES = (".parquet", ".arrow", ".feather")
_PARQUET, _FILE, _STREAM = b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"
_DATASET = ("dataset_info.json", "state.json")
_SPLITS = "dataset_dict.json"
_BATCH_ROWS = 1024
# Rows of a group of a Parquet file, and of a batch of an Arrow file.
_GROUP_ROWS = 1 << 16


def holds_arrow(stream: Input) -> bool:
    """Whether an input, of which nothing was read yet, is Parquet or Arrow: by its name, or by its first bytes."""
    return data_suffix(stream.path) in SUFFIXES or any(
        stream.starts_with(magic) for magic in (_PARQUET, _FILE, _STREAM)
    )


def arrow_rows(stream: Input) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of a table, numbered from 1, in values that JSON has.

    Raises:
        OrdtoolError: If pyarrow is missing, or the table is damaged.
    """
    require("pyarrow", "parquet")
    import pyarrow

    number = 0
    try:
        for batch in _batches(stream):
            for row in batch.to_pylist():
                number += 1
                yield number, {name: _plain(value, stream.source, number) for name, value in row.items()}
    except pyarrow.ArrowException as error:
        reason = " ".join(str(error).split())[:160]
        raise OrdtoolError(f"{stream.source}: damaged, or no table: {reason}", "write it again") from None


def _batches(stream: Input) -> Iterator[Any]:

    if stream.once or stream.packed:
        from ordtool.io.atomic import temporary_file

        with temporary_file(None) as spool:
            for piece in read_pieces(stream, stream.source):
                spool.write(piece)
            spool.seek(0)
            yield from _batches_of(spool)
        return
    with open(stream.path, "rb") as file:
        yield from _batches_of(file)


def _batches_of(file: BinaryIO) -> Iterator[Any]:
    import pyarrow.parquet

    magic = file.read(len(_FILE))
    file.seek(0)
    if magic.startswith(_PARQUET):
        with pyarrow.parquet.ParquetFile(file) as table:
            yield from table.iter_batches(_BATCH_ROWS)
        return
    if magic == _FILE:
        with pyarrow.ipc.open_file(file) as reader:
            for number in range(reader.num_record_batches):
                yield from _sliced(reader.get_batch(number))
        return
    with pyarrow.ipc.open_stream(file) as stream:
        for batch in stream:
            yield from _sliced(batch)


def _sliced(batch: Any) -> Iterator[Any]:
    for start in range(0, batch.num_rows, _BATCH_ROWS):
        yield batch.slice(start, _BATCH_ROWS)


def _plain(value: Any, source: str, number: int) -> Any:
    """Return a value as JSON has it: times as ISO 8601 writes them, decimals as text, null for bytes that are no text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {str(name): _plain(one, source, number) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one, source, number) for one in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal):
        return str(value)
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return None  # a picture, perhaps
    raise OrdtoolError(f"{source}:{number}: a {type(value).__name__} is no value of a record")


def dataset_files(folder: str | Path) -> list[str]:
    """List the Arrow files of a folder that the package `datasets` saved, in order; none of another folder.

    Raises:
        OrdtoolError: If it holds several splits, of which one must be named, or no file.
    """
    folder = Path(folder)
    if (folder / _SPLITS).is_file():
        names = sorted(path.name for path in folder.iterdir() if (path / _DATASET[0]).is_file())
        raise OrdtoolError(f"{folder}: holds several parts of a dataset", f"name one: {', '.join(names)}")
    if not any((folder / name).is_file() for name in _DATASET):
        return []
    try:
        state = json.loads((folder / _DATASET[1]).read_text(encoding="utf-8"))
        names = [Path(str(one["filename"])).name for one in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError):
        names = sorted(path.name for path in folder.glob("*.arrow"))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise OrdtoolError(f"{folder}: the dataset's file {missing[0] if missing else '*.arrow'} is missing")
    return [str(folder / name) for name in names]


def stream_bytes(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Any] | None = None, where: str = ""
) -> bytes:
    """Write records as a piece of an Arrow stream.

    Args:
        rows: Records; a key that some don't have is null in them.
        columns: Columns that stand behind theirs, as pyarrow's arrays.
        where: `file:line` of the first record, for messages.

    Raises:
        OrdtoolError: If a key has values of several kinds.
    """
    import pyarrow

    names = list(dict.fromkeys(name for row in rows for name in row))
    arrays = []
    for name in names:
        try:
            arrays.append(pyarrow.array([row.get(name) for row in rows]))
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OverflowError) as error:
            raise _mixed_types(where, name, error) from None
    for name, array in (columns or {}).items():
        names.append(name)
        arrays.append(array)
    sink = pyarrow.BufferOutputStream()
    table = pyarrow.table(arrays, names=names)
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def write_table(file: BinaryIO, target: BinaryIO, format: str) -> None:
    """Write pieces of an Arrow stream as one table.

    Args:
        file: The pieces, one behind the other, from its position on.
        target: Where the table goes.
        format: `parquet` or `arrow`.

    Raises:
        OrdtoolError: If a key has values of several kinds.
    """
    import pyarrow
    import pyarrow.parquet

    start = file.tell()
    schema = pyarrow.schema([])
    for table in _tables(file):
        try:
            schema = pyarrow.unify_schemas([schema, table.schema], promote_options="permissive")
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
            raise _mixed_types("", None, error) from None
    schema = pyarrow.schema([(field.name, _known_type(field.type)) for field in schema])
    file.seek(start)
    if format == "parquet":
        with pyarrow.parquet.ParquetWriter(target, schema) as writer:
            _regroup(file, schema, writer.write_table)
        return
    with pyarrow.ipc.new_file(target, schema) as arrow:
        _regroup(file, schema, arrow.write_table)


def _regroup(file: BinaryIO, schema: Any, write: Callable[[Any], None]) -> None:
    """Write rows in groups of a size of their own, whatever pieces they come in."""
    import pyarrow

    empty = schema.empty_table()
    held: list[Any] = []
    count = 0
    for table in _tables(file):
        held.append(pyarrow.concat_tables([empty, table], promote_options="permissive"))
        count += table.num_rows
        if count >= _GROUP_ROWS:
            whole = pyarrow.concat_tables(held).combine_chunks()
            for start in range(0, count - count % _GROUP_ROWS, _GROUP_ROWS):
                write(whole.slice(start, _GROUP_ROWS))
            held = [whole.slice(count - count % _GROUP_ROWS)]
            count %= _GROUP_ROWS
    if count:
        write(pyarrow.concat_tables(held).combine_chunks())


def _tables(file: BinaryIO) -> Iterator[Any]:
    import pyarrow

    while file.read(1):
        file.seek(-1, 1)
        with pyarrow.ipc.open_stream(file) as reader:
            table = reader.read_all()
        yield table


def _known_type(found: Any) -> Any:
    """Take text for what is null in all records, and in lists that are all empty."""
    import pyarrow

    if pyarrow.types.is_null(found):
        return pyarrow.string()
    if pyarrow.types.is_list(found):
        return pyarrow.list_(_known_type(found.value_type))
    if pyarrow.types.is_struct(found):
        return pyarrow.struct(
            [(one.name, _known_type(one.type)) for one in map(found.field, range(found.num_fields))]
        )
    return found


def _mixed_types(where: str, name: str | None, error: Exception) -> OrdtoolError:
    reason = " ".join(str(error).split())[:160]
    key = "a key" if name is None else f"the key {name!r}"
    place = f"{where} and after: " if where else ""
    return OrdtoolError(
        f"{place}{key} has values of several types, which a table doesn't hold ({reason})",
        "write JSON lines: -o out.jsonl",
    )


def check_format(format: str | None) -> None:
    """Raise an OrdtoolError if a table is to be written and pyarrow is missing."""
    if format in FORMATS:
        require("pyarrow", "parquet")
