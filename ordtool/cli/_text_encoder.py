"""Texts embedded for commands that take vectors: here two subjects meet."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from ordtool.progress import Progress


def text_encoder(
    model: str | None, device: str, threads: int | None, progress: Progress
) -> Callable[[list[str]], np.ndarray] | None:
    """Return a function that embeds texts, `(texts, dim)`, as the model's own folder wants it; None without a model.

    The model is loaded when the first texts come.
    """
    if model is None:
        return None

    def embed(texts: list[str]) -> np.ndarray:
        from ordtool.embedding.encoder import EncoderConfig, encode
        from ordtool.embedding.loading import load_encoder

        encoder = load_encoder(EncoderConfig(model=model, device=device, threads=threads), progress)
        for note in encoder.notes:
            progress.note(f"{model}: {note}")
        progress.note(f"embedding {len(texts)} texts with {model} ({encoder.description})")
        return encode(encoder, texts)

    return embed
