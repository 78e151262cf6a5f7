"""From a file of pairs to its rows of correlations: what `ordtool score similarity` runs."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ordtool.embedding.encoder import EncoderConfig
from ordtool.embedding.pair_folders import PairTask, read_pair_folder
from ordtool.embedding.pairs import Pair, begins_pairs, pairs_of, read_pairs
from ordtool.embedding.similarity import (
    SimilarityRow,
    fit_on_pairs,
    mean_rows,
    parse_setting,
    score_similarity,
)
from ordtool.embedding.whitening import Whitening, WhiteningWarning
from ordtool.embedding.work import EmbedWork
from ordtool.errors import BadRecords, OnError, OrdtoolError, UsageError, close_match_hint
from ordtool.io.atomic import atomic_output
from ordtool.io.inputs import open_input, separator_of, source_name
from ordtool.io.npy import read_npy
from ordtool.io.text import Record, records_of
from ordtool.progress import SILENT, Progress, warn_each
from ordtool.sharding.plan import Plan
from ordtool.sharding.records import Figures, RecordReader
from ordtool.sharding.run import Scale, ShardBar, Target, Totals, collect, open_executor, run

ON_ERROR = ("stop", "skip")
Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SimilarityConfig:
    """What one run of `ordtool score similarity` does.

    Attributes:
        pairs: The file of pairs, or a folder of tasks (see `read_pair_folder`); `-` is stdin.
        encoder: The model that embeds the sentences; not used with `vectors`.
        vectors: One NPY file with the vectors of both sentences of a pair in turn (`2n` rows), or two with the
            first and the second sentences (`n` rows each); empty embeds with `encoder`.
        columns: Names or positions of the two sentences and the score; None finds them.
        settings: Options of `Whitening` for a row each, such as `beta=0,gamma=0,dims=128`.
        dims: Numbers of columns to keep: the plain whitening and each setting have a row for each of them too.
        transform: A fitted transform.
        fit_on: What to fit on instead of the scored sentences: pairs, texts, a folder of tasks, or with `vectors` an
            NPY file.
        on_error: `stop` at a bad line of `pairs`, or `skip` it and tell of it at the end.
        scale: Who embeds.
    """

    pairs: str
    encoder: EncoderConfig = EncoderConfig()
    vectors: tuple[str, ...] = ()
    columns: tuple[str, ...] | None = None
    settings: tuple[str, ...] = ()
    dims: tuple[int, ...] = ()
    transform: Path | None = None
    fit_on: str | None = None
    on_error: str = "stop"
    scale: Scale = Scale()

    def __post_init__(self) -> None:
        """Check that the options go together.

        Raises:
            UsageError: For unknown names, settings without meaning and options that contradict each other.
        """
        if self.on_error not in ON_ERROR:
            raise UsageError(
                f"unknown `on_error` {self.on_error!r}", close_match_hint(self.on_error, ON_ERROR)
            )
        if self.transform is not None and self.fit_on is not None:
            raise UsageError(
                "`transform` and `fit_on` contradict each other", "a transform is fitted already"
            )
        if len(self.vectors) > 2:
            raise UsageError(
                f"`vectors` is given {len(self.vectors)} times",
                "once with both sentences of each pair in turn, or twice: first sentences, second sentences",
            )
        if self.vectors and self.on_error == "skip":
            raise UsageError(
                "`on_error` skip would shift the rows of `vectors`", "mend the file of pairs first"
            )
        if self.vectors and Path(self.pairs).is_dir():
            raise UsageError(
                "`vectors` go with one file of pairs, not with a folder", "leave them out: a model embeds"
            )
        if self.vectors and not self.scale.alone:
            raise UsageError("`workers` embed, and `vectors` are there already", "leave one of them out")
        for text in self.all_settings():
            parse_setting(text)

    def settings_of_run(self) -> dict[str, Any]:
        """Return what a resumed run must have in common with the interrupted one, as JSON holds it."""
        kept = {
            name: value for name, value in asdict(self).items() if name not in ("scale", "pairs", "fit_on")
        }
        kept["encoder"].pop("threads")
        return {**kept, "transform": None if self.transform is None else str(self.transform)}

    def all_settings(self) -> dict[str, int | None]:
        """Return what each row but the first two is whitened with, and the number of columns that `dims` asked for."""
        plain = {text: None for text in self.settings}
        bases = ["", *(text for text in self.settings if "dims" not in parse_setting(text))]
        return plain | {
            ",".join(filter(None, [base, f"dims={count}"])): count for base in bases for count in self.dims
        }


def score_pairs(
    config: SimilarityConfig,
    progress: Progress = SILENT,
    *,
    target: Target | None = None,
    write: Callable[[list[SimilarityRow], BinaryIO], None] | None = None,
) -> list[SimilarityRow]:
    """Score a file of pairs, with a row for raw vectors, whitened ones and each setting.

    Args:
        config: What to score, and how.
        progress: Told of the work.
        target: Where the rows go. The vectors of an interrupted run stand in its `.partial`, and a resumed run goes on
            with them; None: nowhere.
        write: Writes the rows into it.

    Returns:
        The rows; with `layers` of `all`, those of every layer in turn.

    Raises:
        OrdtoolError: A file can't be read or doesn't fit the pairs.
        UsageError: Options without meaning.
    """
    if target is not None:
        target.check()
    skipped = BadRecords()
    job = _SimilarityJob(config, skipped, progress)
    if config.vectors:
        rows = job.score_vectors()
        if target is not None and write is not None:
            with atomic_output(target.path, force=target.force) as file:
                write(rows, file)
    else:
        rows = job.score_embedded(target, write)
    progress.close()
    warn_each(skipped.report(), progress)
    return rows


class _SimilarityJob:
    def __init__(self, config: SimilarityConfig, skipped: BadRecords, progress: Progress) -> None:
        self._config = config
        self._progress = progress
        self._kept = config.all_settings()
        self._fitted = Whitening.load(config.transform) if config.transform else None
        self._tasks = _read_tasks(config, skipped.append if config.on_error == "skip" else None)
        self._pairs = [pair for task in self._tasks for pair in task.pairs]

    def score_vectors(self) -> list[SimilarityRow]:
        """Score vectors that are there."""
        config = self._config
        reference = read_npy(config.fit_on) if config.fit_on else None
        name = " + ".join(Path(name).name for name in config.vectors)
        rows = self._score(name, *_read(config.vectors, len(self._pairs)), reference)
        return [replace(row, dims=self._kept.get(row.transform)) for row in rows]

    def score_embedded(
        self, target: Target | None, write: Callable[[list[SimilarityRow], BinaryIO], None] | None
    ) -> list[SimilarityRow]:
        """Embed the sentences, each different one once, and score them."""
        config = self._config
        texts = [text for pair in self._pairs for text in (pair.left, pair.right)]
        others = _texts_to_fit_on(config.fit_on) if config.fit_on else []
        place: dict[str, int] = {}
        order = [place.setdefault(text, len(place)) for text in texts + others]
        work = EmbedWork(replace(config.encoder, threads=None), field=None)
        records = [Record("texts", number, text) for number, text in enumerate(place, start=1)]
        plan = Plan([], RecordReader(None), work.cut, given=records)
        found: list[SimilarityRow] = []
        bar = ShardBar(self._progress, "embedding", "texts")
        totals = Totals()
        with open_executor(config.scale, work, bar) as executor:
            facts = executor.facts
            for note in (f"{config.encoder.model}: {facts['description']}", *facts["notes"]):
                bar.note(note)

            def score(file: BinaryIO, output: BinaryIO | None) -> None:
                rows = np.frombuffer(file.read(), dtype=np.float32)
                shape = (len(place), facts["layers"], facts["dim"]) if facts["layers"] else (-1, facts["dim"])
                found.extend(self._score_layers(rows.reshape(shape)[order], len(texts), int(facts["layers"])))
                if write is not None and output is not None:
                    write(found, output)

            if target is None:
                data = io.BytesIO()
                collect(plan, executor, bar, data.write, totals)
                data.seek(0)
                score(data, None)
            else:
                run(plan, executor, target, Figures(score), bar, totals=totals)
        if truncated := totals.counts.get("truncated"):
            self._progress.warn(
                f"{truncated:,} sentences are longer than the {facts['max_length']} tokens that are read"
            )
        return found

    def _score_layers(self, rows: Rows, texts: int, layers: int) -> list[SimilarityRow]:
        """Score the vectors of the sentences in turn, and behind them those of the texts to fit on, by layer."""
        found: list[SimilarityRow] = []
        for layer in range(layers) if layers else [None]:
            kind = rows if layer is None else rows[:, layer]
            both, reference = kind[:texts], kind[texts:] if len(kind) > texts else None
            found += self._score(_label(self._config.encoder, layer), both[::2], both[1::2], reference)
        return [replace(row, dims=self._kept.get(row.transform)) for row in found]

    def _score(self, name: str, left: Rows, right: Rows, reference: Rows | None) -> list[SimilarityRow]:
        config = self._config
        scoring = _Scoring(
            {text: parse_setting(text) for text in self._kept},
            self._fitted,
            Path(config.transform or "").name,
        )
        if reference is not None:
            fitted = _fit(reference, source_name(str(config.fit_on)))
            scoring = replace(scoring, transform=fitted, transform_name="whitened")
        rows: list[SimilarityRow] = []
        end = 0
        for task in self._tasks:
            start, end = end, end + len(task.pairs)
            rows += _score_task(task, (left[start:end], right[start:end]), name, scoring, self._progress)
        return rows


@dataclass(frozen=True, slots=True)
class _Scoring:
    """What vectors are whitened with: the settings by name, and what was fitted before."""

    settings: dict[str, dict[str, Any]]
    transform: Whitening | None
    transform_name: str


def _read_tasks(config: SimilarityConfig, on_error: OnError | None) -> list[PairTask]:
    if Path(config.pairs).is_dir():
        return read_pair_folder(config.pairs, on_error=on_error)
    return [PairTask(None, {"": read_pairs(config.pairs, columns=config.columns, on_error=on_error)})]


def _score_task(
    task: PairTask, vectors: tuple[Rows, Rows], name: str, scoring: _Scoring, progress: Progress
) -> list[SimilarityRow]:
    """Score each part of a task with one whitening, fitted on all of it; then the whole, and the parts' means."""
    left, right = vectors
    transform = scoring.transform
    if transform is None and task.name is not None:
        transform = fit_on_pairs(left, right)

    def rows_of_pairs(pairs: list[Pair], first: int, listener: Progress) -> list[SimilarityRow]:
        part = slice(first, first + len(pairs))
        return score_similarity(
            left[part],
            right[part],
            [pair.score for pair in pairs],
            settings=scoring.settings,
            transform=transform,
            transform_name=scoring.transform_name if scoring.transform is not None else "whitened",
            vectors=name,
            progress=listener,
        )

    whole = rows_of_pairs(task.pairs, 0, progress)
    if task.name is None:
        return whole
    parts, first = [], 0
    for part, pairs in task.parts.items():
        found = rows_of_pairs(pairs, first, SILENT)
        parts.append([replace(row, task=task.name, part=part) for row in found])
        first += len(pairs)
    rows = [row for part_rows in parts for row in part_rows]
    if len(parts) > 1:
        rows += [replace(row, task=task.name, part="all") for row in whole] + mean_rows(parts)
    return rows


