"""Parsing in several processes: the same trees in the same order, a core each.

A step of the recurrence is too small to be shared between cores, and what surrounds it (tokens, trees, brackets) is Python,
which runs on one. So chunks of sentences go out to processes that each hold a parser, and lines come back.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import connection, get_context, parent_process
from pathlib import Path

from ordtool.batching import windows
from ordtool.errors import OrdtoolError, UsageError
from ordtool.io.jsonl import dumps
from ordtool.parallel import thread_count
from ordtool.parsing.config import ParseConfig
from ordtool.parsing.parser import Parser
from ordtool.parsing.result import Parse
from ordtool.parsing.text.tokenize import Sentence
from ordtool.progress import SILENT, Progress, Silent
from ordtool.runtime import libraries_heard, library_messages, set_threads

LINE_FORMATS = ("jsonl", "csv", "brackets", "penn")
# Of a chunk: enough to sort by length, few enough that the first lines come soon.
_SENTENCES, _CHARACTERS = 1024, 1 << 18
# Chunks that a worker has waiting.
_AHEAD = 2
_MOST_WORKERS = 16
# From this much text on, several processes save more time than their start takes.
_MANY_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a worker made of a chunk: lines and warnings, or an error, as parts that can travel."""

    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    error: tuple[type[OrdtoolError], str, str | None] | None = None


def format_line(parse: Parse, chosen: str) -> str:
    """Write a result as a line: `jsonl`, `brackets` or `penn`; for `csv` as JSON, which a table's writer makes a row."""
    if chosen in ("jsonl", "csv"):
        return dumps(parse.to_dict())
    return parse.tree if chosen == "brackets" else parse.penn


def default_workers(threads: int | None = None) -> int:
    """Return as many workers as cores that may be used, 16 at most."""
    return min(thread_count(threads), _MOST_WORKERS)


def worker_count(
    asked: int | None, paths: Sequence[str], chosen: str, config: ParseConfig, threads: int | None
) -> int:
    """Return how many processes parse: where nobody said, several only if there is enough to do to make up for their start.

    Args:
        asked: A number that a person named.
        paths: Inputs; none is stdin.
        chosen: What to write of each result.
        config: How to parse.
        threads: CPU threads that may be used; None: one a core.

    Raises:
        UsageError: If several are asked for where one must do.
    """
    if asked is not None:
        if asked > 1 and not (chosen in LINE_FORMATS and _on_cpu(config.device)):
            raise UsageError(
                f"`workers` {asked} needs the CPU and an output of lines",
                f"choices of `output_format`: {', '.join(LINE_FORMATS)}; or leave `workers` out",
            )
        return asked
    files = [Path(path) for path in paths]
    if chosen not in LINE_FORMATS or config.batch_size == 1 or not all(file.is_file() for file in files):
        return 1
    many = sum(file.stat().st_size for file in files) >= _MANY_BYTES
    return default_workers(threads) if many and _on_cpu(config.device) else 1


def _on_cpu(device: str) -> bool:
    """Whether the CPU computes; torch, which takes seconds to load, is asked only where there may be something else."""
    drivers = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
    if device == "cpu":
        return True
    if device == "auto" and sys.platform == "linux" and not any(Path(driver).exists() for driver in drivers):
        return True
    from ordtool.runtime import resolve_device

    return resolve_device(device).type == "cpu"


def parse_lines(
    sentences: Iterable[Sentence],
    config: ParseConfig,
    chosen: str,
    *,
    workers: int,
    threads: int | None = None,
    progress: Progress = SILENT,
    start: int = 0,
) -> Iterator[str]:
    """Parse a stream in processes of their own.

    Args:
        sentences: Any number; `2 * workers` chunks of them are held at a time.
        config: How to parse; on the CPU.
        chosen: What to write of each result, one of `LINE_FORMATS`.
        workers: Processes.
        threads: For all of them together; None: one a worker.
        progress: Told of sentences done, and of warnings, each once.
        start: The first sentence whose line is wanted, from 0; as in `Parser.parse_from`.

    Yields:
        A line for each sentence, in order.

    Raises:
        OrdtoolError: What reading the sentences raises, after what was read before it; a model that can't be loaded; or a
            worker that was killed.
    """
    share = max(1, (threads or workers) // workers)
    context = get_context("spawn")
    lifeline, ours = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, context, _begin, (config, share, libraries_heard(), lifeline))
    waiting: deque[tuple[Future[_Answer], int]] = deque()
    warned: set[str] = set()
    finished = False
    chunks = windows(sentences, _SENTENCES, _CHARACTERS, lambda sentence: len(sentence.text))
    wanted = _from(chunks, start, progress)
    try:
        while not isinstance(found := _next(wanted), OrdtoolError | None):
            chunk, first = found
            waiting.append((pool.submit(_work, chunk, chosen), first))
            if len(waiting) >= _AHEAD * workers:
                yield from _take(*waiting.popleft(), warned, progress)
        while waiting:
            yield from _take(*waiting.popleft(), warned, progress)
        finished = True
    except BrokenProcessPool:
        raise OrdtoolError(
            "a worker process ended unexpectedly", "out of memory? fewer `workers` need less"
        ) from None
    finally:
        if not finished:  # Python's exit would otherwise wait for chunks that nobody wants
            ours.close()
        pool.shutdown(cancel_futures=True)
        ours.close()
        lifeline.close()
    if found is not None:
        raise found


def _from(
    chunks: Iterable[list[Sentence]], start: int, progress: Progress
) -> Iterator[tuple[list[Sentence], int]]:
    """Yield the chunks that hold a sentence numbered `start` or more, with the place of the first such one in them."""
    for chunk in chunks:
        if len(chunk) > start:
            yield chunk, start
        else:
            progress.advance(len(chunk))
        start = max(0, start - len(chunk))


def _next(chunks: Iterator[tuple[list[Sentence], int]]) -> tuple[list[Sentence], int] | OrdtoolError | None:
    """Return the next chunk, None behind the last one, or what is wrong with the input."""
    try:
        return next(chunks, None)
    except OrdtoolError as error:
        return error


def _take(future: Future[_Answer], start: int, warned: set[str], progress: Progress) -> Iterator[str]:
    answer = future.result()
    if answer.error is not None:
        kind, message, hint = answer.error
        raise kind(message, hint)
    for message in answer.warnings:
        if message not in warned:
            warned.add(message)
            progress.warn(message)
    yield from answer.lines[start:]
    progress.advance(len(answer.lines))


class _Heard(Silent):
    """A listener that keeps warnings for the process that has a terminal."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


_parser: Parser | OrdtoolError | None = None
_heard = _Heard()


def _begin(config: ParseConfig, threads: int, heard: bool, lifeline: connection.Connection) -> None:
    """Load a parser in a new process, which ends with its parent, however that ends, or when the lifeline is let go."""
    global _parser
    library_messages(shown=heard).__enter__()  # for as long as the process lives
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too, and says so once
    threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()
    set_threads(threads)
    try:
        _parser = Parser(config, _heard, compiled=True)
    except OrdtoolError as error:
        _parser = error


def _end_with_parent(lifeline: connection.Connection) -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel, lifeline])
        os._exit(1)


def _work(chunk: list[Sentence], chosen: str) -> _Answer:
    if isinstance(_parser, OrdtoolError):
        return _Answer(error=(type(_parser), _parser.message, _parser.hint))
    assert _parser is not None
    _heard.warnings.clear()
    lines = [format_line(parse, chosen) for parse in _parser.parse(chunk)]
    return _Answer(lines, list(_heard.warnings))
