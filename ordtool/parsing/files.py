"""From files of sentences to a file of trees: what `ordtool parse` does with its inputs and its output."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from ordtool.errors import UsageError
from ordtool.io import arrow
from ordtool.io.atomic import atomic_output
from ordtool.io.inputs import read_again
from ordtool.parsing.config import ParseConfig
from ordtool.parsing.parser import Parser
from ordtool.parsing.result import Parse
from ordtool.parsing.text.reader import InputConfig, holds_paragraphs, input_files, read_inputs
from ordtool.parsing.trees.html import draw_html
from ordtool.parsing.trees.svg import draw_svg
from ordtool.parsing.work import SHARD_FORMATS, ParseWork, SentenceReader, worker_count
from ordtool.progress import SILENT, Progress
from ordtool.runtime import set_threads
from ordtool.sharding.plan import Plan
from ordtool.sharding.records import form_of
from ordtool.sharding.run import Scale, ShardBar, Target, Totals, open_executor, run


@dataclass(frozen=True, slots=True)
class ParseFilesConfig:
    """What is parsed, and where the trees go.

    Attributes:
        inputs: Files, folders of trees, or `-`; none is stdin.
        output: A file; None is stdout.
        format: `jsonl`, `csv`, `parquet`, `arrow`, `brackets` or `penn`, with a record a sentence; or `tree`, `svg` or
            `html`.
        parse: How to parse.
        reading: How inputs are read.
        scale: Who does the work; without `workers` as many processes as pay, see `worker_count`.
        skip_errors: Pass over bad records.
        resume: Go on where an interrupted run stopped; for formats of records alone.
        force: Replace an output that exists.
    """

    inputs: tuple[str, ...] = ()
    output: Path | None = None
    format: str = "jsonl"
    parse: ParseConfig = field(default_factory=ParseConfig)
    reading: InputConfig = field(default_factory=InputConfig)
    scale: Scale = field(default_factory=Scale)
    skip_errors: bool = False
    resume: bool = False
    force: bool = False


def check_resume(config: ParseFilesConfig) -> None:
    """Raise a UsageError where a run is to be resumed whose output is one picture or page."""
    if config.resume and config.format not in SHARD_FORMATS:
        raise UsageError(
            f"`resume` needs an output of records, and {config.format} is none",
            f"choices of `output_format`: {', '.join(SHARD_FORMATS)}",
        )


def parse_files(
    config: ParseFilesConfig,
    progress: Progress = SILENT,
    *,
    bar: bool = True,
    draw: Callable[[Parse], str] | None = None,
) -> None:
    """Parse files, and write the trees.

    Lines survive an interruption: they stand in `OUTPUT.partial`, and a resumed run writes the bytes that an
    uninterrupted one would have, whoever does the work.

    Args:
        config: From where, to where and how.
        progress: Told how far reading and parsing are, and of bad records that were passed over.
        bar: Begin a bar; without one, only messages are told.
        draw: Draws a tree, for the format `tree`.

    Raises:
        OrdtoolError: As in `read_inputs`, `Parser` and `ordtool.sharding.run.run`.
        UsageError: For several workers where one must do, or a resumed run that can't be.
    """
    check_resume(config)
    workers = worker_count(config.scale, config.inputs, config.format, config.parse)
    files = [str(file) for file in input_files(config.inputs, config.reading)]
    # The first file speaks for all: a folder may have thousands.
    if config.parse.tokens is None and files and holds_paragraphs(files[0], config.reading):
        progress.note(f"{files[0]}: lines seem to hold several sentences; `split` makes a tree of each")
    shown = ShardBar(progress, "parsing", "sentences", hidden=not bar)
    if config.format not in SHARD_FORMATS:
        _draw_files(config, progress, bar, draw)
        return
    arrow.check_format(config.format)
    work = ParseWork(config.parse, config.reading, config.format, config.skip_errors)
    plan = Plan(files, SentenceReader(config.reading), work.cut, skip=config.skip_errors)
    target = Target(config.output, read_again(files), _settings(config), config.resume, config.force)
    target.check()
    totals = Totals()
    try:
        with open_executor(replace(config.scale, workers=workers), work, shown) as executor:
            run(plan, executor, target, form_of(config.format), shown, totals=totals)
    finally:
        progress.close()
        totals.tell_skipped(progress)


def _draw_files(
    config: ParseFilesConfig, progress: Progress, bar: bool, draw: Callable[[Parse], str] | None
) -> None:
    """Draw trees, or lay them out on one page."""
    set_threads(config.scale.threads)
    totals = Totals()
    on_error = totals.bad.append if config.skip_errors else None
    if bar:
        progress.start("parsing", None, "sentences")
    try:
        with atomic_output(config.output, force=config.force) as file:
            sentences = read_inputs(config.inputs, config.reading, on_error=on_error)
            _draw(Parser(config.parse, progress).parse(sentences), config, file, draw)
    finally:
        progress.close()
        totals.tell_skipped(progress)


def _settings(config: ParseFilesConfig) -> dict[str, Any]:
    """Give what a resumed run must have in common with the interrupted one."""
    return {
        **asdict(config.parse),
        "format": config.format,
        "input": asdict(config.reading),
        "skip_errors": config.skip_errors,
    }


def _draw(
    parses: Iterable[Parse],
    config: ParseFilesConfig,
    file: BinaryIO,
    draw: Callable[[Parse], str] | None,
) -> None:
    """Write drawings as they come; SVG, whose size stands at its beginning, at the end."""
    if config.format == "svg":
        file.write(draw_svg((parse.tokens, parse.spans) for parse in parses).encode())
    elif config.format == "html":
        for piece in draw_html((parse.tokens, parse.spans) for parse in parses):
            file.write(piece.encode())
    else:
        for number, parse in enumerate(parses):
            text = draw(parse) if draw is not None else parse.draw()
            file.write(("\n" * bool(number) + text + "\n").encode("utf-8", "replace"))
            if config.output is None:
                file.flush()


def gates_file(config: ParseFilesConfig, path: str | Path, progress: Progress = SILENT) -> None:
    """Write the master gates of an ON-LSTM over the one sentence that the inputs hold.

    Args:
        config: Inputs and model; where trees would go is not looked at.
        path: `.json`, or a picture: `.svg`, `.png` or `.pdf`.
        progress: Told where a model comes from, if it must be fetched.

    Raises:
        UsageError: If the inputs hold another number of sentences, for a model without master gates, or another suffix.
        OrdtoolError: As in `read_inputs` and `write_gates`.
    """
    from ordtool.parsing.onlstm.gates import check_gates_file, write_gates

    check_gates_file(path)
    set_threads(config.scale.threads)
    sentences = (s for s in read_inputs(config.inputs, config.reading) if s.tokens or s.text.strip())
    found = list(islice(sentences, 2))
    if len(found) != 1:
        count = "more than one" if found else "none"
        raise UsageError(
            f"gates are shown of one sentence, and the input holds {count}", "for example: head -1 FILE"
        )
    write_gates(Parser(config.parse, progress).gates(found[0]), path, force=config.force)
