"""Embedding as work in shards: what a process, a worker or an actor does with the texts of one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordtool.embedding.encoder import WINDOW_CHARACTERS, Encoder, EncoderConfig
from ordtool.embedding.loading import load_encoder
from ordtool.embedding.outputs import to_precision, vector_bytes
from ordtool.embedding.statistics import normalize_rows
from ordtool.embedding.tokenizing import Tokens
from ordtool.embedding.whitening import Whitening
from ordtool.errors import OrdtoolError, UsageError
from ordtool.io.text import Record
from ordtool.progress import Progress
from ordtool.sharding.plan import Cut, Reader
from ordtool.sharding.records import RecordReader
from ordtool.sharding.work import Computed, OnBad, Runner

Rows = NDArray[np.float32]
# Of a shard: identical texts of it are computed once, and it is sorted by length as a whole.
SHARD_TEXTS = 4096


@dataclass(frozen=True, slots=True)
class EmbedWork:
    """Texts to vectors, in the bytes that are written.

    Attributes:
        encoder: The model and how it is used.
        format: `npy` (or rows alone), `jsonl`, `csv`, `parquet` or `arrow`.
        field: The key of the text; None: records are texts already.
        dims: Numbers of a vector to keep.
        precision: See `to_precision`.
        transform: A fitted whitening to apply.
        skips: Pass over bad records.
    """

    encoder: EncoderConfig
    format: str = "npy"
    field: str | None = "text"
    dims: int | None = None
    precision: str = "float32"
    transform: Path | None = None
    skips: bool = False

    @property
    def cut(self) -> Cut:
        """See `Work`."""
        return Cut(SHARD_TEXTS, WINDOW_CHARACTERS)

    def load(self, progress: Progress, threads: int | None) -> Runner:
        """See `Work`."""
        transform = None if self.transform is None else Whitening.load(self.transform)
        # `normalize` comes after a transform.
        normalize = None if transform is not None and self.encoder.normalize else self.encoder.normalize
        encoder = load_encoder(replace(self.encoder, normalize=normalize, threads=threads), progress)
        return _EmbedRunner(self, encoder, transform, progress)


class _EmbedRunner:
    def __init__(
        self, work: EmbedWork, encoder: Encoder, transform: Whitening | None, progress: Progress
    ) -> None:
        self.reader: Reader = RecordReader(work.field)
        self._work = work
        self._encoder = encoder
        self._transform = transform
        self._progress = progress
        if transform is not None and transform.n_features_in_ != encoder.dim:
            raise OrdtoolError(
                f"{work.transform}: takes vectors of {transform.n_features_in_} numbers, "
                f"and {work.encoder.model} gives {encoder.dim}",
                f"it was fitted on {transform.fitted_on_}; name the model and settings of those vectors",
            )
        width = encoder.dim if transform is None else transform.kernel_.shape[1]
        if work.dims is not None and work.dims > width:
            raise UsageError(
                f"`dims` {work.dims} is more than the {width} numbers of a vector", f"give {width} or less"
            )
        self._dims = width if work.dims is None else work.dims
        cut = self._dims < width
        self._normalize = (transform is not None and bool(work.encoder.normalize)) or (
            cut and encoder.normalized
        )
        self.facts: dict[str, Any] = {
            "dim": self._dims,
            "layers": encoder.layers,
            "description": encoder.description,
            "notes": list(encoder.notes),
            "max_length": encoder.max_length,
            "model_limit": encoder.model_limit,
        }

    def prepare(self, records: list[Record], indices: list[int], on_error: OnBad) -> _Prepared:
        """Find the different texts, and tokenize them."""
        place: dict[str, int] = {}
        source = [place.setdefault(record.text, len(place)) for record in records]
        return _Prepared(records, np.array(source, dtype=np.int64), self._encoder.tokenize(list(place)))

    def compute(self, prepared: _Prepared, settled: Any) -> Iterator[Computed]:
        encoded = self._encoder.run(prepared.tokens, self._progress.advance)
        _check_finite(encoded.rows, prepared)
        rows = to_precision(self._finish(encoded.rows), self._work.precision)[prepared.source]
        counts = {
            "computed": len(encoded.rows),
            "truncated": encoded.truncated,
            "empty": encoded.empty,
            "tokens": encoded.tokens,
        }
        data, columns = vector_bytes(self._work.format, prepared.records, rows, self._work.precision, settled)
        yield Computed(data, len(prepared.records), counts, columns)

    def _finish(self, rows: Rows) -> Rows:
        if self._transform is not None and len(rows):
            rows = self._transform.transform(rows).astype(np.float32, copy=False)
        if self._dims < rows.shape[-1]:
            rows = np.ascontiguousarray(rows[..., : self._dims])
        if self._normalize:
            normalize_rows(rows.reshape(-1, rows.shape[-1]))
        return rows


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Records, which of their different texts each has, and the tokens of those."""

    records: list[Record]
    source: NDArray[np.int64]
    tokens: Tokens


def _check_finite(rows: Rows, prepared: _Prepared) -> None:
    """Raise an OrdtoolError that names the first record whose vector is none."""
    finite = np.asarray(np.isfinite(rows).all(axis=tuple(range(1, rows.ndim))))
    if not finite.all():
        record = prepared.records[int(np.argmin(finite[prepared.source]))]
        raise OrdtoolError(
            f"{record.where}: the model's vector holds NaN or an infinity",
            "are its weights whole? `dtype` float32 reaches further than others",
        )
