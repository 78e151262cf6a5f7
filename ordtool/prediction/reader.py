"""What `predict` reads: texts, pairs of texts and vectors, from NPY, JSONL, tables and lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ordtool.errors import OnError, OrdtoolError, UsageError, reject
from ordtool.io.arrow import holds_arrow
from ordtool.io.conllu import holds_conllu
from ordtool.io.inputs import Input
from ordtool.io.npy import holds_npy, npy_of
from ordtool.io.tables import rows_of
from ordtool.io.text import Format, Record, records_of
from ordtool.prediction.classifiers import Classifier
from ordtool.prediction.config import PredictConfig
from ordtool.prediction.items import Item
from ordtool.sharding.records import line_kind
from ordtool.tuning.data import Fields, json_texts, table_separator
from ordtool.tuning.questions import answers_of
from ordtool.tuning.words import TaggedSentence, joined, sentence_of, split_words, tagged_sentences


class ItemReader:
    """Reads items from NPY, JSONL, tables and text, those with an impossible label rejected.

    Args:
        config: Where texts and labels are.
        facts: What the classifier takes, and the labels that it has; see `facts_of`.

    Attributes:
        fields: Where texts and labels are.
    """

    def __init__(self, config: PredictConfig, facts: Mapping[str, Any]) -> None:
        usual = Fields(*facts["fields"])
        self.fields = replace(usual, text=config.field or usual.text, label=config.label_field or usual.label)
        self._takes_vectors = bool(facts["takes_vectors"])
        self._takes_words = bool(facts["takes_words"])
        self._answers = bool(facts["answers"])
        self._labels = frozenset(facts["labels"])

    def kind_of(self, stream: Input) -> str | None:
        """See `ordtool.sharding.plan.Reader`."""
        kind = line_kind(stream)
        if kind is None or self._takes_words:
            return kind
        return None if table_separator(stream, self.fields) is not None else kind

    def read(self, stream: Input, kind: str | None, on_error: OnError | None) -> Iterator[Item]:
        """See `ordtool.sharding.plan.Reader`."""
        for item in self._all(stream, kind, on_error):
            known = item.label or ()
            others = set((known,) if isinstance(known, str) else known) - self._labels
            if others and self._labels:
                reject(self._impossible(item, min(others)), on_error)
            else:
                yield item

    def weigh(self, record: Item) -> int:
        """See `ordtool.sharding.plan.Reader`."""
        return len(record.text or "") + len(record.pair or "")

    def _impossible(self, item: Item, label: str) -> OrdtoolError:
        return OrdtoolError(
            f"{item.where}: the label {label!r} is none of the model's: "
            + ", ".join(sorted(self._labels)[:20]),
            "`label_field` names another key for the labels to measure with; `on_error=skip` passes over it",
        )

    def _all(self, stream: Input, kind: str | None, on_error: OnError | None) -> Iterator[Item]:
        if kind is None and holds_npy(stream):
            return self._rows(stream)
        if self._takes_words:
            return self._sentences(stream, kind, on_error)
        if kind is None and not holds_arrow(stream):
            separator = table_separator(stream, self.fields)
            if separator is not None:
                return self._table(stream, separator, on_error)
        return self._records(stream, kind, on_error)

    def _table(self, stream: Input, separator: str, on_error: OnError | None) -> Iterator[Item]:
        fields = self.fields
        for row in rows_of(
            stream, fields.texts, optional=(fields.label,), separator=separator, on_error=on_error
        ):
            *texts, label = (value and value.strip() for value in row.values)
            data = {name: cell.strip() for name, cell in row.data.items()}
            pair = texts[1] if len(texts) > 1 else None
            known = (
                answers_of(label, row.where, self.fields)
                if self._answers and label is not None
                else label or None
            )
            yield Item(row.where, data, texts[0], pair, label=known)

    def _rows(self, stream: Input) -> Iterator[Item]:
        if not self._takes_vectors:
            raise UsageError(f"{stream.source}: holds vectors, and this model takes texts")
        for number, row in enumerate(npy_of(stream)):
            yield Item(f"{stream.source} row {number}", {}, vector=row)

    def _sentences(self, stream: Input, kind: str | None, on_error: OnError | None) -> Iterator[Item]:
        """Yield sentences with their words: CoNLL-U, JSON with words or a text, lines of text."""
        if kind is None and holds_conllu(stream):
            for sentence in tagged_sentences(stream, self.fields, on_error):
                yield _sentence_item(sentence)
            return
        for record in records_of(stream, None, format=cast(Format, kind or "auto"), on_error=on_error):
            try:
                found = self._sentence(record)
            except OrdtoolError as error:
                reject(error, on_error)
                continue
            yield _sentence_item(found)

    def _sentence(self, record: Record) -> TaggedSentence:
        if record.data is None:
            data = {Fields().text: record.text}
            return TaggedSentence(record.where, record.text, split_words(record.text), data=data)
        if self.fields.text in record.data and not isinstance(record.data[self.fields.text], str):
            return sentence_of(record.data, record.where, self.fields)
        name = self.fields.text if self.fields.text in record.data else Fields().text
        text, _ = json_texts(record.data, replace(self.fields, text=name), record.where)
        return TaggedSentence(record.where, text, split_words(text), data=record.data)

    def _records(self, stream: Input, kind: str | None, on_error: OnError | None) -> Iterator[Item]:
        for record in records_of(stream, None, format=cast(Format, kind or "auto"), on_error=on_error):
            try:
                if record.data is None:
                    item = self._plain(record.text, record.where)
                else:
                    item = self._object(record.data, record.where)
            except OrdtoolError as error:
                reject(error, on_error)
                continue
            yield item

    def _plain(self, line: str, where: str) -> Item:
        pair_field = self.fields.pair
        if pair_field is None:
            return Item(where, {"text": line}, text=line)
        first, tab, second = line.partition("\t")
        if not tab:
            raise OrdtoolError(f"{where}: one text, and the model takes two", "separate them with a tab")
        return Item(where, {self.fields.text: first, pair_field: second}, text=first, pair=second)

    def _object(self, data: dict[str, Any], where: str) -> Item:
        known = data.get(self.fields.label)
        label: str | tuple[str, ...] | None = None if known is None else str(known)
        if self._answers and self.fields.label in data:
            label = answers_of(known, where, self.fields)
        if self._takes_vectors and "vector" in data:
            return Item(where, data, vector=_numbers(data["vector"], where), label=label)
        text, pair = json_texts(data, self.fields, where)
        return Item(where, data, text, pair, label=label)


def facts_of(classifier: Classifier) -> dict[str, Any]:
    """Return what a reader and the figures have to know of a classifier, as JSON holds it."""
    tokens = classifier.tokens
    return {
        "labels": list(classifier.labels),
        "fields": [classifier.fields.text, classifier.fields.pair, classifier.fields.label],
        "takes_vectors": classifier.vectors is not None,
        "takes_words": tokens is not None and tokens.takes_words,
        "answers": tokens is not None and not tokens.takes_words,
    }


def sentence_in(text: str | Sequence[str]) -> TaggedSentence:
    """Take a text with its words: those that it is a list of, or those that `split_words` finds."""
    if isinstance(text, str):
        return TaggedSentence("", text, split_words(text))
    return TaggedSentence("", *joined(text))


def _sentence_item(sentence: TaggedSentence) -> Item:
    return Item(sentence.where, sentence.data, sentence.text, label=sentence.labels, sentence=sentence)


def _numbers(value: Any, where: str) -> NDArray[np.floating]:
    try:
        vector = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        vector = np.empty(0, dtype=np.float32)
    if not isinstance(value, list) or vector.ndim != 1 or not len(vector):
        raise OrdtoolError(f"{where}: 'vector' is not a list of numbers")
    return vector