def _label(encoder: EncoderConfig, layer: int | None) -> str:
    """`minilm`, `minilm cls`, `smollm2 mean layer 1`."""
    name = Path(encoder.model).name or encoder.model
    layers = f"layer {layer}" if layer is not None else f"layers {encoder.layers}" if encoder.layers else None
    return " ".join(part for part in (name, encoder.pooling, layers) if part)


def _read(names: Sequence[str], pairs: int) -> tuple[Rows, Rows]:
    arrays = [read_npy(name) for name in names]
    wanted = 2 * pairs if len(arrays) == 1 else pairs
    for name, array in zip(names, arrays, strict=True):
        if array.shape[0] != wanted:
            raise OrdtoolError(
                f"{name}: {array.shape[0]:,} rows, and {pairs:,} pairs need {wanted:,}",
                "one file has both sentences of each pair in turn; two files have the first and the second sentences",
            )
    if len(arrays) == 1:
        return arrays[0][::2], arrays[0][1::2]
    if arrays[0].shape != arrays[1].shape:
        raise OrdtoolError(
            f"{names[0]} has {arrays[0].shape[1]} columns, {names[1]} has {arrays[1].shape[1]}",
            "both must come from the same model and settings",
        )
    return arrays[0], arrays[1]


def _texts_to_fit_on(path: str) -> list[str]:
    if Path(path).is_dir():
        found = [pair for task in read_pair_folder(path) for pair in task.pairs]
        return [text for pair in found for text in (pair.left, pair.right)]
    with open_input(path) as stream:
        first = stream.first_line().decode("utf-8", "replace")
        if separator_of(path) is not None or ((stream.once or "\t" in first) and begins_pairs(first)):
            return [text for pair in pairs_of(stream) for text in (pair.left, pair.right)]
        return [record.text for record in records_of(stream)]


def _fit(reference: Rows, name: str) -> Whitening:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WhiteningWarning)  # told with each row
        whitening = Whitening().fit(reference)
    whitening.fitted_on_ = f"{Path(name).name} ({reference.shape[0]:,} rows)"
    return whitening
