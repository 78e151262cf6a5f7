"""From files of sentences to a file of trees: what `ordtool parse` does with its inputs and its output."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ordtool.errors import BadRecords, UsageError
from ordtool.io.atomic import atomic_output
from ordtool.io.formats import RowLines
from ordtool.io.inputs import read_again, regular_size
from ordtool.io.resumable import Lines, resumable_lines
from ordtool.parsing.config import ParseConfig
from ordtool.parsing.parser import Parser
from ordtool.parsing.result import Parse
from ordtool.parsing.text.reader import InputConfig, input_files, read_inputs
from ordtool.parsing.trees.html import draw_html
from ordtool.parsing.trees.svg import draw_svg
from ordtool.parsing.workers import LINE_FORMATS, format_line, parse_lines, worker_count
from ordtool.progress import SILENT, Progress, Silent
from ordtool.runtime import set_threads

if TYPE_CHECKING:
    from ordtool.parsing.text.tokenize import Sentence

# Lines between two records of how far the output is.
_SAVE_EVERY = 64


@dataclass(frozen=True, slots=True)
class ParseFilesConfig:
    """What is parsed, and where the trees go.

    Attributes:
        inputs: Files, folders of trees, or `-`; none is stdin.
        output: A file; None is stdout.
        format: `jsonl`, `csv`, `brackets` or `penn`, which are lines, or `tree`, `svg` or `html`.
        parse: How to parse.
        reading: How inputs are read.
        workers: Processes; None: as many as pay, see `worker_count`.
        threads: CPU threads of all of them; None: one a core.
        skip_errors: Pass over bad records.
        resume: Go on where an interrupted run stopped; for formats of lines alone.
        force: Replace an output that exists.
    """

    inputs: tuple[str, ...] = ()
    output: Path | None = None
    format: str = "jsonl"
    parse: ParseConfig = field(default_factory=ParseConfig)
    reading: InputConfig = field(default_factory=InputConfig)
    workers: int | None = None
    threads: int | None = None
    skip_errors: bool = False
    resume: bool = False
    force: bool = False


def check_resume(config: ParseFilesConfig) -> None:
    """Raise a UsageError where a run is to be resumed whose output is one picture or page."""
    if config.resume and config.format not in LINE_FORMATS:
        raise UsageError(
            f"`resume` needs an output of lines, and {config.format} is none",
            f"choices of `output_format`: {', '.join(LINE_FORMATS)}",
        )


def parse_files(
    config: ParseFilesConfig,
    progress: Progress = SILENT,
    *,
    bar: bool = True,
    draw: Callable[[Parse], str] | None = None,
    skipped: BadRecords | None = None,
) -> None:
    """Parse files, and write the trees.

    Lines survive an interruption: they stand in `OUTPUT.partial`, and a resumed run writes the bytes that an
    uninterrupted one would have.

    Args:
        config: From where, to where and how.
        progress: Told how far reading and parsing are.
        bar: Begin a bar; without one, only warnings are told.
        draw: Draws a tree, for the format `tree`.
        skipped: Bad records are put here, if they are passed over.

    Raises:
        OrdtoolError: As in `read_inputs`, `Parser` and `resumable_lines`.
        UsageError: For several workers where one must do, or a resumed run that can't be.
    """
    check_resume(config)
    workers = worker_count(config.workers, config.inputs, config.format, config.parse, config.threads)
    files = [str(file) for file in input_files(config.inputs, config.reading)]
    told = _SentenceBar(progress, regular_size(files), hidden=not bar)
    on_error = skipped.append if config.skip_errors and skipped is not None else None
    sentences = read_inputs(config.inputs, config.reading, on_error=on_error, on_read=told.read)
    if config.format not in LINE_FORMATS:
        set_threads(config.threads)
        told.begin()
        with atomic_output(config.output, force=config.force) as file:
            _draw(Parser(config.parse, told).parse(sentences), config, file, draw)
        return
    with resumable_lines(
        config.output,
        inputs=read_again(files),
        settings=_settings(config, workers),
        resume=config.resume,
        force=config.force,
    ) as lines:
        if lines.done:
            progress.note(f"going on after {lines.done:,} sentences")
        told.begin()
        table = RowLines("csv", lines.file.name if lines.done else None) if config.format == "csv" else None
        _write(_lines(sentences, config, workers, lines.done, told), lines, table)


def _settings(config: ParseFilesConfig, workers: int) -> dict[str, Any]:
    """Give what a resumed run must have in common with the interrupted one."""
    return {
        **asdict(config.parse),
        "format": config.format,
        "input": asdict(config.reading),
        "skip_errors": config.skip_errors,
        "processes": "several" if workers > 1 else "one",
    }


def _lines(
    sentences: Iterable[Sentence], config: ParseFilesConfig, workers: int, done: int, bar: Progress
) -> Iterator[str]:
    if workers > 1:
        return parse_lines(
            sentences,
            config.parse,
            config.format,
            workers=workers,
            threads=config.threads,
            progress=bar,
            start=done,
        )
    set_threads(config.threads)
    parses = Parser(config.parse, bar).parse_from(sentences, done)
    return (format_line(parse, config.format) for parse in parses)


def _write(found: Iterable[str], lines: Lines, table: RowLines | None) -> None:
    done = lines.done
    try:
        for line in found:
            for row in [line] if table is None else table.lines(json.loads(line)):
                lines.write(row)
            done += 1
            if done % _SAVE_EVERY == 0:
                lines.save(done)
    finally:
        if done > lines.done:
            lines.save(done)


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
    set_threads(config.threads)
    sentences = (s for s in read_inputs(config.inputs, config.reading) if s.tokens or s.text.strip())
    found = list(islice(sentences, 2))
    if len(found) != 1:
        count = "more than one" if found else "none"
        raise UsageError(
            f"gates are shown of one sentence, and the input holds {count}", "for example: head -1 FILE"
        )
    write_gates(Parser(config.parse, progress).gates(found[0]), path, force=config.force)


class _SentenceBar(Silent):
    """Moves a bar by the bytes of the sentences that are done; by sentences, where nobody knows how many bytes there are.

    Args:
        progress: The bar.
        total: Bytes of all inputs; None: not known.
        hidden: There is no bar, only what is noted.
    """

    def __init__(self, progress: Progress, total: int | None, hidden: bool = False) -> None:
        self._progress = progress
        self._total = total
        self._hidden = hidden
        self._ends: deque[int] = deque()
        self._shown = 0

    def begin(self) -> None:
        """Begin the bar."""
        if not self._hidden:
            self._progress.start("parsing", self._total, "B" if self._total else "sentences")

    def read(self, position: int) -> None:
        """Hear of a sentence that was read, and how many bytes of all inputs are read with it."""
        if self._total:
            self._ends.append(position)

    def advance(self, amount: float = 1, **stats: object) -> None:
        """Hear of sentences that are done."""
        if not self._total:
            self._progress.advance(amount, **stats)
            return
        end = self._shown
        for _ in range(int(amount)):
            end = self._ends.popleft()
        self._progress.advance(end - self._shown, **stats)
        self._shown = end

    def note(self, message: str) -> None:
        """Pass it on."""
        self._progress.note(message)

    def warn(self, message: str) -> None:
        """Pass it on."""
        self._progress.warn(message)
