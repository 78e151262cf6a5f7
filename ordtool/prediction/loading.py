"""A model folder to a classifier."""

from __future__ import annotations

import json

from ordtool.errors import OrdtoolError
from ordtool.models.resolve import resolve_model
from ordtool.prediction.classifiers import Classifier
from ordtool.prediction.config import PredictConfig
from ordtool.progress import SILENT, Progress
from ordtool.runtime import importing, resolve_device, set_threads


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
    with importing():
        set_threads(config.threads)
        device = resolve_device(config.device)
    if kind == "hsic_bottleneck":
        from ordtool.prediction.bottleneck import BottleneckClassifier

        network = BottleneckClassifier(folder, config, progress)
        return Classifier(network, network)
    if kind == "ordtool_ladder":
        with importing():
            from ordtool.prediction.text_classifiers import LadderClassifier

            return Classifier(LadderClassifier.load(folder, config.backbone, device, progress))
    if any(str(name).endswith("ForSequenceClassification") for name in names):
        from ordtool.prediction.text_classifiers import CheckpointClassifier

        return Classifier(CheckpointClassifier.load(folder, device))
    raise OrdtoolError(
        f"{config.model}: holds a model of type {kind!r} without a trained classifier",
        "name a ladder, a bottleneck network (ordtool train makes both) or a ...ForSequenceClassification",
    )
