"""Labelled texts from JSONL, TSV and CSV, with the line of everything that is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ordtool.arguments import as_strings
from ordtool.errors import OrdtoolError, UsageError, close_match_hint
from ordtool.io.inputs import Input, open_input, read_lines
from ordtool.io.tables import find_column, find_columns, separator_of, table_rows
from ordtool.io.text import decode_line, holds_jsonl, records_of
from ordtool.progress import Progress

TASKS = ("classify", "regress", "pairs", "lm", "seq2seq")


@dataclass(frozen=True, slots=True)
class Fields:
    """Where things are in a record.

    Attributes:
        text: The key, or a column's name or number (from 1), of the text.
        pair: Of the second text; None where there is one text.
        label: Of the label, the score, or the text to write.
    """

    text: str = "text"
    pair: str | None = None
    label: str = "label"

    @property
    def texts(self) -> tuple[str, ...]:
        """The names of the text, or of the two."""
        return (self.text,) if self.pair is None else (self.text, self.pair)

    @property
    def names(self) -> tuple[str, ...]:
        """All names, in the order that unnamed columns have."""
        return (*self.texts, self.label)


def default_fields(task: str) -> Fields:
    """Return the fields of a task."""
    return {
        "pairs": Fields("text", "text2", "label"),
        "regress": Fields("text", None, "score"),
        "seq2seq": Fields("text", None, "target"),
    }.get(task, Fields())


@dataclass(frozen=True, slots=True)
class Example:
    """One record.

    Attributes:
        where: `file:line`.
        text: The text.
        pair: The second text, if any.
        label: As it stands in the file.
        first: Whether it is the first row of a table without a head, or of one whose head wasn't known for one.
    """

    where: str
    text: str
    pair: str | None
    label: str
    first: bool = False


def check_task(task: str) -> None:
    """Raise a UsageError for an unknown task."""
    if task not in TASKS:
        raise UsageError(f"unknown task {task!r}", close_match_hint(task, TASKS))


def read_examples(paths: str | Path | Sequence[str | Path], fields: Fields) -> list[Example]:
    """Read labelled records; `-` is stdin.

    `.jsonl` has an object a line; `.csv` commas and quotes; anything else tabs. A pipe has no name: one that begins with
    `{` is JSONL, one whose head has the fields' names with commas is CSV. Tables may have a head, found by the fields'
    names in the first row; without one the columns are text, second text, label.

    Raises:
        OrdtoolError: With `file:line`, for a field that is missing or no text; for an empty file.
    """
    paths = as_strings(paths)
    found = [example for path in paths for example in _read_one(path, fields)]
    if not found:
        raise OrdtoolError(
            f"{', '.join(paths)}: holds no records", 'a line looks like {"text": ..., "label": ...}'
        )
    return found


def _read_one(path: str, fields: Fields) -> Iterator[Example]:
    with open_input(path) as stream:
        if holds_jsonl(stream):
            yield from _objects(stream, fields)
        else:
            yield from _table(stream, fields)


def _lines(stream: Input) -> Iterator[tuple[int, str]]:
    for number, raw in enumerate(read_lines(stream, stream.source), start=1):
        yield number, decode_line(raw, stream.source, number)


def holds_table(stream: Input, fields: Fields) -> bool:
    """Whether an input, of which nothing was read yet, is a table: by its name, for a pipe by the head."""
    return _separator(stream, fields) is not None


def _separator(stream: Input, fields: Fields) -> str | None:
    """Return what separates the columns; None if neither a name nor a head says that there are any."""
    named = separator_of(stream.path)
    if named is not None or not stream.once:
        return named
    head = stream.first_line().decode("utf-8", "replace").strip()
    for separator in ("\t", ","):
        names = [name.strip().strip('"') for name in head.split(separator)]
        if len(names) > 1 and all(find_column(names, name) is not None for name in fields.texts):
            return separator
    return None


def _objects(stream: Input, fields: Fields) -> Iterator[Example]:
    for record in records_of(stream, None, format="jsonl"):
        data, where = record.data or {}, record.where
        text, pair = json_texts(data, fields, where)
        label = _field(data, fields.label, where, "--label-field")
        if not isinstance(label, (str, int, float)):
            raise OrdtoolError(
                f"{where}: field {fields.label!r} must be a string or a number, found {label!r:.40}"
            )
        yield Example(where, text, pair, str(label))


def json_texts(data: dict[str, Any], fields: Fields, where: str) -> tuple[str, str | None]:
    """Take the texts out of a JSON object.

    Raises:
        OrdtoolError: If one is missing or no string.
    """
    found = []
    for name, option in ((fields.text, "--field"), (fields.pair, "--pair-field")):
        if name is None:
            continue
        value = _field(data, name, where, option)
        if not isinstance(value, str):
            raise OrdtoolError(f"{where}: field {name!r} must be a string, found {type(value).__name__}")
        found.append(value)
    return found[0], found[1] if len(found) > 1 else None


def _field(data: dict[str, Any], name: str, where: str, option: str) -> Any:
    if data.get(name) is None:
        raise OrdtoolError(
            f"{where}: no field {name!r} (keys: {', '.join(data) or 'none'})", f"{option} names another key"
        )
    return data[name]


def _table(stream: Input, fields: Fields) -> Iterator[Example]:
    columns: list[int] | None = None
    first = False
    separator = _separator(stream, fields) or "\t"
    for number, cells in table_rows((line for _, line in _lines(stream)), separator, stream.source):
        where = f"{stream.source}:{number}"
        if columns is None:
            columns, head = find_columns(cells, fields.names, where)
            if head:
                continue
            first = True
        if len(cells) <= max(columns):
            raise OrdtoolError(
                f"{where}: {len(cells)} column(s), and {max(columns) + 1} are expected",
                f"columns: {', '.join(fields.names)}, separated by {'commas' if separator == ',' else 'tabs'}",
            )
        values = [cells[column].strip() for column in columns]
        for name, value in zip(fields.names, values, strict=True):
            if not value:
                raise OrdtoolError(f"{where}: the column {name!r} is empty")
        yield Example(where, values[0], values[1] if fields.pair is not None else None, values[-1], first)
        first = False


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table that may have no labels.

    Attributes:
        where: `file:line`.
        data: Its cells by the head's names, or by those of the fields.
        text: The text.
        pair: The second text, if any.
        label: The label, if any.
    """

    where: str
    data: dict[str, Any]
    text: str
    pair: str | None
    label: str | None


