"""Labelled texts from JSONL, TSV and CSV, with the line of everything that is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ordtool.arguments import as_strings
from ordtool.errors import OrdtoolError, UsageError, close_match_hint
from ordtool.io.inputs import Input, open_input, separator_of
from ordtool.io.jsonl import holds_jsonl
from ordtool.io.tables import find_column, no_field, rows_of
from ordtool.progress import Progress

TASKS = ("classify", "regress", "pairs", "tokens", "span", "lm", "seq2seq")
TOKEN_TASKS = ("tokens", "span")
"""What labels tokens, and not texts."""
TEXT_TASKS = ("lm", "seq2seq")
"""What writes text, and has no labels."""
_HINT = "`field`, `pair_field` and `label_field` name the fields"


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
        "tokens": Fields("tokens", None, "labels"),
        "span": Fields("question", "context", "answer"),
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
        separator = None if holds_jsonl(stream) else table_separator(stream, fields) or "\t"
        for row in rows_of(stream, fields.names, separator=separator, hint=_HINT):
            *texts, label = row.values
            if separator is not None:
                *texts, label = (value.strip() for value in row.values)
                for name, value in zip(fields.names, (*texts, label), strict=True):
                    if not value:
                        raise OrdtoolError(f"{row.where}: the column {name!r} is empty")
            if not isinstance(label, (str, int, float)):
                raise OrdtoolError(
                    f"{row.where}: field {fields.label!r} must be a string or a number, found {label!r:.40}"
                )
            text, pair = _texts(texts, fields, row.where)
            yield Example(row.where, text, pair, str(label), row.headless)


def table_separator(stream: Input, fields: Fields) -> str | None:
    """Return what separates the columns of an input, of which nothing was read yet.

    None if neither its name nor, of a pipe, the head says that it is a table.
    """
    named = separator_of(stream.path)
    if named is not None or not stream.once:
        return named
    head = stream.first_line().decode("utf-8", "replace").strip()
    for separator in ("\t", ","):
        names = [name.strip().strip('"') for name in head.split(separator)]
        if len(names) > 1 and all(find_column(names, name) is not None for name in fields.texts):
            return separator
    return None


def json_texts(data: dict[str, Any], fields: Fields, where: str) -> tuple[str, str | None]:
    """Take the texts out of a JSON object.

    Raises:
        OrdtoolError: If one is missing or no string.
    """
    for name in fields.texts:
        if data.get(name) is None:
            raise no_field(name, data, where, _HINT)
    return _texts([data[name] for name in fields.texts], fields, where)


def _texts(values: Sequence[Any], fields: Fields, where: str) -> tuple[str, str | None]:
    for name, value in zip(fields.texts, values, strict=True):
        if not isinstance(value, str):
            raise OrdtoolError(f"{where}: field {name!r} must be a string, found {type(value).__name__}")
    return values[0], values[1] if len(values) > 1 else None


def class_names(labels: Iterable[str], where: str) -> list[str]:
    """Return the classes, numbers in their order, other names in the alphabet's.

    Args:
        labels: All labels.
        where: `file:line` of the first, for the message.

    Raises:
        OrdtoolError: If there is one class only.
    """
    names = sorted(set(labels))
    if len(names) < 2:
        raise OrdtoolError(
            f"{where}: all labels are {names[0]!r}: there is nothing to tell apart",
            "is it the right file, and the right `label_field`?",
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
                "`field` and `label_field` name its columns"
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
                "`task=classify` takes labels that are names",
            )
        found.append(value)
    return found
