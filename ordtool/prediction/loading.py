"""A model folder to a classifier."""

from __future__ import annotations

from ordtool.errors import OrdtoolError, UsageError
from ordtool.models.loading import read_json
from ordtool.models.resolve import resolve_model
from ordtool.prediction.classifiers import Classifier, TokenClassifier
from ordtool.prediction.config import PredictConfig
from ordtool.progress import SILENT, Progress
from ordtool.runtime import importing, resolve_device, set_threads
from ordtool.tuning.data import TOKEN_TASKS


def load_classifier(config: PredictConfig, progress: Progress = SILENT) -> Classifier:
    """Load the classifier in a folder, by what its config.json says it is.

    Raises:
        OrdtoolError: If the folder holds no classifier that is known.
    """
    folder = resolve_model(config.model, progress)
    found = read_json(folder / "config.json")
    kind = found.get("model_type")
    names = found.get("architectures") or []
    with importing():
        set_threads(config.threads)
        device = resolve_device(config.device)
    if kind == "hsic_bottleneck":
        from ordtool.prediction.bottleneck import BottleneckClassifier

        network = BottleneckClassifier(folder, config, progress)
        return Classifier(network, network)
    if kind == "ordtool_ladder":
        if found.get("task") in TOKEN_TASKS:
            with importing():
                from ordtool.prediction.token_classifiers import load_token_ladder

                return Classifier(
                    tokens=_without_vectors(
                        load_token_ladder(folder, config.backbone, device, progress), config
                    )
                )
        with importing():
            from ordtool.prediction.text_classifiers import LadderClassifier

            return Classifier(LadderClassifier.load(folder, config.backbone, device, progress))
    if any(str(name).endswith("ForSequenceClassification") for name in names):
        from ordtool.prediction.text_classifiers import CheckpointClassifier

        return Classifier(CheckpointClassifier.load(folder, device))
    for ending, span in (("ForTokenClassification", False), ("ForQuestionAnswering", True)):
        if any(str(name).endswith(ending) for name in names):
            from ordtool.prediction.token_classifiers import load_token_checkpoint

            return Classifier(
                tokens=_without_vectors(load_token_checkpoint(folder, device, span=span), config)
            )
    raise OrdtoolError(
        f"{config.model}: holds a model of type {kind!r} without a trained classifier",
        "name a ladder, a bottleneck network (ordtool train makes both) or a ...ForSequenceClassification",
    )


def _without_vectors(classifier: TokenClassifier, config: PredictConfig) -> TokenClassifier:
    if config.vectors:
        raise UsageError(f"{config.model}: labels tokens, and `vectors` are of whole texts")
    return classifier
