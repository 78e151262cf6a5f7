"""What a worker does with a shard: read its records, compute, and give bytes; the same in every executor."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ordtool.batching import windows
from ordtool.errors import BadRecords, OrdtoolError
from ordtool.io.runs import read_record, write_record
from ordtool.parallel import one_ahead
from ordtool.progress import Progress, Silent
from ordtool.sharding.plan import Cut, Failure, Reader, Shard

_SUMMARY = ".json"


class Runner(Protocol):
    """A model that is loaded, with the reader of what it takes.

    Attributes:
        facts: What the driver has to know of the model; anything JSON holds.
        reader: Reads the records of ranges.
    """

    facts: dict[str, Any]
    reader: Reader

    def prepare(self, records: list[Any], indices: list[int], on_error: OnBad) -> Any:
        """Do what can be done while the batch before is computed, in another thread; `indices` are the records' numbers."""

    def compute(self, prepared: Any, settled: Any) -> Iterator[Computed]:
        """Compute a batch; a bad record that isn't skipped raises, after what was computed before it.

        Args:
            prepared: What `prepare` gave.
            settled: What an earlier shard settled for all that follow, such as the columns of a table.
        """


class OnBad(Protocol):
    """Takes a bad record's error: remembers it where bad records are skipped, else raises it."""

    def __call__(self, error: OrdtoolError) -> None:
        """Take it."""


class Work(Protocol):
    """What is done, as it travels to a worker: nothing in it is loaded yet."""

    @property
    def cut(self) -> Cut:
        """How much a shard holds."""

    @property
    def skips(self) -> bool:
        """Whether bad records are passed over."""

    def load(self, progress: Progress, threads: int | None) -> Runner:
        """Load the model; `threads` are those this worker may use, None: torch's own choice."""


@dataclass(frozen=True, slots=True)
class Computed:
    """What was made of some records.

    Attributes:
        data: Bytes of the output.
        records: How many they are.
        counts: Figures of the run, which are added up.
        settled: What holds for all later shards.
        pairs: What is right and what was predicted, where labels are known.
    """

    data: bytes
    records: int
    counts: dict[str, int] = field(default_factory=dict)
    settled: Any = None
    pairs: list[list[Any]] = field(default_factory=list)


