"""Texts to vectors from file to file: what `ordtool embed` runs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from ordtool.batching import windows
from ordtool.embedding.batching import EmbeddingCache
from ordtool.embedding.embed_config import EmbedConfig, EmbedReport, report_run
from ordtool.embedding.encoder import WINDOW_CHARACTERS, Encoder, EncoderConfig, EncoderOptions, encode
from ordtool.embedding.loading import load_encoder
from ordtool.embedding.outputs import NpyRows, Output, OutputConfig, open_output, to_precision
from ordtool.embedding.statistics import normalize_rows
from ordtool.embedding.tokenizing import Tokens
from ordtool.embedding.whitening import Whitening
from ordtool.errors import BadRecords, OrdtoolError, UsageError
from ordtool.io.atomic import temporary_file
from ordtool.io.npy import NpyWriter
from ordtool.io.text import Record, read_records
from ordtool.parallel import one_ahead
from ordtool.progress import SILENT, Progress

Rows = NDArray[np.float32]


def embed(
    texts: str | Iterable[str],
    model: str = "minilm",
    *,
    progress: Progress = SILENT,
    **options: Unpack[EncoderOptions],
) -> Rows:
    """Embed one text, or many.

    Args:
        texts: A text, or any number that fits in memory; `embed_files` streams.
        model: A folder, a catalogue name, or a hub id.
        progress: Told of a download, and of what the model's settings are.
        **options: The other fields of `EncoderConfig`: `pooling`, `layers`, `prompt`, `normalize`, ...

    Returns:
        `(dim,)` for one text, `(texts, dim)` for many, float32; with `layers="all"` an axis of layers before the last.

    Raises:
        UsageError: For unknown names and contradicting options.
        OrdtoolError: If the model can't be fetched or loaded.
    """
    return encode(load_encoder(EncoderConfig(model=model, **options), progress), texts)


def embed_files(config: EmbedConfig, progress: Progress = SILENT) -> EmbedReport:
    """Embed the texts of files into a file; memory doesn't grow with the input.

    Args:
        config: Inputs, output and everything between.
        progress: A bar in texts; notes; warnings of truncated texts.

    Returns:
        Counts, and the bad records that were skipped.

    Raises:
        UsageError: For unknown names and contradicting options.
        OrdtoolError: If something can't be read, loaded or written.
    """
    config.check_files()
    transform = None if config.transform is None else Whitening.load(config.transform)
    encoder = load_encoder(_encoder_config(config), progress)
    for note in encoder.notes:
        progress.note(note)
    progress.note(f"{config.encoder.model}: {encoder.description}")
    if transform is not None and transform.n_features_in_ != encoder.dim:
        raise OrdtoolError(
            f"{config.transform}: takes vectors of {transform.n_features_in_} numbers, "
            f"and {config.encoder.model} gives {encoder.dim}",
            f"it was fitted on {transform.fitted_on_}; name the model and settings of those vectors",
        )
    run = _EmbedRun(config, encoder, transform, progress)
    report = run.write_whitened() if config.whiten else run.write()
    report_run(report, encoder, progress)
    return report


def _encoder_config(config: EmbedConfig) -> EncoderConfig:
    """Leave `normalize` to the end where a transform comes between."""
    if config.encoder.normalize and (config.whiten or config.transform is not None):
        return replace(config.encoder, normalize=None)
    return config.encoder


class _EmbedRun:
    """One run: records in windows through the encoder into an output."""

    def __init__(
        self, config: EmbedConfig, encoder: Encoder, transform: Whitening | None, progress: Progress
    ) -> None:
        self._config = config
        self._encoder = encoder
        self._transform = transform
        self._progress = progress
        self._report = EmbedReport()
        self._total = None if config.from_stdin else count_records(config.inputs, config.field)
        width = encoder.dim if transform is None else transform.kernel_.shape[1]
        if config.dims is not None and config.dims > width:
            raise UsageError(
                f"`dims` {config.dims} is more than the {width} numbers of a vector", f"give {width} or less"
            )
        cut = config.dims is not None and config.dims < width and not config.whiten
        self._dims = config.dims if cut and config.dims else width
        after_transform = transform is not None and bool(config.encoder.normalize)
        self._normalize = after_transform or (cut and encoder.normalized)
        self._cut = cut

    # ------------------------------------------------------------------ the two ways

    def write(self) -> EmbedReport:
        """Write the vectors as they come."""
        config = self._config
        output_config = OutputConfig(
            config.output,
            config.written,
            self._dims,
            config.precision,
            layers=self._encoder.layers,
            rows=None if config.on_error == "skip" else self._expected(),
            inputs=() if config.from_stdin else config.inputs,
            settings=self._settings(),
            resume=config.resume,
            force=config.force,
        )
        with open_output(output_config) as output:
            self._stream(output, config.precision)
        return self._report

    def write_whitened(self) -> EmbedReport:
        """Write raw vectors to a temporary file, fit on it, then write the transformed ones."""
        config = self._config
        with temporary_file(config.output) as spool:
            raw = NpyRows(NpyWriter(spool, self._encoder.dim, "float32"))
            start = spool.tell()
            self._stream(raw, "float32")
            spool.flush()
            shape = (raw.writer.rows, self._encoder.dim)
            array = np.memmap(spool, dtype=np.float32, mode="r", offset=start, shape=shape)
            whitening = self._fit(array)
            width = whitening.kernel_.shape[1]
            output_config = OutputConfig(
                config.output, config.written, width, config.precision, rows=len(array), force=config.force
            )
            with open_output(output_config) as output:
                self._write_whitened(whitening, array, output)
        return self._report

    def _fit(self, array: Rows) -> Whitening:
        from ordtool.embedding.statistics import accumulate
        from ordtool.embedding.whitening_job import describe

        if len(array) < 2:
            raise OrdtoolError(f"`whiten` needs two texts or more, and there are {len(array)}")
        self._progress.start("fitting", len(array), "rows")
        moments = accumulate(array, progress=self._progress)
        names = ", ".join(self._config.inputs) or "<stdin>"
        fitted_on = f"{names} ({len(array):,} texts, {self._config.encoder.model})"
        whitening = Whitening.from_moments(moments, fitted_on, dims=self._config.dims)
        for note in whitening.notes_:
            self._progress.warn(note)
        self._progress.note(describe(whitening))
        return whitening

    def _write_whitened(self, whitening: Whitening, array: Rows, output: Output) -> None:
        records = self._records() if not self._config.from_stdin else None
        done = 0
        for rows in whitening.iter_transform(array):
            chunk = [] if records is None else [next(records) for _ in range(len(rows))]
            if self._config.encoder.normalize:
                normalize_rows(rows)
            done += len(rows)
            output.write(chunk, to_precision(rows, self._config.precision), done)
        self._report.dim = whitening.kernel_.shape[1]

    # ------------------------------------------------------------------ the stream

    def _stream(self, output: Output, precision: str) -> None:
        self._progress.start("embedding", self._expected(), "texts")
        if output.done:
            self._progress.note(f"going on after {output.done:,} texts")
        begin = time.perf_counter()
        seen = EmbeddingCache()
        done = 0
        warm: tuple[int, float] | None = None  # what was done, and when, once the first window was computed
        for window in one_ahead(self._prepared(output.done)):
            count = len(window.records)
            known = seen.get(window.texts)
            if window.tokens is None and output.earlier is not None:
                unique = output.earlier.read(count)[window.first]
                self._progress.advance(count)
            else:
                unique = self._compute(window, known)
                output.write(window.records, to_precision(unique[window.source], precision), done + count)
            seen.add([text for text, row in zip(window.texts, known, strict=True) if row is None],
                     unique[[row is None for row in known]])  # fmt: skip
            done += count
            if warm is None and window.tokens is not None:
                warm = done, time.perf_counter()
        self._progress.close()
        end, report = time.perf_counter(), self._report
        report.texts, report.dim, report.seconds = done, self._dims, end - begin
        before, since = warm if warm is not None and warm[0] < done else (0, begin)
        report.timed_texts, report.timed_seconds = done - before, end - since

    def _prepared(self, passed: int) -> Iterator[_Window]:
        start = 0
        for records in self._windows():
            yield self._prepare(passed, start, records)
            start += len(records)

    def _prepare(self, passed: int, start: int, records: list[Record]) -> _Window:
        """Find the different texts and tokenize them; runs a window ahead, in another thread."""
        place: dict[str, int] = {}
        first: list[int] = []
        source = np.empty(len(records), dtype=np.int64)
        for index, record in enumerate(records):
            if record.text not in place:
                place[record.text] = len(first)
                first.append(index)
            source[index] = place[record.text]
        texts = list(place)
        tokens = None if start + len(records) <= passed else self._encoder.tokenize(texts)
        return _Window(records, first, source, texts, tokens)

    def _compute(self, window: _Window, known: list[Rows | None]) -> Rows:
        """Return the finished rows of the window's different texts."""
        assert window.tokens is not None
        new = [index for index, row in enumerate(known) if row is None]
        encoded = self._encoder.run(window.tokens.take(new), self._progress.advance)
        self._progress.advance(len(window.records) - len(new))
        self._report.computed += len(new)
        self._report.truncated += encoded.truncated
        self._report.empty += encoded.empty
        self._report.tokens += encoded.tokens
        rows = self._finish(encoded.rows)
        if len(new) == len(known):
            return rows
        out = np.empty((len(known), *rows.shape[1:]), dtype=np.float32)
        out[new] = rows
        for index, row in enumerate(known):
            if row is not None:
                out[index] = row
        return out

    def _finish(self, rows: Rows) -> Rows:
        if self._transform is not None and len(rows):
            rows = self._transform.transform(rows).astype(np.float32, copy=False)
        if self._cut:
            rows = np.ascontiguousarray(rows[..., : self._dims])
        if self._normalize:
            flat = rows.reshape(-1, rows.shape[-1])
            normalize_rows(flat)
        return rows

    def _windows(self) -> Iterator[list[Record]]:
        return windows(
            self._records(), self._encoder.window_texts, WINDOW_CHARACTERS, lambda record: len(record.text)
        )

    def _records(self) -> Iterator[Record]:
        config = self._config
        self._report.skipped.clear()
        on_error = self._report.skipped.append if config.on_error == "skip" else None
        records = read_records(config.inputs, config.field, on_error=on_error)
        if config.shard is None:
            return records
        start, stop = self._shard()
        return islice(records, start, stop)

    def _shard(self) -> tuple[int, int]:
        part, parts = self._config.shard_of
        total = self._total or 0
        return total * (part - 1) // parts, total * part // parts

    def _expected(self) -> int | None:
        if self._total is None:
            return None
        start, stop = self._shard()
        return stop - start

    def _settings(self) -> dict[str, Any]:
        """Return what a resumed run must have in common with the interrupted one."""
        config = self._config
        settings = {name: value for name, value in asdict(config.encoder).items() if name != "threads"}
        if not config.encoder.compile:  # which runs of before it was there don't have
            settings.pop("compile")
        transform = None
        if config.transform is not None:
            from ordtool.io.atomic import file_fingerprint

            transform = file_fingerprint([config.transform])
        return settings | {
            "form": config.written,
            "field": config.field,
            "dims": config.dims,
            "precision": config.precision,
            "transform": transform,
            "shard": config.shard,
            "on_error": config.on_error,
            "encoder": self._encoder.description,
        }


@dataclass(frozen=True, slots=True)
class _Window:
    """Records, their different texts, and which of them each record has.

    Attributes:
        records: The records.
        first: For each different text the first record that has it.
        source: For each record the number of its text.
        texts: The different texts.
        tokens: Their tokens; None where an interrupted run has done the window.
    """

    records: list[Record]
    first: list[int]
    source: NDArray[np.int64]
    texts: list[str]
    tokens: Tokens | None


def count_records(paths: Iterable[str], field: str) -> int:
    """Count the good records of files."""
    return sum(1 for _ in read_records(list(paths), field, on_error=BadRecords().append))
