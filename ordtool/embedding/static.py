r"""Static token vectors: a text is the weighted mean of its tokens' vectors, no network is run.

The recipe is model2vec's (Tulkens & van Dongen 2024, github.com/MinishLab/model2vec), and so is the layout of the
folder: `embeddings` `(rows, dim)`, optionally `weights` a token and `mapping` from tokens to rows. torch isn't needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordtool.embedding.encoder import Encoded, EncoderConfig
from ordtool.embedding.sentence_transformers_config import SentenceTransformersConfig, choose_prompt
from ordtool.embedding.statistics import normalize_rows
from ordtool.embedding.tokenizing import Tokens
from ordtool.errors import OrdtoolError, UsageError
from ordtool.models.long_texts import PIECE, pieces_of

_TABLES = ("embeddings", "embedding.weight")
_WINDOW_TEXTS = 8192


class StaticEncoder:
    """Means of token vectors; see `encoder.Encoder` for the attributes.

    Args:
        settings: The folder's own.
        config: The user's; what belongs to a network (pooling, layers) is refused.
    """

    layers = 0
    max_length: int | None = None
    model_limit: int | None = None
    window_texts = _WINDOW_TEXTS

    def __init__(self, settings: SentenceTransformersConfig, config: EncoderConfig) -> None:
        from ordtool.models.loading import read_tokenizer_file

        _refuse_network_options(config)
        folder = settings.transformer
        self._tokenizer = read_tokenizer_file(folder / "tokenizer.json")
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._table = _read_table(folder)
        self._unknown = _unknown_id(self._tokenizer)
        self._prompt = choose_prompt(settings, config.prompt, config.model)
        own = any(step.kind == "normalize" for step in settings.steps)
        self._normalize = own if config.normalize is None else config.normalize
        self.normalized = self._normalize
        self._lower_case = settings.lower_case
        self.dim = int(self._table.shape[1])
        self.notes: list[str] = []
        self.description = f"mean of static token vectors, {self.dim} dimensions"

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Tokenize a window."""
        batch = [self._prompt + text for text in texts] if self._prompt else list(texts)
        if self._lower_case:
            batch = [text.lower() for text in batch]
        if any(len(text) > PIECE for text in batch):
            return Tokens([list(chain.from_iterable(map(self._piece, pieces_of(text)))) for text in batch])
        encodings = self._tokenizer.encode_batch_fast(batch, add_special_tokens=False)
        return Tokens([encoding.ids for encoding in encodings])

    def _piece(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def run(self, tokens: Tokens, advance: Callable[[int], None] = lambda count: None) -> Encoded:
        """Average the vectors of each text's tokens; a text without known tokens is zeros."""
        from scipy.sparse import csr_array

        count = len(tokens.ids)
        lengths = np.fromiter(map(len, tokens.ids), dtype=np.int64, count=count)
        total = int(lengths.sum())
        ids = np.fromiter(chain.from_iterable(tokens.ids), dtype=np.int32, count=total)
        if ids.max(initial=0) >= len(self._table):
            raise OrdtoolError(
                f"the tokenizer gives the id {int(ids.max()):,}, and there are vectors for {len(self._table):,}",
                "tokenizer.json and model.safetensors belong to different models, or one of them is damaged",
            )
        if self._unknown is not None:
            ids, lengths = _without(ids, lengths, self._unknown)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        shares = np.repeat(1 / np.maximum(lengths, 1), lengths).astype(np.float32)
        counts = csr_array((shares, ids, starts), shape=(count, len(self._table)))
        rows = np.asarray(counts @ self._table)
        if self._normalize:
            normalize_rows(rows)
        advance(count)
        return Encoded(rows, 0, int((lengths == 0).sum()), total)


def _refuse_network_options(config: EncoderConfig) -> None:
    if config.compile:
        raise UsageError("static vectors have no forward pass to `compile`", "leave it out")
    for name in ("pooling", "layers", "skip_first", "max_length"):
        if getattr(config, name) is not None:
            raise UsageError(
                f"`{name}` has no meaning for static vectors: there are no layers, and every token counts",
                "leave it out, or use -m minilm",
            )


def _read_table(folder: Any) -> NDArray[np.float32]:
    """Return one float32 row a token id, `(tokens, dim)`."""
    from ordtool.models.loading import read_tensors

    tensors = read_tensors(folder / "model.safetensors", "numpy")
    name = next((name for name in _TABLES if name in tensors), None)
    if name is None:
        raise OrdtoolError(f"{folder}: no table of token vectors ({' or '.join(_TABLES)}) in it")
    table = tensors[name]
    if table.ndim != 2 or not table.size:
        raise OrdtoolError(f"{folder}: damaged: the table of token vectors has the shape {table.shape}")
    if "mapping" in tensors:
        mapping = tensors["mapping"]
        if mapping.ndim != 1 or mapping.dtype.kind not in "iu" or not _within(mapping, len(table)):
            raise OrdtoolError(f"{folder}: damaged: 'mapping' names rows that the table hasn't")
        table = table[mapping]
    table = table.astype(np.float32)
    if "weights" in tensors:
        if tensors["weights"].shape != (len(table),):
            raise OrdtoolError(
                f"{folder}: damaged: {len(table):,} tokens, and {tensors['weights'].shape} weights"
            )
        table *= tensors["weights"].astype(np.float32)[:, None]
    return table


def _within(rows: NDArray[Any], count: int) -> bool:
    return not rows.size or (int(rows.min()) >= 0 and int(rows.max()) < count)


def _unknown_id(tokenizer: Any) -> int | None:
    name = getattr(tokenizer.model, "unk_token", None)
    return tokenizer.token_to_id(name) if name else None


def _without(ids: NDArray[np.int32], lengths: NDArray[np.int64], token: int) -> tuple[Any, Any]:
    """Leave a token out."""
    drop = ids == token
    if not drop.any():
        return ids, lengths
    owner = np.repeat(np.arange(len(lengths)), lengths)[drop]
    return ids[~drop], lengths - np.bincount(owner, minlength=len(lengths))
