"""What one run of `ordtool embed` does, what it refuses before any work, and what it did."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ordtool.arguments import as_strings
from ordtool.embedding.encoder import EncoderConfig
from ordtool.embedding.outputs import FORMATS, PRECISIONS
from ordtool.errors import BadRecords, UsageError, close_match_hint
from ordtool.io import arrow
from ordtool.io.atomic import check_directory, check_output
from ordtool.io.formats import output_format
from ordtool.io.inputs import STDIN, check_inputs, reads_once
from ordtool.progress import Progress, counted
from ordtool.sharding.run import Scale


@dataclass(frozen=True, slots=True)
class EmbedConfig:
    """What one run of `ordtool embed` does.

    Attributes:
        encoder: The model and how it is used.
        inputs: Text or JSONL files; none or `-` is stdin.
        field: The key of a JSONL object that holds the text.
        output: The file, or with `encoder.layers` = `all` the folder; None is stdout.
        format: `npy`, `jsonl`, `csv`, `parquet`, `arrow`, or None: by the output's name, else `npy`.
        dims: Keep this many numbers of a vector; with `whiten`, this many directions.
        precision: `float32`, `float16` or `int8`.
        whiten: Fit a whitening on these very vectors and apply it.
        transform: A fitted whitening to apply.
        on_error: `stop` at a bad record, or `skip` it.
        scale: Who does the work; its threads are those of the encoder.
        shard: `i/N`: only the i-th of N equal parts of the input, from 1.
        resume: Go on where an interrupted run stopped.
        force: Replace an existing output.
    """

    encoder: EncoderConfig = dataclasses.field(default_factory=EncoderConfig)
    inputs: tuple[str, ...] = ()
    field: str = "text"
    output: Path | None = None
    format: str | None = None
    dims: int | None = None
    precision: str = "float32"
    whiten: bool = False
    transform: Path | None = None
    on_error: str = "stop"
    shard: str | None = None
    scale: Scale = dataclasses.field(default_factory=Scale)
    resume: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        """Take one path for several, and check what can be checked without reading anything.

        Raises:
            UsageError: For unknown names and contradicting options.
        """
        object.__setattr__(self, "inputs", as_strings(self.inputs))
        if self.scale.threads is None and self.encoder.threads is not None:
            object.__setattr__(self, "scale", dataclasses.replace(self.scale, threads=self.encoder.threads))
        for name, choices in (("precision", PRECISIONS), ("on_error", ("stop", "skip"))):
            if (value := getattr(self, name)) not in choices:
                raise UsageError(
                    f"unknown {name.replace('_', '-')} {value!r}", close_match_hint(value, choices)
                )
        self.shard_of  # noqa: B018
        for wrong, message, hint in _combinations(self, self.written):
            if wrong:
                raise UsageError(message, hint)

    @property
    def from_stdin(self) -> bool:
        """Whether the input is, or has in it, a pipe."""
        return any(map(reads_once, self.inputs or (STDIN,)))

    @property
    def written(self) -> str:
        """The format that is written: `format`, or what the output's name asks for."""
        folder = self.encoder.layers == "all"
        return output_format(None if folder else self.output, FORMATS, self.format)

    @property
    def shard_of(self) -> tuple[int, int]:
        """The part's number from 1, and the number of parts; `(1, 1)` without `shard`."""
        if self.shard is None:
            return 1, 1
        part, slash, parts = self.shard.partition("/")
        if not slash or not part.isdecimal() or not parts.isdecimal() or not 1 <= int(part) <= int(parts):
            raise UsageError(
                f"`shard` {self.shard}: a part and how many there are is expected",
                "`shard` 1/4, 2/4, 3/4 and 4/4",
            )
        return int(part), int(parts)

    def check_files(self) -> None:
        """Refuse before any work inputs that can't be read and outputs that can't be written.

        Raises:
            OrdtoolError: If an input is missing or the output can't be written.
        """
        if self.encoder.layers == "all" and self.output is not None:
            check_directory(self.output, force=self.force)
        else:
            check_output(self.output, force=self.force)
        check_inputs(self.inputs)
        arrow.check_format(self.written)


def _combinations(config: EmbedConfig, written: str) -> Iterator[tuple[bool, str, str | None]]:
    """Yield whether a combination of options was asked for that makes no sense, and why it makes none."""
    all_layers = config.encoder.layers == "all"
    yield (
        all_layers and config.output is None,
        "`layers` all writes a folder with a file a layer",
        "name it with -o",
    )
    yield (
        all_layers and (written != "npy" or config.whiten or config.transform is not None),
        "`layers` all writes NPY files as they come: no other format, no whitening",
        "take one layer at a time, for example `layers` 3",
    )
    yield (
        config.whiten and config.transform is not None,
        "`whiten` fits a transform and `transform` applies one: choose",
        None,
    )
    yield (
        config.whiten and config.shard is not None,
        "`whiten` would fit a different transform for each shard",
        "ordtool whiten --save on each shard's vectors, then ordtool whiten merge",
    )
    yield (
        config.whiten and config.from_stdin and written != "npy",
        f"`whiten` needs its records twice for {written}, and a pipe can be read once",
        "save the input in a file, or write NPY",
    )
    yield (
        config.shard is not None and config.from_stdin,
        "`shard` needs to know how long the input is",
        "save it in a file",
    )


@dataclass
class EmbedReport:
    """What a run did.

    Attributes:
        texts: Rows written.
        dim: Numbers a row.
        computed: Different texts that went through the model.
        truncated: Different texts that were longer than the model reads.
        empty: Different texts without a token; their rows are zeros.
        tokens: Tokens read.
        seconds: Time from the first text to the last, the model loaded.
        timed_texts: Rows of which `timed_seconds` is the time: those after the first window that was computed, in which
            everything warms up; all where there is no other.
        timed_seconds: Their time.
        skipped: Bad records that were passed over.
    """

    texts: int = 0
    dim: int = 0
    computed: int = 0
    truncated: int = 0
    empty: int = 0
    tokens: int = 0
    seconds: float = 0.0
    timed_texts: int = 0
    timed_seconds: float = 0.0
    skipped: BadRecords = dataclasses.field(default_factory=BadRecords)


def report_run(report: EmbedReport, facts: Mapping[str, Any], progress: Progress) -> None:
    """Say what happened, for people.

    Args:
        report: What a run did.
        facts: What the encoder says of itself: `max_length` and `model_limit`.
        progress: Told.
    """
    # Of less than a second, most is the beginning.
    timed = report.timed_seconds >= 1
    speed = f", {report.timed_texts / report.timed_seconds:,.0f} texts/s" if timed else ""
    repeated = report.texts - report.computed
    extra = f", {repeated:,} of them repeated" if repeated > 0 and report.computed else ""
    progress.note(f"{counted(report.texts, 'text')}{extra}, {report.dim} dimensions{speed}")
    if report.truncated:
        read, limit = facts["max_length"], facts["model_limit"]
        longer = limit is None or read is None or read < limit
        more = (
            f"`max_length` {limit or 'N'} reads more"
            if longer
            else "the model reads no more: split long texts into lines"
        )
        progress.warn(f"{counted(report.truncated, 'text')} of over {read} tokens cut; {more}")
    if report.empty:
        progress.warn(
            f"{counted(report.empty, 'different text')} without a token that the model knows (empty ones): rows of zeros"
        )
