"""Ladders, and plain sequence-classification checkpoints, for `ordtool predict`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from ordtool.cli._predicting import Answers, PredictOptions
    from ordtool.progress import Progress
    from ordtool.tuning.predicting import TextClassifier


class TextPredictor:
    """A classifier of texts behind the interface of `ordtool predict`."""

    takes_vectors = False

    def __init__(self, classifier: TextClassifier, options: PredictOptions) -> None:
        self._classifier = classifier
        self._options = options
        self.labels = list(classifier.labels)
        self.pair_field = classifier.pair_field

    def predict_texts(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Answers:
        """Give probabilities or scores, and vectors where they are wanted."""
        from ordtool.cli._predicting import Answers

        rows, vectors = self._classifier.predict(texts, pairs, batch_size=self._options.batch_size)
        return Answers(rows, vectors if self._options.vectors else None)

    def predict_vectors(self, vectors: np.ndarray) -> Answers:
        """Never asked for: it takes texts."""
        raise NotImplementedError


def load(folder: Path, options: PredictOptions, progress: Progress) -> TextPredictor:
    """Load a folder that `ordtool train ladder` wrote."""
    from ordtool.runtime import resolve_device, set_threads
    from ordtool.tuning.predicting import LadderClassifier

    set_threads(options.threads)
    device = resolve_device(options.device)
    return TextPredictor(LadderClassifier.load(folder, options.backbone, device, progress), options)


def load_classifier(folder: Path, options: PredictOptions, progress: Progress) -> TextPredictor:
    """Load a sequence-classification checkpoint."""
    from ordtool.runtime import resolve_device, set_threads
    from ordtool.tuning.predicting import CheckpointClassifier

    set_threads(options.threads)
    return TextPredictor(CheckpointClassifier.load(folder, resolve_device(options.device)), options)
