"""Labelling as work in shards: what a process, a worker or an actor does with the records of one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ordtool.errors import OrdtoolError
from ordtool.prediction.classifiers import Classifier
from ordtool.prediction.config import PredictConfig
from ordtool.prediction.engine import Vectors, predictions_of
from ordtool.prediction.items import Item, Prediction
from ordtool.prediction.loading import load_classifier
from ordtool.prediction.reader import ItemReader, facts_of
from ordtool.progress import Progress
from ordtool.sharding.plan import Cut, Reader
from ordtool.sharding.records import Row, write_rows
from ordtool.sharding.work import Computed, OnBad, Runner

# Records of a shard.
SHARD_RECORDS = 512


@dataclass(frozen=True, slots=True)
class PredictWork:
    """Records to records with a label.

    Attributes:
        config: How.
        format: One of `ordtool.sharding.records.FORMATS`.
    """

    config: PredictConfig
    format: str = "jsonl"

    @property
    def cut(self) -> Cut:
        """See `Work`."""
        return Cut(SHARD_RECORDS)

    @property
    def skips(self) -> bool:
        """See `Work`."""
        return self.config.on_error == "skip"

    def load(self, progress: Progress, threads: int | None) -> Runner:
        """See `Work`."""
        return _PredictRunner(
            self, load_classifier(replace(self.config, threads=threads), progress), progress
        )


class Labeller:
    """Labels items, texts and vectors among each other.

    Args:
        classifier: The model.
        config: How.
    """

    def __init__(self, classifier: Classifier, config: PredictConfig) -> None:
        self._classifier = classifier
        self._config = config

    def label(self, items: Sequence[Item], on_error: OnBad) -> list[Prediction | None]:
        """Return a prediction an item; None for one that was skipped."""
        if self._classifier.tokens is not None:
            return list(self._classifier.tokens.predict(items, self._config.batch_size))
        found: list[Prediction | None] = [None] * len(items)
        texts = [(place, item.text, item.pair) for place, item in enumerate(items) if item.text is not None]
        if texts:
            classifier = self._classifier.texts
            assert classifier is not None
            pairs = None if classifier.pair_field is None else [pair or "" for _, _, pair in texts]
            scores = classifier.predict([t for _, t, _ in texts], pairs, batch_size=self._config.batch_size)
            predictions = predictions_of(scores, classifier.labels, self._config)
            for (place, _, _), prediction in zip(texts, predictions, strict=True):
                found[place] = prediction
        vectors = {place: item.vector for place, item in enumerate(items) if item.vector is not None}
        if not vectors:
            return found
        if len({len(v) for v in vectors.values()}) == 1 and all(
            np.isfinite(v).all() for v in vectors.values()
        ):
            for place, prediction in zip(vectors, self._label(np.stack(list(vectors.values()))), strict=True):
                found[place] = prediction
            return found
        for place, vector in vectors.items():  # one by one, to name the one that is bad
            found[place] = self._label_one(items[place].where, vector, on_error)
        return found

    def _label(self, vectors: Vectors) -> list[Prediction]:
        assert self._classifier.vectors is not None
        scores = self._classifier.vectors.predict_vectors(vectors)
        return predictions_of(scores, self._classifier.labels, self._config)

    def _label_one(self, where: str, vector: Vectors, on_error: OnBad) -> Prediction | None:
        try:
            if not np.isfinite(vector).all():
                raise OrdtoolError(f"{where}: the vector holds NaN or an infinity")
            return self._label(vector[None])[0]
        except OrdtoolError as error:
            message = error.message if error.message.startswith(where) else f"{where}: {error.message}"
            on_error(OrdtoolError(message, error.hint))
        return None


class _PredictRunner:
    def __init__(self, work: PredictWork, classifier: Classifier, progress: Progress) -> None:
        self.facts = facts_of(classifier)
        self.reader: Reader = ItemReader(work.config, self.facts)
        self._labeller = Labeller(classifier, work.config)
        self._format = work.format
        self._progress = progress

    def prepare(self, records: list[Item], indices: list[int], on_error: OnBad) -> Any:
        return records, on_error

    def compute(self, prepared: Any, settled: Any) -> Iterator[Computed]:
        items, on_error = prepared
        predictions = self._labeller.label(items, on_error)
        known = [
            [item.label, prediction.guess]
            for item, prediction in zip(items, predictions, strict=True)
            if prediction is not None and item.label is not None
        ]
        yield from write_rows(self._rows(items, predictions), self._format, settled, known)
        self._progress.advance(len(items))

    def _rows(self, items: list[Item], predictions: list[Prediction | None]) -> Iterator[Row]:
        for item, prediction in zip(items, predictions, strict=True):
            if prediction is None:
                continue
            fields = prediction.record()
            for name, value in item.data.items():
                if name in fields and value != fields[name]:
                    self._progress.warn(f"the input's key {name!r} is replaced in the output")
            kept = {key: value for key, value in item.data.items() if key not in fields}
            yield {**kept, **(fields if self._format == "jsonl" else _flat(fields))}, item.where


def _flat(fields: dict[str, Any]) -> dict[str, Any]:
    """Give each probability a column of its own."""
    shares = fields.get("probabilities") or {}
    if not isinstance(shares, dict):  # a list, with one a word
        return fields
    flat = {name: value for name, value in fields.items() if name != "probabilities"}
    return flat | {f"probability_{name}": share for name, share in shares.items()}