@dataclass(slots=True)
class Summary:
    """What there is to say of a shard that was done.

    Attributes:
        number: Of the shard.
        records: That were written.
        counts: Figures that are added up.
        bad: How many bad records were passed over.
        skipped: The first of them.
        settled: What holds for all later shards.
        pairs: What is right and what was predicted.
        notes: Notes for people.
        warnings: Warnings.
        error: What ended it, behind what was written.
        crash: What went wrong with the worker; the shard is to be done again.
        data: The bytes, where they are in no file.
    """

    number: int
    records: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    bad: int = 0
    skipped: list[Failure] = field(default_factory=list)
    settled: Any = None
    pairs: list[list[Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    error: Failure | None = None
    crash: str | None = None
    data: bytes | None = None

    def add(self, found: Computed) -> None:
        """Count a batch in."""
        self.records += found.records
        self.settled = found.settled if found.settled is not None else self.settled
        self.pairs += found.pairs
        for name, count in found.counts.items():
            self.counts[name] = self.counts.get(name, 0) + count

    def become(self, other: Summary) -> None:
        """Take over all that another says."""
        for name in self.__slots__:
            setattr(self, name, getattr(other, name))

    def record(self) -> dict[str, Any]:
        """Return it as JSON, without the bytes."""
        return {**asdict(self), "data": None}

    @classmethod
    def read(cls, found: dict[str, Any]) -> Summary:
        """Take it from JSON."""
        error = found["error"]
        return cls(
            **{
                **found,
                "skipped": [Failure(**one) for one in found["skipped"]],
                "error": None if error is None else Failure(**error),
            }
        )


@dataclass(frozen=True, slots=True)
class Order:
    """A shard to be done.

    Attributes:
        shard: The shard.
        settled: What an earlier shard settled.
        part: The file for its bytes; None: they are sent back.
    """

    shard: Shard
    settled: Any = None
    part: Path | None = None


class Heard(Silent):
    """A listener that keeps what is said for the process that has a terminal."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, message: str) -> None:
        """Keep it."""
        self.notes.append(message)

    def warn(self, message: str) -> None:
        """Keep it."""
        self.warnings.append(message)

    def move_to(self, summary: Summary) -> None:
        """Hand over what was said since the last time."""
        summary.notes, self.notes = self.notes, []
        summary.warnings, self.warnings = self.warnings, []


def steps(
    runner: Runner, work: Work, orders: Iterator[Order]
) -> Iterator[tuple[Order, Computed | Summary | None]]:
    """Do orders one after the other.

    Args:
        runner: The model.
        work: What is done.
        orders: Shards; the next one is read, and prepared, while one is computed.

    Yields:
        For each order None at its beginning, what is computed batch by batch, and at its end the summary.

    Raises:
        Exception: What no `OrdtoolError` is: a bug, or no memory left.
    """
    settled: Any = None
    summary: Summary | None = None
    for order, batch in one_ahead(_batches(runner, work, orders)):
        if summary is None:
            summary = Summary(order.shard.number)
            yield order, None
        try:
            if summary.error is None and batch.prepared is not None:
                known = settled if order.settled is None else order.settled
                for found in runner.compute(batch.prepared, known):
                    summary.add(found)
                    settled = found.settled if found.settled is not None else settled
                    yield order, found
        except OrdtoolError as error:
            summary.error = Failure.of(error)
        if batch.last:
            summary.bad = batch.bad.count
            summary.skipped = [Failure.of(error) for error in batch.bad.first]
            summary.error = summary.error or batch.error
            yield order, summary
            summary = None


@dataclass(slots=True)
class _Batch:
    """Records that are ready to be computed, and, where it is the last of an order, what came of reading them all."""

    prepared: Any = None
    last: bool = False
    bad: BadRecords = field(default_factory=BadRecords)
    error: Failure | None = None


def _batches(runner: Runner, work: Work, orders: Iterator[Order]) -> Iterator[tuple[Order, _Batch]]:
    for order in orders:
        shard = order.shard
        end = _Batch(None, True, error=shard.error)
        end.bad.add(shard.bad, [failure.error() for failure in shard.skipped])

        def on_bad(error: OrdtoolError, end: _Batch = end) -> None:
            if not work.skips:
                raise error
            end.bad.append(error)

        # A range and what was read by the planner are a batch each; a whole file is cut here.
        whole = shard.source is not None and shard.source.kind is None
        weigh = runner.reader.weigh if whole else _nothing
        records = _records(runner.reader, shard, on_bad)
        ready: Any = None
        try:
            for batch in windows(records, work.cut.most, work.cut.heaviest, lambda pair: weigh(pair[1])):  # noqa: B023
                if ready is not None:
                    yield order, _Batch(ready)
                indices = [index for index, _ in batch]
                ready = runner.prepare([record for _, record in batch], indices, on_bad)
        except OrdtoolError as error:
            end.error = Failure.of(error)
        end.prepared = ready
        yield order, end


def _nothing(record: Any) -> int:
    return 0


def _records(reader: Reader, shard: Shard, on_bad: OnBad) -> Iterator[tuple[int, Any]]:
    if shard.source is None:
        for place, record in enumerate(shard.records):
            yield shard.base + place, record
        return
    with shard.source.open() as stream:
        for place, record in enumerate(reader.read(stream, shard.source.kind, on_bad)):
            yield shard.index(record, place), record


def summaries(runner: Runner, work: Work, orders: Iterator[Order], heard: Heard) -> Iterator[Summary]:
    """Do orders in a worker, and yield a summary of each; bytes go where the order says.

    What is no `OrdtoolError` becomes the `crash` of the order that met it.
    """
    for order in orders:
        summary = Summary(order.shard.number)
        data = bytearray()

        def pieces(order: Order = order, summary: Summary = summary) -> Iterator[bytes]:
            for _, found in steps(runner, work, iter([order])):
                if isinstance(found, Summary):
                    heard.move_to(found)
                    summary.become(found)
                elif found is not None:
                    yield found.data

        try:
            if order.part is not None:
                keep_part(order.part, summary, pieces())
            else:
                for piece in pieces():
                    data += piece
                summary.data = bytes(data)
        except Exception as error:
            summary.crash = Failure.of(error).message
        yield summary


def keep_part(path: Path, summary: Summary, pieces: Iterable[bytes]) -> None:
    """Write a shard's bytes beside the output, and behind them its summary, which says that they are whole."""
    path.parent.mkdir(exist_ok=True)
    begun = path.with_name(path.name + ".new")
    with open(begun, "wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    os.replace(begun, path)
    write_record(path.with_name(path.name + _SUMMARY), summary.record())


def known_part(path: Path) -> Summary | None:
    """Return the summary of a part that is whole, such as an interrupted run made ahead of its turn."""
    record = path.with_name(path.name + _SUMMARY)
    if not (path.exists() and record.exists()):
        return None
    try:
        found = Summary.read(read_record(record, {"number": (int,), "records": (int,), "skipped": (list,)}))
    except (OrdtoolError, TypeError, KeyError):
        return None
    return None if found.error is not None else found


def forget_part(path: Path) -> None:
    """Remove a part that was joined."""
    path.with_name(path.name + _SUMMARY).unlink(missing_ok=True)
    path.unlink(missing_ok=True)
