"""What a classifier is to `predict`, and how a model folder becomes one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ordtool.errors import OrdtoolError
from ordtool.models.resolve import resolve_model
from ordtool.prediction.config import PredictConfig
from ordtool.progress import SILENT, Progress
from ordtool.runtime import resolve_device, set_threads

Rows = NDArray[np.float32]


class Scores(NamedTuple):
    """What a classifier says about some records; of one text, each array lacks its first axis.

    Attributes:
        rows: Probabilities `(records, classes)`; of a regression, scores `(records, 1)`.
        vectors: What they are read from, `(records, dim)`.
    """

    rows: Rows
    vectors: Rows


class TextClassifier(Protocol):
    """What labels texts.

    Attributes:
        labels: Names of the classes, in the order of the probabilities; none for a regression.
        pair_field: The key of the second text, where it takes two.
    """

    labels: list[str]
    pair_field: str | None

    def predict(
        self, texts: str | Sequence[str], pairs: str | Sequence[str] | None = None, *, batch_size: int = 32
    ) -> Scores:
        """Return probabilities or scores, and vectors."""


class VectorClassifier(Protocol):
    """What labels vectors."""

    def predict_vectors(self, vectors: NDArray[np.floating]) -> Scores:
        """Return probabilities or scores of vectors `(rows, dim)`, and the vectors that they are read from."""


class Classifier(NamedTuple):
    """A loaded classifier, by what it takes.

    Attributes:
        texts: What labels texts.
        vectors: What labels vectors; None where the model takes texts alone.
    """

    texts: TextClassifier
    vectors: VectorClassifier | None = None


def load_classifier(config: PredictConfig, progress: Progress = SILENT) -> Classifier:
    """Load the classifier in a folder, by what its config.json says it is.

    Raises:
        OrdtoolError: If the folder holds no classifier that is known.
    """
    folder = resolve_model(config.model, progress)
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OrdtoolError(f"{config.model}: its config.json can't be read ({error})") from None
    kind = found.get("model_type") if isinstance(found, dict) else None
    names = (found.get("architectures") or []) if isinstance(found, dict) else []
    set_threads(config.threads)
    device = resolve_device(config.device)
    if kind == "hsic_bottleneck":
        from ordtool.prediction.bottleneck import BottleneckClassifier

        network = BottleneckClassifier(folder, config, progress)
        return Classifier(network, network)
    if kind == "ordtool_ladder":
        from ordtool.prediction.text_classifiers import LadderClassifier

        return Classifier(LadderClassifier.load(folder, config.backbone, device, progress))
    if any(str(name).endswith("ForSequenceClassification") for name in names):
        from ordtool.prediction.text_classifiers import CheckpointClassifier

        return Classifier(CheckpointClassifier.load(folder, device))
    raise OrdtoolError(
        f"{config.model}: holds a model of type {kind!r} without a trained classifier",
        "name a ladder, a bottleneck network (ordtool train makes both) or a ...ForSequenceClassification",
    )
