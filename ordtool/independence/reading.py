"""Variables from files: vectors, class labels, or texts that are still to be embedded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordtool.errors import OrdtoolError
from ordtool.independence.rows import encode_labels
from ordtool.io.npy import read_npy
from ordtool.io.text import decode_line, has_jsonl_suffix, open_input, parse_json_object, read_lines

Array = NDArray[Any]

STDIN = "-"
VECTOR = "vector"


@dataclass(frozen=True)
class Variable:
    """One side of a comparison, as a file gave it.

    Attributes:
        name: What to call it: the file's name as given.
        rows: Vectors of shape `(rows, dim)`; None where `texts` have to be embedded first.
        texts: The texts of a file without vectors.
        ids: The records' ids, where every record has one.
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
        """Give the number of rows or texts."""
        return len(self.rows if self.rows is not None else self.texts or [])


def read_variable(
    path: str, *, label_field: str | None = None, text_field: str = "text", id_field: str = "id"
) -> Variable:
    """Read one variable.

    NPY files hold vectors, `(rows, dim)`, or class labels, which are integers of shape `(rows,)`; floats of
    that shape are vectors of one dimension. JSONL files hold a `vector`, a label or a text a line; other
    files a text a line.

    Args:
        path: The file; `-` is an NPY on stdin.
        label_field: Take this key of a JSONL file as class labels.
        text_field: The key of a JSONL file's texts.
        id_field: The key of its ids.

    Raises:
        OrdtoolError: Naming the file and line that is not as it should be.
    """
    if has_jsonl_suffix(path):
        return _read_jsonl(path, label_field, text_field, id_field)
    if path == STDIN or _is_npy(path):
        return _read_vectors(path)
    if label_field is not None:
        raise OrdtoolError(f"{path}: labels are read from a .jsonl file's field, or an NPY of integers")
    with open_input(path) as stream:
        texts = [
            decode_line(line, path, number) for number, line in enumerate(read_lines(stream, path), start=1)
        ]
    return Variable(path, texts=texts, lines=list(range(1, len(texts) + 1)))


def _is_npy(path: str) -> bool:
    if path.lower().endswith(".npy"):
        return True
    with open_input(path) as stream:
        return stream.read(6) == b"\x93NUMPY"


def _read_vectors(path: str) -> Variable:
    array = read_npy(path, ndim=None)
    name = "<stdin>" if path == STDIN else path
    if array.ndim == 1 and array.dtype.kind in "iub":
        rows, classes = encode_labels(np.asarray(array), name)
        return Variable(name, rows, classes=classes)
    if array.ndim not in (1, 2):
        hint = "ordtool embed --layers all writes a folder of them" if array.ndim == 3 else None
        raise OrdtoolError(f"{name}: has shape {array.shape}, and (rows, dim) is expected", hint)
    return Variable(name, array[:, None] if array.ndim == 1 else array)


def _read_jsonl(path: str, label_field: str | None, text_field: str, id_field: str) -> Variable:
    records: list[dict[str, Any]] = []
    lines: list[int] = []
    with open_input(path) as stream:
        for number, raw in enumerate(read_lines(stream, path), start=1):
            text = decode_line(raw, path, number)
            if text.strip():
                records.append(parse_json_object(text, path, number))
                lines.append(number)
    if not records:
        raise OrdtoolError(f"{path}: is empty")
    ids = [record[id_field] for record in records] if all(id_field in record for record in records) else None
    if label_field is not None:
        labels = [
            _label(record, label_field, path, line) for record, line in zip(records, lines, strict=True)
        ]
        rows, classes = encode_labels(labels, path)
        return Variable(path, rows, ids=ids, lines=lines, classes=classes)
    if VECTOR in records[0]:
        return Variable(path, _vectors(records, lines, path), ids=ids, lines=lines)
    texts = [_text(record, text_field, path, line) for record, line in zip(records, lines, strict=True)]
    return Variable(path, texts=texts, ids=ids, lines=lines)


def _label(record: dict[str, Any], field: str, path: str, line: int) -> str | int:
    value = record.get(field)
    if value is None or isinstance(value, dict | list | float):
        found = "missing or null" if value is None else type(value).__name__
        raise OrdtoolError(
            f"{path}:{line}: label field {field!r} is {found} (keys: {', '.join(record)})",
            "a label is a string, an integer or a boolean; --label-field names its key",
        )
    return value if isinstance(value, int) else str(value)


def _text(record: dict[str, Any], field: str, path: str, line: int) -> str:
    value = record.get(field)
    if not isinstance(value, str):
        raise OrdtoolError(
            f"{path}:{line}: has neither a {VECTOR!r} nor a text in {field!r} (keys: {', '.join(record)})",
            "--field names the text's key, --label-field a label's",
        )
    return value


def _vectors(records: Sequence[dict[str, Any]], lines: Sequence[int], path: str) -> Array:
    width = len(records[0][VECTOR]) if isinstance(records[0][VECTOR], list) else -1
    rows = []
    for record, line in zip(records, lines, strict=True):
        vector = record.get(VECTOR)
        if not isinstance(vector, list) or len(vector) != width:
            found = f"of {len(vector)} numbers" if isinstance(vector, list) else "missing or no list"
            raise OrdtoolError(
                f"{path}:{line}: {VECTOR!r} is {found}, and {max(width, 1)} numbers are expected"
            )
        try:
            rows.append(np.asarray(vector, dtype=np.float64))
        except (TypeError, ValueError):
            raise OrdtoolError(f"{path}:{line}: {VECTOR!r} holds something else than numbers") from None
    # JSON doesn't say what precision the numbers had; embeddings have float32's.
    return np.asarray(np.stack(rows), dtype=np.float32)


def check_ids(variables: Sequence[Variable]) -> None:
    """Check that row i means the same item in every file that has ids.

    Raises:
        OrdtoolError: For different lengths or ids, naming both files and the first difference.
    """
    first = next((variable for variable in variables if variable.ids is not None), None)
    for variable in variables:
        if first is None or variable is first or variable.ids is None or first.ids is None:
            continue
        for row, (one, other) in enumerate(zip(first.ids, variable.ids, strict=False)):
            if one != other:
                raise OrdtoolError(
                    f"{_where(first, row)} has id {one!r} and {_where(variable, row)} has id {other!r}",
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
