"""Bottleneck networks as classifiers: of vectors, and of texts by way of an embedding model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ordtool.arguments import as_strings, is_one
from ordtool.embedding.encoder import Encoder, EncoderConfig, encode
from ordtool.embedding.loading import load_encoder
from ordtool.errors import OrdtoolError
from ordtool.independence.bottleneck import load_bottleneck
from ordtool.prediction.classifiers import Scores
from ordtool.prediction.config import PredictConfig
from ordtool.progress import SILENT, Progress
from ordtool.runtime import resolve_device


class BottleneckClassifier:
    """A bottleneck network and, once a text comes, the model that embeds it.

    Args:
        folder: What `ordtool train bottleneck` wrote.
        config: Where it runs, and what embeds texts.
        progress: Told of downloads.
    """

    pair_field: str | None = None

    def __init__(self, folder: Path, config: PredictConfig, progress: Progress = SILENT) -> None:
        self._model = load_bottleneck(folder).to(resolve_device(config.device))
        self._folder = folder
        self._config = config
        self._progress = progress
        self._encoder: Encoder | None = None
        names = self._model.config.id2label
        self.labels: list[str] = [names[index] for index in range(len(names))]

    def predict_vectors(self, vectors: NDArray[np.floating]) -> Scores:
        """Return probabilities, and the last layer's output."""
        return Scores(self._model.probabilities(vectors), self._last_layer(vectors))

    @torch.inference_mode()
    def _last_layer(self, vectors: NDArray[np.floating]) -> NDArray[np.float32]:
        inputs = torch.tensor(vectors, dtype=torch.float32, device=self._model.device)
        states = self._model.hidden(inputs)
        found: NDArray[np.float32] = (states[-1] if states else self._model.standardise(inputs)).cpu().numpy()
        return found

    def predict(
        self, texts: str | Sequence[str], pairs: str | Sequence[str] | None = None, *, batch_size: int = 32
    ) -> Scores:
        """Embed texts, or one, and return what `predict_vectors` does; `pairs` and `batch_size` are of no use here."""
        if is_one(texts):
            rows, vectors = self.predict(as_strings(texts))
            return Scores(rows[0], vectors[0])
        if self._encoder is None:
            self._encoder = self._load_encoder()
        return self.predict_vectors(encode(self._encoder, texts))

    def _load_encoder(self) -> Encoder:
        name = self._config.embed_model or self._model.config.embedding_model
        if name is None:
            raise OrdtoolError(
                f"{self._folder}: takes vectors, and doesn't say what made them",
                "`embed_model` embeds texts; ordtool train bottleneck --embed-model MODEL records it",
            )
        config = EncoderConfig(model=name, device=self._config.device, threads=self._config.threads)
        return load_encoder(config, self._progress)
