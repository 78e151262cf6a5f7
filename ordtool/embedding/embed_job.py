"""Texts to vectors from file to file: what `ordtool embed` runs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from itertools import islice
from typing import Any, BinaryIO, Unpack

import numpy as np
from numpy.typing import NDArray

from ordtool.embedding.embed_config import EmbedConfig, EmbedReport, report_run
from ordtool.embedding.encoder import EncoderConfig, EncoderOptions, encode
from ordtool.embedding.loading import load_encoder
from ordtool.embedding.outputs import LayersForm, to_precision, vector_bytes, vector_form
from ordtool.embedding.statistics import normalize_rows
from ordtool.embedding.whitening import Whitening
from ordtool.embedding.work import EmbedWork
from ordtool.errors import OrdtoolError
from ordtool.io.atomic import file_fingerprint
from ordtool.io.streams import is_stream
from ordtool.io.text import Record, read_records
from ordtool.progress import SILENT, Progress
from ordtool.sharding.executors import Executor
from ordtool.sharding.plan import Plan, input_paths
from ordtool.sharding.records import ENDINGS, Figures, RecordReader
from ordtool.sharding.run import Form, ShardBar, Target, Totals, open_executor, open_form, run
from ordtool.sharding.work import Summary

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
        progress: A bar in bytes of the input, or in texts; notes; warnings of truncated texts.

    Returns:
        Counts, and the first bad records that were skipped.

    Raises:
        UsageError: For unknown names and contradicting options.
        OrdtoolError: If something can't be read, loaded or written.
    """
    config = replace(config, inputs=tuple(input_paths(config.inputs, ENDINGS)))
    config.check_files()
    _target(config, {}).check()
    bar = ShardBar(progress, "embedding", "texts")
    work = _work(config)
    with open_executor(config.scale, work, bar) as executor:
        job = _EmbedRun(config, work, executor, bar)
        try:
            report = job.write()
        finally:
            progress.close()
            job.totals.tell_skipped(progress)
    report_run(report, executor.facts, progress)
    return report


def _work(config: EmbedConfig) -> EmbedWork:
    """What is done with a shard; a whitening that is fitted on all vectors comes after it, and so do its options."""
    encoder = replace(config.encoder, threads=None)
    if config.whiten:
        return EmbedWork(
            replace(encoder, normalize=None if encoder.normalize else encoder.normalize),
            field=config.field,
            skips=config.on_error == "skip",
        )
    return EmbedWork(
        encoder,
        config.written,
        config.field,
        config.dims,
        config.precision,
        config.transform,
        config.on_error == "skip",
    )


def _target(config: EmbedConfig, settings: dict[str, Any]) -> Target:
    inputs = () if config.from_stdin else config.inputs
    folder = config.encoder.layers == "all"
    return Target(config.output, inputs, settings, config.resume, config.force, folder)


