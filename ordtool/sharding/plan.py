"""Inputs to numbered shards: what is computed together, whoever computes it.

The plan depends on the inputs alone, not on who does the work, so that one process, several and a cluster write the same
bytes, and one can go on with what another began. Lines of uncompressed text and JSON lines are cut into ranges of bytes,
which a worker reads itself; many gzip files are a shard each; all else (tables, trees, Parquet, a pipe) is read here and
handed out as records.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from ordtool.errors import BadRecords, OnError, OrdtoolError, UsageError
from ordtool.io.inputs import STDIN, Input, open_input, open_piece, reads_once, regular_size

# A file below this is read here, together with its neighbours: a shard each would be too little.
_SMALL_BYTES = 1 << 16
# From so many gzip files on, each is a shard; a few would leave workers without any.
_MANY_PACKED = 16
# Lines that a packed file may have, for the numbers of the records behind it.
_PACKED_LINES = 1 << 40


@dataclass(frozen=True, slots=True)
class Cut:
    """How much a shard holds.

    Attributes:
        most: Records at most.
        heaviest: Bytes (of a range) or what `Reader.weigh` says, from which a shard is closed.
        first: Records of the first shard, after which they double up to `most`; None: `most` from the first on.
    """

    most: int
    heaviest: int = 1 << 22
    first: int | None = None

    def size(self, number: int) -> int:
        """Return the records of a shard, by its number from 0."""
        if self.first is None:
            return self.most
        return min(self.most, self.first << min(number, 32))


class Reader(Protocol):
    """What a subject reads from an input."""

    def kind_of(self, stream: Input) -> str | None:
        """Return `text` or `jsonl` for an input, of which nothing was read, whose lines stand for themselves, else None."""

    def read(self, stream: Input, kind: str | None, on_error: OnError | None) -> Iterator[Any]:
        """Yield the records of an input; `kind` is what `kind_of` gave, None: as it looks."""

    def weigh(self, record: Any) -> int:
        """Return what a record adds to a shard's weight."""


@dataclass(frozen=True, slots=True)
class Range:
    """Lines of a file.

    Attributes:
        path: The file.
        kind: As `Reader.kind_of` gave it; None: the whole file, as it looks.
        start: The first byte.
        size: Bytes; None: all.
        line: The number of its first line, from 1.
        data: The bytes themselves, for a worker that doesn't see the file.
    """

    path: str
    kind: str | None = None
    start: int = 0
    size: int | None = None
    line: int = 1
    data: bytes | None = None

    def loaded(self) -> Range:
        """Return the range with its bytes."""
        with open(self.path, "rb") as file:
            file.seek(self.start)
            return replace(self, data=file.read(-1 if self.size is None else self.size))

    @contextmanager
    def open(self) -> Iterator[Input]:
        """Open the range for reading."""
        if self.kind is None and self.data is None:
            with open_input(self.path) as stream:
                yield stream
            return
        data = self.data if self.data is not None else self.loaded().data
        with open_piece(data or b"", self.path, self.line) as stream:
            yield stream


@dataclass(frozen=True, slots=True)
class Failure:
    """An `OrdtoolError` as parts that can travel."""

    message: str
    hint: str | None = None
    usage: bool = False

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """Take an error apart; one that is no `OrdtoolError` is told of with its type."""
        if isinstance(error, OrdtoolError):
            return cls(error.message, error.hint, isinstance(error, UsageError))
        return cls(f"{type(error).__name__}: {error}".rstrip(": "))

    def error(self) -> OrdtoolError:
        """Put it together."""
        return (UsageError if self.usage else OrdtoolError)(self.message, self.hint)


@dataclass(frozen=True, slots=True)
class Shard:
    """Records that are computed together.

    Attributes:
        number: From 0.
        base: The number of its first record, for what depends on it, such as draws.
        source: Where its records are; None where they stand here.
        records: The records.
        count: Records, or lines of a range; 0: nobody knows.
        bytes: Of the input, for the bar.
        bad: How many bad records were passed over on the way to it.
        skipped: The first of them.
        error: What ended the reading behind its records.
    """

    number: int
    base: int
    source: Range | None = None
    records: list[Any] = field(default_factory=list)
    count: int = 0
    bytes: int = 0
    bad: int = 0
    skipped: tuple[Failure, ...] = ()
    error: Failure | None = None

    @property
    def where(self) -> str:
        """What it holds, for people."""
        if self.source is None:
            first = getattr(self.records[0], "where", None) if self.records else None
            return f"from {first} on" if first else f"{len(self.records):,} records"
        source = self.source
        return source.path if source.kind is None else f"{source.path} from line {source.line:,} on"

    def index(self, record: Any, place: int) -> int:
        """Return the number of a record among all of the input: of its line, where the shard is a range and it has one."""
        if self.source is None or self.source.kind is None or not hasattr(record, "line"):
            return self.base + place
        line: int = record.line
        return self.base + line - self.source.line


def input_paths(paths: Sequence[str], endings: Sequence[str] = ()) -> list[str]:
    """List the files that inputs stand for: a folder its data files, a pattern (`*`, `?`) what it matches, in order.

    Args:
        paths: Inputs; none is stdin.
        endings: Which files of a folder count, without `.gz`.

    Raises:
        OrdtoolError: For a folder without such files, or a pattern that matches nothing.
    """
    return [found for path in paths or [STDIN] for found in _files_of(str(path), endings)]


