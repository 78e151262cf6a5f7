"""From a plan to an output: shards are handed out, and joined in order under one name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypedDict

from ordtool.errors import BadRecords, OrdtoolError, UsageError
from ordtool.io.atomic import temporary_file
from ordtool.io.resumable import Lines, check_lines, resumable_lines
from ordtool.io.resumable_folder import check_folder, resumable_folder
from ordtool.io.runs import Fields, has_fields
from ordtool.parallel import thread_count
from ordtool.progress import Progress, Silent, warn_each
from ordtool.sharding.executors import Executor, InProcess, Pool, Workers
from ordtool.sharding.plan import Plan, Shard
from ordtool.sharding.work import Summary, Work, forget_part

# Counted up where shards, or what is written of them, change: a run that was interrupted before can't be gone on with.
_LAYOUT = 1


@dataclass(frozen=True, slots=True)
class Scale:
    """Who does the work; nothing that changes the output.

    Attributes:
        workers: Processes of this machine, or with `ray` its actors; None: this process alone, or as many actors as Ray has
            room for.
        ray: The address of a Ray cluster; `local` starts Ray here; None: without Ray.
        gpus_per_worker: GPUs of an actor, or a part of one.
        threads: CPU threads: of all processes of this machine together, or of each actor; None: one a core, shared out,
            or one an actor.

    Raises:
        UsageError: For GPUs without Ray, or less than none; for more processes than 32 and four a core.
    """

    workers: int | None = None
    ray: str | None = None
    gpus_per_worker: float = 0.0
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.gpus_per_worker and self.ray is None:
            raise UsageError("`gpus_per_worker` is of Ray's actors", "with `ray`")
        most = max(32, 4 * (os.cpu_count() or 1))
        if self.ray is None and (self.workers or 1) > most:
            raise UsageError(
                f"`workers` {self.workers:,} is more than this machine takes ({most} at most)",
                "each is a process with the model; one a core is usual",
            )
        if self.gpus_per_worker < 0 or (self.gpus_per_worker > 1 and self.gpus_per_worker % 1):
            raise UsageError(
                f"`gpus_per_worker` {self.gpus_per_worker:g} is not possible",
                "a whole number, or a part of 1",
            )

    @property
    def alone(self) -> bool:
        """Whether this process does the work itself."""
        return self.ray is None and (self.workers or 1) == 1


class ScaleOptions(TypedDict, total=False):
    """The fields of `Scale`, as keywords."""

    workers: int | None
    ray: str | None
    gpus_per_worker: float
    threads: int | None


@contextmanager
def open_executor(scale: Scale, work: Work, progress: Progress) -> Iterator[Executor]:
    """Load the model, here or in workers, which are gone at the end.

    Raises:
        OrdtoolError: If the model can't be loaded, or Ray is not there.
    """
    if scale.alone:
        yield InProcess(work, progress, scale.threads)
        return
    pool: Pool
    if scale.ray is None:
        from ordtool.sharding.processes import Processes

        count = scale.workers or 1
        pool = Processes(work, max(1, thread_count(scale.threads) // count))
    else:
        from ordtool.sharding.on_ray import RayActors

        actors = RayActors(
            work, scale.ray, scale.threads or 1, scale.gpus_per_worker, scale.workers, progress
        )
        pool, count = actors, scale.workers or actors.most
    executor = Workers(pool, count, progress)
    try:
        yield executor
    finally:
        executor.close()


class Sink(Protocol):
    """Takes the bytes of shards."""

    def write(self, data: bytes, /) -> Any:
        """Take some."""


class Form:
    """What the joined bytes of shards become; this one leaves them as they are.

    Attributes:
        settles: The first shard settles something for all others, such as the columns of a table.
        spooled: It can't be written into a pipe as it comes.
        binary: It is no text.
        converts: The output is written from all of the joined bytes, by `convert`.
    """

    settles = False
    spooled = False
    binary = False
    converts = False

    def begin(self, file: BinaryIO, records: int) -> Sink:
        """Write what stands before the shards; `records` are there already, and the file is at their end.

        Returns:
            What takes the bytes of the shards.
        """
        return file

    def end(self, file: BinaryIO, records: int) -> None:
        """Write what depends on all of them; the file is at the end."""

    def convert(self, file: BinaryIO, target: BinaryIO) -> None:
        """Write the output from the joined bytes, at whose beginning the file is."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where the output goes.

    Attributes:
        path: The file; None or `-` is stdout.
        inputs: Files that a resumed run must find unchanged; none if they can't be read again.
        settings: What else must be the same.
        resume: Go on where an interrupted run stopped.
        force: Replace an existing output.
        folder: The output is a folder, whose files its form opens.
    """

    path: str | Path | None
    inputs: Sequence[str | Path] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    resume: bool = False
    force: bool = False
    folder: bool = False

    def check(self) -> None:
        """Find before a model is loaded what keeps the output from being written; raises as `resumable_lines`."""
        if self.folder and self.path is not None:
            check_folder(self.path, inputs=self.inputs, resume=self.resume, force=self.force)
        else:
            check_lines(self.path, inputs=self.inputs, resume=self.resume, force=self.force)

    def open(self, settings: dict[str, Any], binary: bool) -> AbstractContextManager[Lines]:
        """Open the output, of a run with these settings."""
        if self.folder and self.path is not None:
            return resumable_folder(
                self.path, inputs=self.inputs, settings=settings, resume=self.resume, force=self.force
            )
        return resumable_lines(
            self.path,
            inputs=self.inputs,
            settings=settings,
            resume=self.resume,
            force=self.force,
            binary=binary,
        )


@dataclass(slots=True)
class Totals:
    """What a run did.

    Attributes:
        records: Written, by an interrupted run before too.
        before: Of these, by the interrupted run.
        counts: Figures, added up over shards.
        bad: Records that were passed over.
    """

    records: int = 0
    before: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    bad: BadRecords = field(default_factory=BadRecords)

    def add(self, summary: Summary) -> None:
        """Count a shard in."""
        self.records += summary.records
        for name, count in summary.counts.items():
            self.counts[name] = self.counts.get(name, 0) + count
        self.bad.add(summary.bad, [failure.error() for failure in summary.skipped])

    def state(self) -> dict[str, Any]:
        """Return what a resumed run has to know."""
        return {
            "records": self.records,
            "counts": self.counts,
            "bad": self.bad.count,
            "messages": [error.message for error in self.bad.first],
        }

    def take(self, state: Mapping[str, Any]) -> None:
        """Take over what an interrupted run did."""
        self.records = self.before = state.get("records", 0)
        self.counts = dict(state.get("counts", {}))
        self.bad.clear()
        self.bad.add(state.get("bad", 0), [OrdtoolError(message) for message in state.get("messages", [])])

    def tell_skipped(self, progress: Progress) -> None:
        """Warn of the records that were passed over, if there were any."""
        warn_each(self.bad.report(), progress)


class ShardBar(Silent):
    """One bar for all workers: in bytes of the input where these are known, else in records.

    Args:
        progress: The bar.
        doing: What is done: `parsing`.
        unit: Of records: `sentences`.
        hidden: There is no bar, only what is noted.
    """

    def __init__(self, progress: Progress, doing: str, unit: str, hidden: bool = False) -> None:
        self._progress = progress
        self._names = doing, unit
        self._hidden = hidden
        self._total: int | None = None
        self._shard: Shard | None = None
        self._moved = 0.0
        self._said: set[str] = set()

    def begin(self, total: int | None, done: int) -> None:
        """Begin, at what an interrupted run did."""
        self._total = total
        if not self._hidden:
            self._progress.start(self._names[0], total or None, "B" if total else self._names[1])
            if done:
                self._progress.advance(done)

    def enter(self, shard: Shard) -> None:
        """Hear which shard is next."""
        self._shard, self._moved = shard, 0.0

    def advance(self, amount: float = 1, **stats: object) -> None:
        """Hear of records of this shard that are done."""
        shard = self._shard
        if shard is None:
            return
        if self._total:
            most = shard.bytes - self._moved
            amount = min(most, shard.bytes * amount / shard.count if shard.count else 0)
        self._moved += amount
        if (amount or stats) and not self._hidden:
            self._progress.advance(amount, **stats)

    def leave(self, summary: Summary, records: int) -> None:
        """Hear that it is done, and how many records are with it."""
        for message in summary.notes:
            self.note(message)
        for message in summary.warnings:
            self.warn(message)
        whole = self._shard.bytes if self._total and self._shard else summary.records
        rest, self._shard = max(0, whole - self._moved), None
        if rest and not self._hidden:
            self._progress.advance(rest, **({self._names[1]: f"{records:,}"} if self._total else {}))

    def note(self, message: str) -> None:
        """Pass it on, once."""
        if message not in self._said:
            self._said.add(message)
            self._progress.note(message)

    def warn(self, message: str) -> None:
        """Pass it on, once."""
        if message not in self._said:
            self._said.add(message)
            self._progress.warn(message)

    def close(self) -> None:
        """End the bar."""
        self._progress.close()


Listener = Callable[[Summary], None]


def run(
    plan: Plan,
    executor: Executor,
    target: Target,
    form: Form,
    bar: ShardBar,
    *,
    totals: Totals | None = None,
    heard: Listener | None = None,
) -> Totals:
    """Do all shards of a plan, and write the output.

    Args:
        plan: The shards.
        executor: Who does them.
        target: Where the output goes.
        form: What it is.
        bar: Shows how far the work is.
        totals: Counts into these, so that they are known when an error ends the run.
        heard: Told of each shard that is joined.

    Returns:
        What was done.

    Raises:
        OrdtoolError: A bad record, after all before it is written; a shard that failed three times; an output that can't be
            written, or is no run to go on with.
    """
    joining = _Joining(plan, executor, form, bar, Totals() if totals is None else totals, heard)
    with target.open({**target.settings, "layout": _LAYOUT}, form.binary) as lines:
        if lines.parts is None and (form.spooled or form.converts):
            with temporary_file(None) as spool:
                joining.join(lines, spool)
                spool.seek(0)
                if form.converts:
                    form.convert(spool, lines.file)
                else:
                    shutil.copyfileobj(spool, lines.file, 1 << 20)
            return joining.totals
        joining.join(lines, lines.file)
        if form.converts and lines.parts is not None:
            lines.replacement = lines.parts.with_suffix(".whole")
            lines.file.seek(0)
            try:
                with open(lines.replacement, "w+b") as whole:
                    form.convert(lines.file, whole)
                    whole.flush()
                    os.fsync(whole.fileno())
            except BaseException:
                lines.replacement.unlink(missing_ok=True)
                raise
    return joining.totals


def collect(
    plan: Plan, executor: Executor, bar: ShardBar, write: Callable[[bytes], object], totals: Totals
) -> None:
    """Do all shards of a plan, and hand their bytes on, in order; nothing of it can be gone on with.

    Raises:
        OrdtoolError: As `run` does.
    """
    bar.begin(plan.bytes, 0)
    with closing(executor.answers(plan.shards(), parts=None, settled=None, settles=False)) as answers:
        for answer in answers:
            bar.enter(answer.shard)
            for piece in answer.pieces:
                write(piece)
            totals.add(answer.summary)
            bar.leave(answer.summary, totals.records)
            if answer.summary.error is not None:
                raise answer.summary.error.error()


@contextmanager
def open_form(
    target: BinaryIO, form: Form, records: int, *, beside: str | Path | None = None
) -> Iterator[Sink]:
    """Write a form into an open output from the bytes of so many records that are at hand already.

    Args:
        target: The output.
        form: What it is.
        records: How many they are.
        beside: Where a temporary file has room; see `temporary_file`.
    """
    if not form.converts:
        yield form.begin(target, 0)
        form.end(target, records)
        return
    with temporary_file(beside) as spool:
        yield spool
        spool.seek(0)
        form.convert(spool, target)


_STATE: Fields = {
    **dict.fromkeys(("shards", "read", "records", "bad"), (int,)),
    "counts": (dict,),
    "messages": (list,),
}


def _is_state(found: Any) -> bool:
    """Whether JSON is what a run records of itself."""
    return has_fields(found, _STATE) and has_fields(found["counts"], dict.fromkeys(found["counts"], (int,)))


@dataclass(slots=True)
class _Joining:
    plan: Plan
    executor: Executor
    form: Form
    bar: ShardBar
    totals: Totals
    heard: Listener | None

    def join(self, lines: Lines, file: BinaryIO) -> None:
        """Write the shards, in order, behind those that are there."""
        state, totals = lines.checked_state(_is_state), self.totals
        number, read = state.get("shards", 0), state.get("read", 0)
        totals.take(state)
        sink = self.form.begin(file, totals.records)
        self.bar.begin(self.plan.bytes, read if self.plan.bytes else totals.records)
        if totals.records:
            self.bar.note(f"going on after {totals.records:,} records")
        settled = state.get("settled")
        answers = self.executor.answers(
            self.plan.shards(number), parts=lines.parts, settled=settled, settles=self.form.settles
        )
        with closing(answers):
            for answer in answers:
                begin = file.tell() if lines.parts is not None else None
                self.bar.enter(answer.shard)
                for piece in answer.pieces:
                    sink.write(piece)
                summary = answer.summary
                totals.add(summary)
                if self.heard is not None:
                    self.heard(summary)
                self.bar.leave(summary, totals.records)
                if summary.error is not None:
                    # What came before the error is left to be read; the shard is done again by a resumed run.
                    lines.save(totals.records, lines.state, begin)
                    raise summary.error.error()
                number, read = number + 1, read + answer.shard.bytes
                settled = summary.settled if settled is None else settled
                lines.save(
                    totals.records, {"shards": number, "read": read, "settled": settled, **totals.state()}
                )
                if answer.part is not None:
                    forget_part(answer.part)
        self.form.end(file, totals.records)
