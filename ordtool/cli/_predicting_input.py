"""What `ordtool predict` reads: texts, pairs of texts and vectors, from NPY, JSONL, tables and lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ordtool.errors import OrdtoolError, UsageError

if TYPE_CHECKING:
    from ordtool.io.inputs import Input
    from ordtool.tuning.data import Fields


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to label: a text (or two) or a vector, the object it came in, and where it stood."""

    where: str
    data: dict[str, Any]
    text: str | None = None
    vector: Any = None
    pair: str | None = None


class Reader:
    """Reads items from NPY, JSONL and text.

    Args:
        inputs: Files; none or `-` is stdin.
        field: The key of a JSONL object's text.
        vectors: Whether the model takes vectors; then a `vector` comes before a text.
        skip: Skip bad records and keep them in `skipped`.
        pair_field: The key of the second text, if the model takes two.
        label_field: The key of a label that is known, to measure with.
        labels: What it can be; empty takes anything.
    """

    def __init__(
        self,
        inputs: Sequence[str],
        field: str,
        vectors: bool,
        skip: bool,
        pair_field: str | None = None,
        label_field: str = "label",
        labels: Sequence[str] = (),
    ) -> None:
        self._inputs = list(inputs) or ["-"]
        self._field = field
        self._vectors = vectors
        self._skip = skip
        self._pair_field = pair_field
        self.label_field = label_field
        self._labels = frozenset(labels)
        self.skipped: list[OrdtoolError] = []

    def items(self) -> Iterator[Item]:
        """Yield the items of all inputs, those with an impossible label rejected."""
        from ordtool.io.inputs import open_input

        for path in self._inputs:
            with open_input(path) as stream:
                for item in self._all(stream):
                    try:
                        self._check_label(item)
                    except OrdtoolError as error:
                        self._reject(error)
                    else:
                        yield item

    def _all(self, stream: Input) -> Iterator[Item]:
        from ordtool.io.npy import holds_npy
        from ordtool.tuning.data import Fields, holds_table

        if holds_npy(stream):
            return self._rows(stream)
        fields = Fields(self._field, self._pair_field, self.label_field)
        return self._table(stream, fields) if holds_table(stream, fields) else self._lines(stream)

    def _check_label(self, item: Item) -> None:
        label = item.data.get(self.label_field)
        if label is not None and self._labels and str(label) not in self._labels:
            raise OrdtoolError(
                f"{item.where}: the label {label!r} is none of the model's: "
                + ", ".join(sorted(self._labels)[:20]),
                "--label-field names another key for the labels to measure with; --on-error skip passes over it",
            )

    def _table(self, stream: Input, fields: Fields) -> Iterator[Item]:
        from ordtool.tuning.data import read_table

        for row in read_table(stream, fields, self._reject):
            yield Item(row.where, row.data, text=row.text, pair=row.pair)

    def _rows(self, stream: Input) -> Iterator[Item]:
        from ordtool.io.npy import npy_of

        if not self._vectors:
            raise UsageError(f"{stream.source}: holds vectors, and this model takes texts")
        for number, row in enumerate(npy_of(stream)):
            yield Item(f"{stream.source} row {number}", {}, vector=row)

    def _lines(self, stream: Input) -> Iterator[Item]:
        from ordtool.io.inputs import read_lines
        from ordtool.io.text import decode_line, holds_jsonl

        source = stream.source
        jsonl = holds_jsonl(stream)
        for number, raw in enumerate(read_lines(stream, source), start=1):
            try:
                line = decode_line(raw, source, number)
                if not jsonl:
                    yield self._plain(line, f"{source}:{number}")
                elif line.strip():
                    yield self._object(line, source, number)
            except OrdtoolError as error:
                self._reject(error)

    def _plain(self, line: str, where: str) -> Item:
        if self._pair_field is None:
            return Item(where, {"text": line}, text=line)
        first, tab, second = line.partition("\t")
        if not tab:
            raise OrdtoolError(f"{where}: one text, and the model takes two", "separate them with a tab")
        return Item(where, {self._field: first, self._pair_field: second}, text=first, pair=second)

    def _object(self, line: str, source: str, number: int) -> Item:
        from ordtool.io.text import parse_json_object, parse_json_record

        data = parse_json_object(line, source, number)
        where = f"{source}:{number}"
        if self._vectors and "vector" in data:
            return Item(where, data, vector=_numbers(data["vector"], where))
        text = parse_json_record(line, source, number, self._field).text
        if self._pair_field is None:
            return Item(where, data, text=text)
        return Item(where, data, text, None, parse_json_record(line, source, number, self._pair_field).text)

    def _reject(self, error: OrdtoolError) -> None:
        if not self._skip:
            raise error
        self.skipped.append(error)


def _numbers(value: Any, where: str) -> Any:
    import numpy as np

    try:
        vector = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        vector = np.empty(0, dtype=np.float32)
    if not isinstance(value, list) or vector.ndim != 1 or not len(vector):
        raise OrdtoolError(f"{where}: 'vector' is not a list of numbers")
    return vector
