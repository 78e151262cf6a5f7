"""Bottleneck networks for `ordtool predict`: vectors, or texts by way of an embedding model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ordtool.errors import OrdtoolError

if TYPE_CHECKING:
    import numpy as np

    from ordtool.cli._predicting import Answers, PredictOptions
    from ordtool.embedding.encoder import Encoder
    from ordtool.progress import Progress


class BottleneckPredictor:
    """A bottleneck network and, once a text comes, the model that embeds it."""

    takes_vectors = True
    pair_field = None

    def __init__(self, folder: Path, options: PredictOptions, progress: Progress) -> None:
        from ordtool.independence.bottleneck import load_bottleneck
        from ordtool.runtime import resolve_device, set_threads

        set_threads(options.threads)
        self._model = load_bottleneck(folder).to(resolve_device(options.device))
        self._folder = folder
        self._options = options
        self._progress = progress
        self._encoder: Encoder | None = None
        names = self._model.config.id2label
        self.labels = [names[index] for index in range(len(names))]

    def predict_vectors(self, vectors: np.ndarray) -> Answers:
        """Give probabilities, and the last layer's output where vectors are wanted."""
        from ordtool.cli._predicting import Answers

        rows = self._model.probabilities(vectors)
        return Answers(rows, self._last_layer(vectors) if self._options.vectors else None)

    def _last_layer(self, vectors: np.ndarray) -> np.ndarray:
        import torch

        with torch.inference_mode():
            inputs = torch.tensor(vectors, dtype=torch.float32, device=self._model.device)
            states = self._model.hidden(inputs)
            found: np.ndarray = (states[-1] if states else self._model.standardise(inputs)).cpu().numpy()
        return found

    def predict_texts(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Answers:
        """Embed, and give probabilities."""
        from ordtool.embedding.encoder import encode

        if self._encoder is None:
            self._encoder = self._load_encoder()
        return self.predict_vectors(encode(self._encoder, texts))

    def _load_encoder(self) -> Encoder:
        from ordtool.embedding.encoder import EncoderConfig, load_encoder

        name = self._options.embed or self._model.config.embedding_model
        if name is None:
            raise OrdtoolError(
                f"{self._folder}: takes vectors, and doesn't say what made them",
                "--embed MODEL embeds texts; ordtool train bottleneck --embed-model MODEL records it",
            )
        config = EncoderConfig(model=name, device=self._options.device, threads=self._options.threads)
        return load_encoder(config, self._progress)


def load(folder: Path, options: PredictOptions, progress: Progress) -> BottleneckPredictor:
    """Load a folder that `ordtool train bottleneck` wrote."""
    return BottleneckPredictor(folder, options, progress)