def read_table(stream: Input, fields: Fields, on_error: Callable[[OrdtoolError], None]) -> Iterator[Row]:
    """Read the texts of a TSV or CSV, labels where there are some, and what else the head names.

    Args:
        stream: The file, open.
        fields: Names, or numbers of the texts' columns; without a head the columns are text, second text, label.
        on_error: Told of each bad row, which is then passed over.

    Raises:
        OrdtoolError: If the first row is a head without the texts' names.
    """
    columns: list[int] | None = None
    names: list[str] = []
    label: int | None = None
    separator = _separator(stream, fields) or "\t"
    for number, cells in table_rows((line for _, line in _lines(stream)), separator, stream.source):
        cells = [cell.strip() for cell in cells]
        where = f"{stream.source}:{number}"
        if columns is None:
            columns, head = find_columns(cells, fields.texts, where)
            numbered = fields.text.isdecimal()
            names = (
                cells if head else [str(n + 1) for n in range(len(cells))] if numbered else [*fields.names]
            )
            label = int(fields.label) - 1 if fields.label.isdecimal() else find_column(names, fields.label)
            if head:
                continue
        if len(cells) <= max(columns):
            on_error(
                OrdtoolError(f"{where}: no column {names[max(columns)]!r}", f"columns: {', '.join(names)}")
            )
            continue
        texts = [cells[column] for column in columns]
        known = cells[label] if label is not None and label < len(cells) else ""
        data = dict(zip(names, cells, strict=False))
        yield Row(where, data, texts[0], texts[1] if len(texts) > 1 else None, known or None)


def class_names(examples: Sequence[Example]) -> list[str]:
    """Return the classes, numbers in their order, other names in the alphabet's.

    Raises:
        OrdtoolError: If there is one class only.
    """
    names = sorted({example.label for example in examples})
    if len(names) < 2:
        raise OrdtoolError(
            f"{examples[0].where}: all labels are {names[0]!r}: there is nothing to tell apart",
            "is it the right file, and the right --label-field?",
        )
    if all(name.lstrip("-").isdecimal() for name in names):
        return sorted(names, key=int)
    return names


def warn_of_heads(examples: Sequence[Example], progress: Progress) -> None:
    """Warn of a label that occurs once, in the first row of a table: a head may have been taken for a record."""
    counts = Counter(example.label for example in examples)
    if min(counts.values()) > 1 or sorted(counts.values())[1:2] == [1]:
        return
    for example in examples:
        if example.first and counts[example.label] == 1:
            progress.warn(
                f"{example.where}: the label {example.label!r} occurs in this first row alone; is the row a head? "
                "--field and --label-field name its columns"
            )


def class_indices(examples: Sequence[Example], names: Sequence[str]) -> list[int]:
    """Number the examples' classes.

    Raises:
        OrdtoolError: For a label that is not among `names`, with its line.
    """
    places = {name: index for index, name in enumerate(names)}
    for example in examples:
        if example.label not in places:
            raise OrdtoolError(
                f"{example.where}: the label {example.label!r} is not one of the training data's: "
                + ", ".join(list(names)[:20])
            )
    return [places[example.label] for example in examples]


def scores(examples: Sequence[Example]) -> list[float]:
    """Read the labels as finite numbers.

    Raises:
        OrdtoolError: For something else, with its line.
    """
    found = []
    for example in examples:
        try:
            value = float(example.label)
        except ValueError:
            value = float("nan")
        if not abs(value) < float("inf"):
            raise OrdtoolError(
                f"{example.where}: the score {example.label!r} is not a number",
                "--task classify takes labels that are names",
            )
        found.append(value)
    return found
