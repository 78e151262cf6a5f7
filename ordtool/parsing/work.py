"""Parsing as work in shards: what a process, a worker or an actor does with the sentences of one."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ordtool.errors import OnError, UsageError
from ordtool.io import arrow
from ordtool.io.inputs import Input
from ordtool.parallel import thread_count
from ordtool.parsing.config import ParseConfig
from ordtool.parsing.parser import Parser
from ordtool.parsing.result import Parse
from ordtool.parsing.text.reader import InputConfig, is_lines, sentences_of
from ordtool.parsing.text.tokenize import Sentence
from ordtool.progress import Progress
from ordtool.runtime import set_threads
from ordtool.sharding.plan import Cut, Reader
from ordtool.sharding.records import line_kind, write_rows
from ordtool.sharding.run import Scale
from ordtool.sharding.work import Computed, OnBad, Runner

SHARD_FORMATS = ("jsonl", "csv", *arrow.FORMATS, "brackets", "penn")
# Of a shard: enough to sort by length, few enough that it takes seconds.
_SENTENCES, _CHARACTERS = 2048, 1 << 18
_FIRST = 32
_MOST_WORKERS = 16
# From this much text on, several processes save more time than their start takes.
_MANY_BYTES = 1_000_000


class SentenceReader:
    """Reads sentences, as `read_inputs` does.

    Args:
        config: How.
    """

    def __init__(self, config: InputConfig) -> None:
        self._config = config

    def kind_of(self, stream: Input) -> str | None:
        """See `Reader`; running text stands in paragraphs, not in lines."""
        return line_kind(stream) if is_lines(stream, self._config) else None

    def read(self, stream: Input, kind: str | None, on_error: OnError | None) -> Iterator[Sentence]:
        """See `Reader`."""
        return sentences_of(stream, self._config, kind, on_error)

    def weigh(self, record: Sentence) -> int:
        """See `Reader`."""
        return len(record.text)


@dataclass(frozen=True, slots=True)
class ParseWork:
    """Sentences to lines of trees.

    Attributes:
        parse: How to parse.
        reading: How inputs are read.
        format: One of `SHARD_FORMATS`.
        skips: Pass over bad records.
    """

    parse: ParseConfig
    reading: InputConfig
    format: str = "jsonl"
    skips: bool = False

    @property
    def cut(self) -> Cut:
        """See `Work`: a shard is parsed as one window."""
        most = 1 if self.parse.batch_size == 1 else min(_SENTENCES, 64 * self.parse.batch_size)
        return Cut(most, _CHARACTERS, min(_FIRST, most))

    def load(self, progress: Progress, threads: int | None) -> Runner:
        """See `Work`."""
        set_threads(threads)
        return _ParseRunner(Parser(self.parse, progress), self)


class _ParseRunner:
    def __init__(self, parser: Parser, work: ParseWork) -> None:
        self.facts: dict[str, Any] = {}
        self.reader: Reader = SentenceReader(work.reading)
        self._parser = parser
        self._format = work.format

    def prepare(self, records: list[Sentence], indices: list[int], on_error: OnBad) -> list[Sentence]:
        return records

    def compute(self, prepared: list[Sentence], settled: Any) -> Iterator[Computed]:
        parses = self._parser.parse_together(prepared, compiled=len(prepared) >= _SENTENCES)
        if self._format in ("brackets", "penn"):
            lines = "".join(format_line(parse, self._format) + "\n" for parse in parses)
            yield Computed(lines.encode("utf-8"), len(prepared))
            return
        yield from write_rows(
            ((parse.to_dict(), parse.where or "") for parse in parses), self._format, settled
        )


def format_line(parse: Parse, chosen: str) -> str:
    """Write a tree as a line: `brackets` or `penn`."""
    return parse.tree if chosen == "brackets" else parse.penn


def default_workers(threads: int | None = None) -> int:
    """Return as many workers as cores that may be used, 16 at most."""
    return min(thread_count(threads), _MOST_WORKERS)


def worker_count(scale: Scale, paths: Sequence[str], chosen: str, config: ParseConfig) -> int | None:
    """Return how many workers parse: where nobody said, several only if there is enough to do to make up for their start.

    Args:
        scale: What a person asked for.
        paths: Inputs; none is stdin.
        chosen: What to write of each result.
        config: How to parse.

    Raises:
        UsageError: If several are asked for where one must do.
    """
    if not scale.alone:
        if chosen not in SHARD_FORMATS:
            raise UsageError(
                f"`workers` {scale.workers or 'of Ray'} needs an output of records, and {chosen} is none",
                f"choices of `output_format`: {', '.join(SHARD_FORMATS)}; or leave `workers` out",
            )
        return scale.workers
    if scale.workers is not None:
        return scale.workers
    files = [Path(path) for path in paths]
    if chosen not in SHARD_FORMATS or config.batch_size == 1 or not all(file.is_file() for file in files):
        return 1
    many = sum(file.stat().st_size for file in files) >= _MANY_BYTES
    return default_workers(scale.threads) if many and _on_cpu(config.device) else 1


def _on_cpu(device: str) -> bool:
    """Whether the CPU computes; torch, which takes seconds to load, is asked only where there may be something else."""
    drivers = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
    if device == "cpu":
        return True
    if device == "auto" and sys.platform == "linux" and not any(Path(driver).exists() for driver in drivers):
        return True
    from ordtool.runtime import resolve_device

    return resolve_device(device).type == "cpu"