class _EmbedRun:
    """One run: shards of records through the encoder into an output."""

    def __init__(self, config: EmbedConfig, work: EmbedWork, executor: Executor, bar: ShardBar) -> None:
        self.totals = Totals()
        self._config = config
        self._executor = executor
        self._bar = bar
        self._plan = Plan(
            config.inputs, RecordReader(config.field), work.cut, skip=work.skips, part=config.shard_of
        )
        self._begin = time.perf_counter()
        self._warm: tuple[int, float] | None = None  # what was done, and when, once the first shard was there
        for note in executor.facts["notes"]:
            bar.note(note)
        bar.note(f"{config.encoder.model}: {executor.facts['description']}")

    def write(self) -> EmbedReport:
        """Write the vectors."""
        config, dim = self._config, int(self._executor.facts["dim"])
        if config.whiten:
            dim = self._write_whitened()
        elif layers := self._executor.facts["layers"]:
            self._run(LayersForm(layers, dim, config.precision))
        else:
            streams = is_stream(config.output) and config.written == "npy" and config.on_error == "stop"
            self._run(
                vector_form(config.written, dim, config.precision, self._expected() if streams else None)
            )
        return self._report(dim)

    def _run(self, form: Form) -> None:
        target = _target(self._config, self._settings())
        run(self._plan, self._executor, target, form, self._bar, totals=self.totals, heard=self._time)

    def _time(self, summary: Summary) -> None:
        if self._warm is None:
            self._warm = self.totals.records, time.perf_counter()

    def _report(self, dim: int) -> EmbedReport:
        totals, end = self.totals, time.perf_counter()
        before, since = self._warm or (0, self._begin)
        if before == totals.records:
            before, since = totals.before, self._begin
        return EmbedReport(
            totals.records,
            dim,
            **{name: totals.counts.get(name, 0) for name in ("computed", "truncated", "empty", "tokens")},
            seconds=end - self._begin,
            timed_texts=totals.records - before,
            timed_seconds=end - since,
            skipped=totals.bad,
        )

    # ------------------------------------------------------------------ whitening

    def _write_whitened(self) -> int:
        """Write raw vectors first, fit on them, then write the transformed ones."""
        config, dim = self._config, int(self._executor.facts["dim"])
        widths: list[int] = []

        def whiten(raw: BinaryIO, output: BinaryIO) -> None:
            shape = (self.totals.records, dim)
            if shape[0] < 2:
                raise OrdtoolError(f"`whiten` needs two texts or more, and there are {shape[0]}")
            array = np.memmap(raw, dtype=np.float32, mode="r", shape=shape)
            whitening = self._fit(array)
            widths.append(int(whitening.kernel_.shape[1]))
            self._write_transformed(whitening, array, output)

        self._run(Figures(whiten, binary=config.written not in ("jsonl", "csv")))
        return widths[0]

    def _write_transformed(self, whitening: Whitening, array: Rows, output: BinaryIO) -> None:
        config = self._config
        form = vector_form(config.written, int(whitening.kernel_.shape[1]), config.precision, len(array))
        with open_form(output, form, len(array), beside=config.output) as sink:
            columns = None
            records = None if config.written == "npy" else self._records()
            for rows in whitening.iter_transform(array):
                if config.encoder.normalize:
                    normalize_rows(rows)
                own = [] if records is None else list(islice(records, len(rows)))
                narrow = to_precision(rows, config.precision)
                data, columns = vector_bytes(config.written, own, narrow, config.precision, columns)
                sink.write(data)

    def _fit(self, array: Rows) -> Whitening:
        from ordtool.embedding.statistics import accumulate
        from ordtool.embedding.whitening_job import describe

        names = ", ".join(self._config.inputs) if not self._config.from_stdin else "<stdin>"
        fitted_on = f"{names} ({len(array):,} texts, {self._config.encoder.model})"
        moments = accumulate(array)
        whitening = Whitening.from_moments(moments, fitted_on, dims=self._config.dims)
        for note in whitening.notes_:
            self._bar.warn(note)
        self._bar.note(describe(whitening))
        return whitening

    # ------------------------------------------------------------------ the input

    def _records(self) -> Iterator[Record]:
        on_error = (lambda error: None) if self._config.on_error == "skip" else None
        return read_records(self._config.inputs, self._config.field, on_error=on_error)

    def _expected(self) -> int | None:
        """Count the good records of files, or of a part of them; None where they can be read once only."""
        if self._config.from_stdin:
            return None
        total = sum(
            1 for _ in read_records(self._config.inputs, self._config.field, on_error=lambda error: None)
        )
        part, parts = self._config.shard_of
        return total * part // parts - total * (part - 1) // parts

    def _settings(self) -> dict[str, Any]:
        """Return what a resumed run must have in common with the interrupted one."""
        config = self._config
        settings = {name: value for name, value in asdict(config.encoder).items() if name != "threads"}
        if not config.encoder.compile:  # which runs of before it was there don't have
            settings.pop("compile")
        if config.whiten:  # raw vectors: what they are cut to and written as comes later
            settings["normalize"] = None if config.encoder.normalize else config.encoder.normalize
            names = ("field", "shard", "on_error")
            whitened = {name: getattr(config, name) for name in names}
            return settings | whitened | {"whiten": True, "encoder": self._executor.facts["description"]}
        transform = None if config.transform is None else file_fingerprint([config.transform])
        return settings | {
            "form": config.written,
            "field": config.field,
            "dims": config.dims,
            "precision": config.precision,
            "transform": transform,
            "shard": config.shard,
            "on_error": config.on_error,
            "encoder": self._executor.facts["description"],
        }
