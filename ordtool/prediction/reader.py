"""What `predict` reads: texts, pairs of texts and vectors, from NPY, JSONL, tables and lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordtool.errors import OnError, OrdtoolError, UsageError
from ordtool.io.inputs import Input, open_input
from ordtool.io.npy import holds_npy, npy_of
from ordtool.io.tables import rows_of
from ordtool.io.text import records_of
from ordtool.prediction.classifiers import Classifier
from ordtool.prediction.config import PredictConfig
from ordtool.tuning.data import Fields, json_texts, table_separator


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to label.

    Attributes:
        where: `file:line`.
        data: The object that it came in.
        text: Its text, if it is one.
        pair: The second text, if there are two.
        vector: The vector, if it is one.
        label: The label that is known, as text; None where there is none.
    """

    where: str
    data: dict[str, Any]
    text: str | None = None
    pair: str | None = None
    vector: NDArray[np.floating] | None = None
    label: str | None = None


class Reader:
    """Reads items from NPY, JSONL, tables and text.

    Args:
        inputs: Files; none or `-` is stdin.
        config: Where texts and labels are.
        classifier: What it takes, and the labels that it has.
        on_error: Told of each bad item, which is then passed over, unless this raises.
    """

    def __init__(
        self,
        inputs: Sequence[str],
        config: PredictConfig,
        classifier: Classifier,
        on_error: OnError,
    ) -> None:
        self._inputs = list(inputs) or ["-"]
        self._fields = Fields(config.field, classifier.texts.pair_field, config.label_field)
        self._takes_vectors = classifier.vectors is not None
        self._labels = frozenset(classifier.texts.labels)
        self._on_error = on_error

    def items(self) -> Iterator[Item]:
        """Yield the items of all inputs, those with an impossible label rejected."""
        for path in self._inputs:
            with open_input(path) as stream:
                for item in self._all(stream):
                    if item.label is None or not self._labels or item.label in self._labels:
                        yield item
                    else:
                        self._on_error(self._impossible(item))

    def _impossible(self, item: Item) -> OrdtoolError:
        return OrdtoolError(
            f"{item.where}: the label {item.label!r} is none of the model's: "
            + ", ".join(sorted(self._labels)[:20]),
            "`label_field` names another key for the labels to measure with; `on_error=skip` passes over it",
        )

    def _all(self, stream: Input) -> Iterator[Item]:
        if holds_npy(stream):
            return self._rows(stream)
        separator = table_separator(stream, self._fields)
        return self._records(stream) if separator is None else self._table(stream, separator)

    def _table(self, stream: Input, separator: str) -> Iterator[Item]:
        fields = self._fields
        for row in rows_of(
            stream, fields.texts, optional=(fields.label,), separator=separator, on_error=self._on_error
        ):
            *texts, label = (value and value.strip() for value in row.values)
            data = {name: cell.strip() for name, cell in row.data.items()}
            pair = texts[1] if len(texts) > 1 else None
            yield Item(row.where, data, texts[0], pair, label=label or None)

    def _rows(self, stream: Input) -> Iterator[Item]:
        if not self._takes_vectors:
            raise UsageError(f"{stream.source}: holds vectors, and this model takes texts")
        for number, row in enumerate(npy_of(stream)):
            yield Item(f"{stream.source} row {number}", {}, vector=row)

    def _records(self, stream: Input) -> Iterator[Item]:
        for record in records_of(stream, None, on_error=self._on_error):
            try:
                if record.data is None:
                    yield self._plain(record.text, record.where)
                else:
                    yield self._object(record.data, record.where)
            except OrdtoolError as error:
                self._on_error(error)

    def _plain(self, line: str, where: str) -> Item:
        pair_field = self._fields.pair
        if pair_field is None:
            return Item(where, {"text": line}, text=line)
        first, tab, second = line.partition("\t")
        if not tab:
            raise OrdtoolError(f"{where}: one text, and the model takes two", "separate them with a tab")
        return Item(where, {self._fields.text: first, pair_field: second}, text=first, pair=second)

    def _object(self, data: dict[str, Any], where: str) -> Item:
        known = data.get(self._fields.label)
        label = None if known is None else str(known)
        if self._takes_vectors and "vector" in data:
            return Item(where, data, vector=_numbers(data["vector"], where), label=label)
        text, pair = json_texts(data, self._fields, where)
        return Item(where, data, text, pair, label=label)


def _numbers(value: Any, where: str) -> NDArray[np.floating]:
    try:
        vector = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        vector = np.empty(0, dtype=np.float32)
    if not isinstance(value, list) or vector.ndim != 1 or not len(vector):
        raise OrdtoolError(f"{where}: 'vector' is not a list of numbers")
    return vector
