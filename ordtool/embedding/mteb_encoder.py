"""A model with a whitening behind it, as mteb wants one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from ordtool.embedding.encoder import EncoderConfig, EncoderOptions, encode
from ordtool.embedding.loading import load_encoder
from ordtool.embedding.similarity import cosine_similarities
from ordtool.embedding.whitening import Whitening
from ordtool.errors import UsageError


class MtebEncoder:
    """What `mteb.evaluate` takes for a model: mteb's `EncoderProtocol`, without needing mteb to be made.

    Args:
        model_name: A folder, a catalogue name, or a hub id.
        revision: What mteb calls the model's version; said in its results and otherwise not used.
        transform: A fitted whitening, or its file; None leaves vectors as they are.
        **options: Fields of `EncoderConfig`: `pooling`, `prompt`, `device` and so on.

    Raises:
        UsageError: For options that make no sense, and `layers` of `all`.
        OrdtoolError: If the model or the transform can't be loaded.
    """

    def __init__(
        self,
        model_name: str = "minilm",
        revision: str | None = None,
        *,
        transform: Whitening | str | Path | None = None,
        **options: Unpack[EncoderOptions],
    ) -> None:
        if options.get("layers") == "all":
            raise UsageError("mteb takes one vector a text, and `layers` all gives several", "layers='1,-1'")
        self.model_name = model_name
        self.revision = revision
        self.transform = Whitening.load(transform) if isinstance(transform, str | Path) else transform
        self.encoder = load_encoder(EncoderConfig(model_name, **options))

    def encode(
        self, inputs: Iterable[Mapping[str, Any]] | Iterable[str], **kwargs: Any
    ) -> NDArray[np.float32]:
        """Encode texts, `(texts, width)`.

        Args:
            inputs: Batches with their texts under `text`, as mteb 2 gives them, or texts, as mteb 1 does.
            **kwargs: What mteb says of the task (`task_metadata`, `prompt_type` and others); not used.
        """
        texts: list[str] = []
        for one in inputs:
            if isinstance(one, str):
                texts.append(one)
            else:
                texts += one["text"]
        rows = encode(self.encoder, texts)
        return (
            rows if self.transform is None else self.transform.transform(rows).astype(np.float32, copy=False)
        )

    def similarity(self, embeddings1: Any, embeddings2: Any) -> NDArray[np.float64]:
        """Return the cosines of all rows of one with all rows of the other, `(n, m)`."""
        left, right = (_unit_rows(rows) for rows in (embeddings1, embeddings2))
        return np.asarray(left @ right.T)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> NDArray[np.float64]:
        """Return the cosine of each row with the same row of the other, `(n,)`."""
        return cosine_similarities(
            np.atleast_2d(np.asarray(embeddings1)), np.atleast_2d(np.asarray(embeddings2))
        )

    @property
    def mteb_model_meta(self) -> Any:
        """Say what the results are filed under; only mteb asks for it, so it is there."""
        from mteb.models import ModelMeta

        name = Path(self.model_name).name or self.model_name
        return ModelMeta.create_empty(
            {
                "name": f"ordtool/{name}{'' if self.transform is None else '-whitened'}",
                "revision": self.revision or "none",
                "embed_dim": self.encoder.dim
                if self.transform is None
                else int(self.transform.kernel_.shape[1]),
                "similarity_fn_name": "cosine",
            }
        )


def _unit_rows(rows: Any) -> NDArray[np.float64]:
    array = np.atleast_2d(np.asarray(rows, dtype=np.float64))
    lengths = np.linalg.norm(array, axis=1, keepdims=True)
    return np.divide(array, lengths, out=np.zeros_like(array), where=lengths > 0)
