"""A model's name to what turns texts into vectors."""

from __future__ import annotations

from ordtool.embedding.encoder import Encoder, EncoderConfig
from ordtool.embedding.sentence_transformers_config import read_model_folder
from ordtool.progress import SILENT, Progress


def load_encoder(config: EncoderConfig, progress: Progress = SILENT) -> Encoder:
    """Load what turns texts into vectors.

    Args:
        config: The model and how to use it.
        progress: Told of a download and of what the model's settings are.

    Returns:
        The encoder; `encode(encoder, texts)` uses it.

    Raises:
        UsageError: For unknown names and contradicting options.
        OrdtoolError: If the model can't be fetched or loaded.
    """
    from ordtool.models.resolve import resolve_model

    folder = resolve_model(config.model, progress, kind="encoder")
    settings = read_model_folder(folder)
    if settings.static:
        from ordtool.embedding.static import StaticEncoder

        return StaticEncoder(settings, config)
    from ordtool.runtime import importing, quiet_libraries

    quiet_libraries()
    with importing():
        from ordtool.embedding.transformer_encoder import TransformerEncoder

        return TransformerEncoder(settings, config)
