"""Records in, labels out: `ordtool.predict`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack, overload

import numpy as np
from numpy.typing import NDArray

from ordtool.arguments import as_strings, is_one
from ordtool.errors import UsageError
from ordtool.prediction.classifiers import Scores
from ordtool.prediction.config import PredictConfig, PredictOptions
from ordtool.prediction.items import Answer, Item, Prediction, WordLabels
from ordtool.prediction.loading import load_classifier
from ordtool.prediction.reader import sentence_in
from ordtool.progress import SILENT, Progress

__all__ = ["Answer", "Prediction", "Vectors", "WordLabels", "predict", "predictions_of"]

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
        return predictions_of(classifier.vectors.predict_vectors(records), classifier.labels, config)
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
        found = predictions_of(scores, classifier.labels, config)
    return found[0] if is_one(records) else found


def predictions_of(scores: Scores, labels: Sequence[str], config: PredictConfig) -> list[Prediction]:
    """Return a prediction for each row of a classifier's scores."""
    found = []
    for row, vector in zip(scores.rows, scores.vectors, strict=True):
        shares = {name: float(p) for name, p in zip(labels, row, strict=True)} if labels else None
        label = labels[int(row.argmax())] if labels else float(row[0])
        found.append(Prediction(label, shares, vector if config.vectors else None))
    return found