def _files_of(path: str, endings: Sequence[str]) -> list[str]:
    if endings and os.path.isdir(path):
        from ordtool.io.arrow import dataset_files

        found = dataset_files(path) or sorted(
            str(file)
            for file in Path(path).rglob("*")
            if file.is_file()
            and file.name.lower().removesuffix(".gz").endswith(tuple(endings))
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
        )
        if not found:
            raise OrdtoolError(f"{path}: no file in it ends in {', '.join(endings)}", "name its files")
        return found
    if any(mark in path for mark in "*?[") and not os.path.lexists(path):
        found = sorted(file for file in glob.glob(path, recursive=True) if os.path.isfile(file))
        if not found:
            raise OrdtoolError(f"{path}: no file has such a name", "check the pattern")
        return found
    return [path]


class Plan:
    """Cuts inputs into shards.

    Args:
        paths: Files, in order, or `-`.
        reader: Reads them.
        cut: How much a shard holds.
        skip: Pass over bad records, which then stand with their shard.
        part: `(i, N)`: only the records of the i-th of N equal parts, from 1.
        given: The records themselves, instead of files.

    Attributes:
        bytes: Of all inputs; None where nobody knows.
    """

    def __init__(
        self,
        paths: Sequence[str],
        reader: Reader,
        cut: Cut,
        *,
        skip: bool = False,
        part: tuple[int, int] = (1, 1),
        given: Sequence[Any] | None = None,
    ) -> None:
        self._paths = [str(path) for path in paths]
        self._reader = reader
        self._cut = cut
        self._skip = skip
        self._part = part
        self._given = given
        self.bytes = regular_size(self._paths) if part == (1, 1) and given is None else None

    def shards(self, start: int = 0) -> Iterator[Shard]:
        """Yield the shards from the one numbered `start` on, in order; memory doesn't grow with the input."""
        number = base = 0
        for shard in self._unnumbered():
            lines = shard.base
            if number >= start:
                yield replace(shard, number=number, base=base)
            number += 1
            base += lines

    def _unnumbered(self) -> Iterator[Shard]:
        """Yield shards without a number; `base` is how many records each counts for."""
        self._number = 0
        if self._part != (1, 1) or self._given is not None:
            yield from self._read(self._paths)
            return
        together: list[str] = []
        packed = {path for path in self._paths if not reads_once(path) and _is_packed(path)}
        for path in self._paths:
            kind = None if path in packed else self._kind(path)
            if kind is None and not (path in packed and len(packed) >= _MANY_PACKED):
                together.append(path)
                continue
            yield from self._read(together)
            together = []
            if kind is None:
                self._number += 1
                yield Shard(0, _PACKED_LINES, Range(path), bytes=os.path.getsize(path))
            else:
                yield from self._ranges(path, kind)
        yield from self._read(together)

    def _kind(self, path: str) -> str | None:
        if reads_once(path) or os.path.getsize(path) < _SMALL_BYTES:
            return None
        with open_input(path) as stream:
            return self._reader.kind_of(stream)

    def _ranges(self, path: str, kind: str) -> Iterator[Shard]:
        start, line = 0, 1
        with open(path, "rb") as file:
            while True:
                size = lines = 0
                most = self._cut.size(self._number)
                for raw in file:
                    size += len(raw)
                    lines += 1
                    if lines >= most or size >= self._cut.heaviest:
                        break
                if not lines:
                    return
                self._number += 1
                yield Shard(0, lines, Range(path, kind, start, size, line), count=lines, bytes=size)
                start, line = start + size, line + lines

    def _read(self, paths: Sequence[str]) -> Iterator[Shard]:
        """Read inputs here, and yield their records."""
        if not paths and self._given is None:
            return
        bad = BadRecords()
        told = 0
        records = self._records(paths, bad.append if self._skip else None)
        if self._part != (1, 1):
            total = sum(1 for _ in self._records(paths, lambda error: None))
            part, parts = self._part
            records = islice(records, total * (part - 1) // parts, total * part // parts)
        ended = False
        while not ended:
            batch: list[Any] = []
            failure, weight = None, 0
            most = self._cut.size(self._number)
            ended = True
            position = told
            try:
                for position, record in records:  # noqa: B007
                    batch.append(record)
                    weight += self._reader.weigh(record)
                    if len(batch) >= most or weight >= self._cut.heaviest:
                        ended = False
                        break
            except OrdtoolError as error:
                failure = Failure.of(error)
            if batch or bad.count or failure:
                self._number += 1
                seen = bad.count, tuple(map(Failure.of, bad.first))
                bad.clear()
                yield Shard(0, len(batch), None, batch, len(batch), position - told, *seen, failure)
                told = position

    def _records(self, paths: Sequence[str], on_error: OnError | None) -> Iterator[tuple[int, Any]]:
        """Yield records with the bytes of these inputs that were read before each."""
        before = 0
        yield from ((0, record) for record in self._given or ())
        for path in paths if self._given is None else ():
            with open_input(path) as stream:
                for record in self._reader.read(stream, None, on_error):
                    yield before + stream.consumed, record
            before += 0 if reads_once(path) else os.path.getsize(path)


def _is_packed(path: str) -> bool:
    with open_input(path) as stream:
        return stream.packed
