"""Records in, labels out: the engine of `ordtool predict`, and `ordtool.predict`."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from ordtool.arguments import as_strings, is_one
from ordtool.batching import windows
from ordtool.errors import BadRecords, OrdtoolError, UsageError
from ordtool.io.formats import RowLines, output_format
from ordtool.io.inputs import read_again
from ordtool.io.resumable import Lines, resumable_lines
from ordtool.io.tables import find_column
from ordtool.prediction.classifiers import Scores
from ordtool.prediction.config import PredictConfig, PredictOptions
from ordtool.prediction.items import Answer, Item, Prediction, WordLabels
from ordtool.prediction.loading import load_classifier
from ordtool.prediction.reader import Reader, sentence_in
from ordtool.progress import SILENT, Progress, warn_each
from ordtool.tuning.data import Fields

FORMATS = ("jsonl", "csv")
_WINDOW = 512

__all__ = ["FORMATS", "Answer", "Prediction", "PredictionRun", "WordLabels", "predict"]

Vectors = NDArray[np.floating]


@overload
def predict(  # type: ignore[overload-overlap]  # a string is a sequence of strings, too
    records: str,
    model: str,
    pairs: str | None = None,
    *,
    progress: Progress = SILENT,
    **options: Unpack[PredictOptions],
) -> Prediction: ...
@overload
def predict(
    records: Sequence[str] | Vectors,
    model: str,
    pairs: Sequence[str] | None = None,
    *,
    progress: Progress = SILENT,
    **options: Unpack[PredictOptions],
) -> list[Prediction]: ...
def predict(
    records: str | Sequence[str] | Vectors,
    model: str,
    pairs: str | Sequence[str] | None = None,
    *,
    progress: Progress = SILENT,
    **options: Unpack[PredictOptions],
) -> Prediction | list[Prediction]:
    """Label one text or many, pairs of texts, or vectors.

    Args:
        records: A text, texts, or vectors `(rows, dim)` for a model that takes them. Where words are labelled, a text may be
            the list of its words.
        model: A ladder, a bottleneck network or a `...ForSequenceClassification`: a folder, a name or a hub id.
        pairs: The second text, or texts, for a model of pairs; the contexts, for one that answers questions.
        progress: Told of downloads.
        **options: The fields of `PredictConfig`: `vectors`, `batch_size`, `device`, ...

    Returns:
        A prediction for one text, a list for many or for vectors: where words are labelled a `WordLabels`, of an answer an
        `Answer`.

    Raises:
        UsageError: For vectors or pairs where the model takes none, or none where it takes pairs.
        OrdtoolError: If the model can't be fetched or loaded, or vectors have another width.
    """
    config = PredictConfig(model=model, **options)
    classifier = load_classifier(config, progress)
    if isinstance(records, np.ndarray):
        if classifier.vectors is None:
            raise UsageError(f"{model}: takes texts, and vectors were given")
        return _predictions(classifier.vectors.predict_vectors(records), classifier.labels, config)
    second = None if pairs is None else as_strings(pairs)
    if classifier.fields.pair is not None and second is None:
        raise UsageError(f"{model}: takes two texts, and one was given", "`pairs` has the second ones")
    texts = [records] if isinstance(records, str) else list(records)
    if second is not None and len(second) != len(texts):
        raise UsageError(f"{len(texts)} texts and {len(second)} second texts don't make pairs")
    if not texts:
        return []
    if classifier.tokens is not None:
        items = [
            Item(f"text {number}", {}, text, context, sentence=None if context else sentence_in(text))
            for number, (text, context) in enumerate(
                zip(texts, second or [None] * len(texts), strict=True), 1
            )
        ]
        found = list(classifier.tokens.predict(items, config.batch_size))
    else:
        assert classifier.texts is not None
        scores = classifier.texts.predict(texts, second, batch_size=config.batch_size)
        found = _predictions(scores, classifier.labels, config)
    return found[0] if is_one(records) else found


def _flat(fields: dict[str, Any]) -> dict[str, Any]:
    """Give each probability a column of its own."""
    shares = fields.get("probabilities") or {}
    if not isinstance(shares, dict):  # a list, with one a word
        return fields
    flat = {name: value for name, value in fields.items() if name != "probabilities"}
    return flat | {f"probability_{name}": share for name, share in shares.items()}


def _predictions(scores: Scores, labels: Sequence[str], config: PredictConfig) -> list[Prediction]:
    found = []
    for row, vector in zip(scores.rows, scores.vectors, strict=True):
        shares = {name: float(p) for name, p in zip(labels, row, strict=True)} if labels else None
        label = labels[int(row.argmax())] if labels else float(row[0])
        found.append(Prediction(label, shares, vector if config.vectors else None))
    return found


class PredictionRun:
    """Labels the items of files in windows, writes them, and measures where labels are known.

    Args:
        inputs: Files; none or `-` is stdin.
        config: How.
        progress: Told of the work.

    Attributes:
        evaluation: What is known of the figures so far.

    Raises:
        OrdtoolError: If the model can't be fetched or loaded.
    """

    def __init__(self, inputs: Sequence[str], config: PredictConfig, progress: Progress = SILENT) -> None:
        self._inputs = list(inputs)
        self._config = config
        self._progress = progress
        self._classifier = load_classifier(config, progress)
        self._reader = Reader(inputs, config, self._classifier, self._reject)
        self._skipped = BadRecords()
        self._told_replaced = False
        self.evaluation = self._classifier.evaluation()

    @property
    def fields(self) -> Fields:
        """Where texts and labels are."""
        return self._reader.fields

    def results(self, start: int = 0) -> Iterator[tuple[int, Item, Prediction]]:
        """Yield how many items are done, the item, and its prediction, after passing over `start` items."""
        items = self._reader.items()
        for _ in range(start):
            next(items, None)
        done = start
        for window in windows(items, _WINDOW):
            for item, prediction in zip(window, self._predict(window), strict=True):
                done += 1
                if prediction is not None:
                    if item.label is not None:
                        self.evaluation.add(item.label, prediction.guess)
                    yield done, item, prediction
            self._progress.advance(len(window))

    def write(
        self,
        output: str | Path | None,
        *,
        format: str | None = None,
        resume: bool = False,
        force: bool = False,
    ) -> None:
        """Write a record an item: the input's keys, `prediction`, `probabilities` and perhaps `vector`.

        A table has a column a class instead of `probabilities`: `probability_NAME`.

        Args:
            output: The file; None or `-` is stdout.
            format: One of `FORMATS`; None goes by the output's name.
            resume: Go on where an interrupted run stopped.
            force: Replace an existing output.
        """
        config = self._config
        format = output_format(output, FORMATS, format)
        settings = {
            "model": config.model,
            "embed_model": config.embed_model,
            "field": self._reader.fields.text,
            "vectors": config.vectors,
            "backbone": config.backbone,
        }
        files = read_again(self._inputs)
        with resumable_lines(output, inputs=files, settings=settings, resume=resume, force=force) as lines:
            resumed = lines.done > 0
            self._write(lines, format)
        if resumed and output is not None:
            self._evaluate_file(Path(output), format)

    def _write(self, lines: Lines, format: str) -> None:
        rows = RowLines(format, lines.file.name if lines.done else None)
        self._progress.start("predicting", None, "records")
        last = lines.done
        try:
            for done, item, prediction in self.results(lines.done):
                fields = prediction.record()
                self._tell_replaced(item, fields)
                kept = {key: value for key, value in item.data.items() if key not in fields}
                if format == "csv":
                    fields = _flat(fields)
                for line in rows.lines({**kept, **fields}, item.where):
                    lines.write(line)
                last = done
                if done % _WINDOW == 0:
                    lines.save(done)
            lines.save(last)
        except OrdtoolError:
            lines.save(last)
            raise
        finally:
            self._progress.close()

    def tell_skipped(self) -> None:
        """Say which items were skipped."""
        warn_each(self._skipped.report(), self._progress)

    def _evaluate_file(self, path: Path, format: str) -> None:
        """Measure all that a resumed run wrote, what was there before it too."""
        self.evaluation = self._classifier.evaluation()
        with open(path, encoding="utf-8", newline="\n") as file:
            for row in csv.DictReader(file) if format == "csv" else map(json.loads, file):
                names = list(row)
                place = find_column(names, self._reader.fields.label)
                if place is not None:
                    self.evaluation.add_written(row[names[place]], row["prediction"])

    def _reject(self, error: OrdtoolError) -> None:
        if self._config.on_error == "stop":
            raise error
        self._skipped.append(error)

    def _predict(self, window: Sequence[Item]) -> list[Prediction | None]:
        """Return a prediction an item; None for one that was skipped."""
        if self._classifier.tokens is not None:
            return list(self._classifier.tokens.predict(window, self._config.batch_size))
        found: list[Prediction | None] = [None] * len(window)
        texts = [(place, item.text, item.pair) for place, item in enumerate(window) if item.text is not None]
        if texts:
            classifier = self._classifier.texts
            assert classifier is not None
            pairs = None if classifier.pair_field is None else [pair or "" for _, _, pair in texts]
            scores = classifier.predict([t for _, t, _ in texts], pairs, batch_size=self._config.batch_size)
            predictions = _predictions(scores, classifier.labels, self._config)
            for (place, _, _), prediction in zip(texts, predictions, strict=True):
                found[place] = prediction
        vectors = {place: item.vector for place, item in enumerate(window) if item.vector is not None}
        if not vectors:
            return found
        if len({len(v) for v in vectors.values()}) == 1 and all(
            np.isfinite(v).all() for v in vectors.values()
        ):
            for place, prediction in zip(vectors, self._label(np.stack(list(vectors.values()))), strict=True):
                found[place] = prediction
            return found
        for place, vector in vectors.items():  # one by one, to name the one that is bad
            found[place] = self._label_one(window[place].where, vector)
        return found

    def _label(self, vectors: Vectors) -> list[Prediction]:
        assert self._classifier.vectors is not None
        scores = self._classifier.vectors.predict_vectors(vectors)
        return _predictions(scores, self._classifier.labels, self._config)

    def _label_one(self, where: str, vector: Vectors) -> Prediction | None:
        try:
            if not np.isfinite(vector).all():
                raise OrdtoolError(f"{where}: the vector holds NaN or an infinity")
            return self._label(vector[None])[0]
        except OrdtoolError as error:
            message = error.message if error.message.startswith(where) else f"{where}: {error.message}"
            self._reject(OrdtoolError(message, error.hint))
        return None

    def _tell_replaced(self, item: Item, fields: dict[str, Any]) -> None:
        replaced = [key for key, value in item.data.items() if key in fields and value != fields[key]]
        if replaced and not self._told_replaced:
            self._told_replaced = True
            self._progress.warn(f"{item.where}: the input's key {replaced[0]!r} is replaced in the output")
