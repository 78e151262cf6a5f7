"""Variables from files: vectors, class labels, or texts that are still to be embedded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordtool.arguments import as_strings
from ordtool.errors import OrdtoolError, UsageError
from ordtool.independence.validation import check_aligned, encode_labels
from ordtool.io.inputs import open_input, separator_of
from ordtool.io.jsonl import holds_jsonl
from ordtool.io.npy import holds_npy, npy_of
from ordtool.io.tables import rows_of
from ordtool.io.text import records_of

Array = NDArray[Any]

TextEncoder = Callable[[list[str]], Array]
"""From texts to vectors, `(texts, dim)`."""

STDIN = "-"
VECTOR = "vector"


@dataclass(frozen=True)
class Variable:
    """One side of a comparison, as a file gave it.

    Attributes:
        name: What to call it: the file's name as given.
        rows: Vectors of shape `(rows, dim)`; None where `texts` have to be embedded first.
        texts: The texts of a file without vectors.
        ids: The records' ids, None for a record without one; None for all where no record has one.
        lines: Line numbers of the records in the file, for messages.
        classes: Names of the classes, where the vectors are class labels as unit vectors.
    """

    name: str
    rows: Array | None = None
    texts: list[str] | None = None
    ids: list[Any] | None = None
    lines: list[int] | None = None
    classes: tuple[str, ...] | None = None

    def __len__(self) -> int:
        """Return the number of rows or texts."""
        return len(self.rows if self.rows is not None else self.texts or [])


@dataclass(frozen=True)
class Source:
    """What an input holds: one of `array`, `records` and `texts`. It is read once, and can be several variables.

    Attributes:
        name: The input's name as given, `<stdin>` for `-`.
        array: Of an NPY.
        records: The objects of JSONL, or the rows of a table.
        texts: Of plain text, a line each.
        lines: Line numbers of the records or texts.
    """

    name: str
    array: Array | None = None
    records: list[dict[str, Any]] | None = None
    texts: list[str] | None = None
    lines: list[int] = field(default_factory=list)


def read_source(path: str) -> Source:
    """Read an input: NPY, JSON and CoNLL-U are known by their beginning, or by the file's name, tables by their name.

    Raises:
        OrdtoolError: Naming the file and line that is not as it should be.
    """
    with open_input(path) as stream:
        if holds_npy(stream):
            return Source(stream.source, array=npy_of(stream, ndim=None))
        if stream.once and not stream.first_line():
            raise OrdtoolError(f"{stream.source}: is empty", "vectors are NPY or JSONL, texts a line each")
        if not holds_jsonl(stream) and separator_of(path) is None:
            found = list(records_of(stream))
            return Source(
                stream.source,
                texts=[record.text for record in found],
                lines=[record.line for record in found],
            )
        rows = list(rows_of(stream))
    if not rows:
        raise OrdtoolError(f"{stream.source}: is empty")
    return Source(stream.source, records=[row.data for row in rows], lines=[row.line for row in rows])


@dataclass(frozen=True, slots=True)
class VariablesConfig:
    """How files are read as variables.

    Attributes:
        label_field: The key of a JSONL file's labels; None: no file is labels by a key.
        text_field: The key of a JSONL file's texts.
        id_field: The key of a JSONL file's ids.
    """

    label_field: str | None = None
    text_field: str = "text"
    id_field: str = "id"


def read_variables(
    inputs: str | Sequence[str], config: VariablesConfig, encode: TextEncoder | None = None
) -> tuple[list[Variable], list[tuple[int, int]]]:
    """Read files and folders of layers, each file once, and choose which to compare.

    With a label field the last JSONL file is labels; a single input is both sides. Two inputs of which one is a
    folder are compared left against right, all others pairwise.

    Args:
        inputs: NPY, JSONL or text files, or folders of NPY files; `-` is stdin.
        config: How they are read.
        encode: Embeds texts; None: texts are refused.

    Returns:
        The variables, all with vectors, and the pairs to compare, as indices.

    Raises:
        UsageError: For inputs that leave nothing to compare.
        OrdtoolError: For anything that isn't as it should be, naming the file and line.
    """
    inputs = as_strings(inputs)
    if inputs.count(STDIN) > 1:
        raise UsageError("stdin can be one input only")
    groups = [layer_files(path) if Path(path).is_dir() else [path] for path in inputs]
    variables = _read_files([path for group in groups for path in group], config)
    check_ids(variables)
    check_aligned(variables, [variable.name for variable in variables])
    variables = [with_vectors(variable, encode) for variable in variables]
    if len(variables) < 2:
        raise UsageError(
            f"{inputs[0]} is one variable, and two are compared",
            "give two files, a folder of layers, or a JSONL file with `label_field`",
        )
    count = len(variables)
    if len(groups) == 2 and count > 2:
        left = len(groups[0])
        return variables, [(i, j) for i in range(left) for j in range(left, count)]
    return variables, [(i, j) for i in range(count) for j in range(i + 1, count)]


def _read_files(paths: list[str], config: VariablesConfig) -> list[Variable]:
    sources = {path: read_source(path) for path in dict.fromkeys(paths)}
    without_labels = replace(config, label_field=None)
    if config.label_field is None:
        return [to_variable(sources[path], without_labels) for path in paths]
    jsonl = [index for index, path in enumerate(paths) if sources[path].records is not None]
    if not jsonl:
        raise UsageError("`label_field` needs a .jsonl file", "integers in an .npy are labels without it")
    if len(paths) == 1:
        paths, jsonl = [paths[0], paths[0]], [1]
    variables = [to_variable(sources[path], without_labels) for path in paths[: jsonl[-1]]]
    labels = to_variable(sources[paths[jsonl[-1]]], config)
    variables.append(replace(labels, name=f"{labels.name}:{config.label_field}"))
    return variables + [to_variable(sources[path], without_labels) for path in paths[jsonl[-1] + 1 :]]


def with_vectors(variable: Variable, encode: TextEncoder | None) -> Variable:
    """Return a variable with vectors: as it is, or its texts embedded.

    Raises:
        OrdtoolError: If it holds texts, and nothing embeds them.
    """
    if variable.texts is None:
        return variable
    if encode is None:
        raise OrdtoolError(
            f"{variable.name}: holds texts, and vectors are needed",
            "`embed_model=minilm`, or another model, embeds them",
        )
    return replace(variable, rows=encode(variable.texts))


def read_variable(path: str, config: VariablesConfig | None = None) -> Variable:
    """Read one variable; see `read_source` and `to_variable`."""
    return to_variable(read_source(path), config or VariablesConfig())


def to_variable(source: Source, config: VariablesConfig) -> Variable:
    """Take one variable from what an input holds.

    NPY files hold vectors, `(rows, dim)`, or class labels, which are integers of shape `(rows,)`; floats of
    that shape are vectors of one dimension. JSONL files hold a `vector`, a label or a text a line; other
    files a text a line.

    Args:
        source: What was read.
        config: The keys of JSONL; with a label field it is class labels.

    Raises:
        OrdtoolError: Naming the file and line that is not as it should be.
    """
    if source.array is not None:
        return _from_array(source.array, source.name)
    if source.records is not None:
        return _from_records(source.records, source.lines, source.name, config)
    if config.label_field is not None:
        raise OrdtoolError(
            f"{source.name}: labels are read from a .jsonl file's field, or an NPY of integers"
        )
    return Variable(source.name, texts=source.texts, lines=source.lines)


def _from_array(array: Array, name: str) -> Variable:
    if array.ndim == 1 and array.dtype.kind in "iub":
        rows, classes = encode_labels(np.asarray(array), name)
        return Variable(name, rows, classes=classes)
    if array.ndim not in (1, 2):
        hint = "ordtool embed --layers all writes a folder of them" if array.ndim == 3 else None
        raise OrdtoolError(f"{name}: has shape {array.shape}, and (rows, dim) is expected", hint)
    return Variable(name, array[:, None] if array.ndim == 1 else array)


def _from_records(
    records: list[dict[str, Any]],
    lines: list[int],
    path: str,
    config: VariablesConfig,
) -> Variable:
    id_field, label_field = config.id_field, config.label_field
    found = [record.get(id_field) for record in records]
    ids = None if all(one is None for one in found) else found
    if label_field is not None:
        labels = [
            _label(record, label_field, path, line) for record, line in zip(records, lines, strict=True)
        ]
        rows, classes = encode_labels(labels, path)
        return Variable(path, rows, ids=ids, lines=lines, classes=classes)
    if VECTOR in records[0]:
        return Variable(path, _vectors(records, lines, path), ids=ids, lines=lines)
    texts = [
        _text(record, config.text_field, path, line) for record, line in zip(records, lines, strict=True)
    ]
    return Variable(path, texts=texts, ids=ids, lines=lines)


def _label(record: dict[str, Any], field: str, path: str, line: int) -> str | int:
    value = record.get(field)
    if value is None or isinstance(value, dict | list | float):
        kind = "missing or null" if value is None else type(value).__name__
        raise OrdtoolError(
            f"{path}:{line}: label field {field!r} is {kind} (keys: {', '.join(record)})",
            "a label is a string, an integer or a boolean; `label_field` names its key",
        )
    return value if isinstance(value, int) else str(value)


def _text(record: dict[str, Any], field: str, path: str, line: int) -> str:
    value = record.get(field)
    if not isinstance(value, str):
        raise OrdtoolError(
            f"{path}:{line}: has neither a {VECTOR!r} nor a text in {field!r} (keys: {', '.join(record)})",
            "`field` names the text's key, `label_field` a label's",
        )
    return value


def _vectors(records: Sequence[dict[str, Any]], lines: Sequence[int], path: str) -> Array:
    width = len(records[0][VECTOR]) if isinstance(records[0][VECTOR], list) else -1
    rows = []
    for record, line in zip(records, lines, strict=True):
        vector = record.get(VECTOR)
        if not isinstance(vector, list) or len(vector) != width:
            kind = f"of {len(vector)} numbers" if isinstance(vector, list) else "missing or no list"
            raise OrdtoolError(
                f"{path}:{line}: {VECTOR!r} is {kind}, and {max(width, 1)} numbers are expected"
            )
        try:
            rows.append(np.asarray(vector, dtype=np.float64))
        except (TypeError, ValueError):
            raise OrdtoolError(f"{path}:{line}: {VECTOR!r} holds something else than numbers") from None
    return np.stack(rows)


def check_ids(variables: Sequence[Variable]) -> None:
    """Check that row i means the same item in every file that has ids, as far as the records have them.

    Raises:
        OrdtoolError: For different lengths or ids, naming both files and the first difference.
    """
    known: dict[int, tuple[Variable, Any]] = {}
    for variable in variables:
        for row, one in enumerate(variable.ids or ()):
            if one is None:
                continue
            first, other = known.setdefault(row, (variable, one))
            if one != other:
                raise OrdtoolError(
                    f"{_where(first, row)} has id {other!r} and {_where(variable, row)} has id {one!r}",
                    "bring the files into the same order; row i of each must belong to the same item",
                )


def _where(variable: Variable, row: int) -> str:
    return f"{variable.name}:{variable.lines[row]}" if variable.lines else f"{variable.name} row {row}"


def layer_files(folder: str) -> list[str]:
    """List the NPY files of a folder in the order of their names, numbers by value.

    Raises:
        OrdtoolError: If there are none.
    """
    files = sorted((path for path in Path(folder).iterdir() if path.suffix == ".npy"), key=_natural)
    if not files:
        raise OrdtoolError(
            f"{folder}: holds no .npy files", "ordtool embed --layers all -o FOLDER writes one a layer"
        )
    return [str(path) for path in files]


def _natural(path: Path) -> list[tuple[int, int | str]]:
    import re

    parts = re.split(r"(\d+)", path.name)
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]
