"""Who does the work: this process, or workers that each hold a model, which a loss of one doesn't stop."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from ordtool.errors import OrdtoolError
from ordtool.progress import Progress
from ordtool.sharding.plan import Failure, Shard
from ordtool.sharding.work import Order, Summary, Work, keep_part, known_part, steps

TRIES = 3
# Shards that a worker has: the one it does, and the next.
_EACH = 2
# Shards that may be done, or under way, ahead of the one that is written next, for each worker.
_AHEAD = 4
_PIECE = 1 << 20


@dataclass(slots=True)
class Answer:
    """A shard's bytes; the summary holds when they are all taken."""

    shard: Shard
    pieces: Iterator[bytes]
    summary: Summary
    part: Path | None = None


class Executor(Protocol):
    """Does shards.

    Attributes:
        facts: What the model says of itself.
        workers: How many work at a time; 0: this process alone.
    """

    facts: dict[str, Any]
    workers: int

    def answers(
        self, shards: Iterator[Shard], *, parts: Path | None, settled: Any, settles: bool
    ) -> Generator[Answer]:
        """Yield the answer of each shard, in order.

        Args:
            shards: In order.
            parts: The folder for what is done ahead of its turn; None: memory.
            settled: What an earlier shard settled, in an interrupted run.
            settles: Whether a shard settles something for those behind it, which then have to wait for it.
        """

    def close(self) -> None:
        """Let the workers go."""


class InProcess:
    """This process.

    Args:
        work: What is done.
        progress: Told of all that the model has to say; moved by what it computes.
        threads: CPU threads; None: torch's own choice.
    """

    workers = 0

    def __init__(self, work: Work, progress: Progress, threads: int | None) -> None:
        self._work = work
        self._runner = work.load(progress, threads)
        self.facts = self._runner.facts

    def answers(
        self, shards: Iterator[Shard], *, parts: Path | None, settled: Any, settles: bool
    ) -> Generator[Answer]:
        """See `Executor`."""
        known: deque[Answer] = deque()  # what workers of an interrupted run did ahead of its turn

        def orders() -> Iterator[Order]:
            for shard in shards:
                part = None if parts is None else _part_of(parts, shard)
                if part is not None and (made := known_part(part)) is not None:
                    known.append(Answer(shard, _pieces(part, made), made, part))
                else:
                    yield Order(shard, settled)

        found = steps(self._runner, self._work, orders())
        for order, _ in found:
            while known and known[0].shard.number < order.shard.number:
                yield known.popleft()
            summary = Summary(order.shard.number)

            def pieces(summary: Summary = summary) -> Iterator[bytes]:
                for _, step in found:
                    if isinstance(step, Summary):
                        summary.become(step)
                        return
                    if step is not None:
                        yield step.data

            yield Answer(order.shard, pieces(), summary)
        yield from known

    def close(self) -> None:
        """See `Executor`."""


def _part_of(parts: Path, shard: Shard) -> Path:
    return parts / f"{shard.number:08d}"


class Died(Exception):
    """A worker ended; the message says how."""


@dataclass(slots=True)
class Worker:
    """A worker, as the driver sees it.

    Attributes:
        name: For people.
        handle: The pool's own.
        orders: Under way, the first one first.
        ready: Whether its model is loaded.
    """

    name: str
    handle: Any
    orders: deque[Order] = field(default_factory=deque)
    ready: bool = False


@dataclass(frozen=True, slots=True)
class Hello:
    """A worker's first word: what its model says of itself, or why it can't be loaded."""

    facts: dict[str, Any] = field(default_factory=dict)
    failure: Failure | None = None


class Pool(Protocol):
    """Where workers come from: processes of this machine, or Ray."""

    def start(self) -> Worker:
        """Start one."""

    def send(self, worker: Worker, order: Order) -> None:
        """Give it an order; one that has died says so in `wait`."""

    def wait(self) -> tuple[Worker, Hello | Summary | Died]:
        """Wait for a worker to say something, or to die."""

    def close(self) -> None:
        """End all of them."""


class Workers:
    """Workers of a pool; a shard whose worker dies is done again by another.

    Args:
        pool: Where they come from.
        count: How many.
        progress: Told of workers that die.
    """

    def __init__(self, pool: Pool, count: int, progress: Progress) -> None:
        self.workers = count
        self.facts: dict[str, Any] = {}
        self._pool = pool
        self._progress = progress
        self._staff: list[Worker] = []
        self._tries: dict[int, int] = {}
        self._starts_failed = 0
        self._again: deque[Order] = deque()
        try:
            self._staff = [pool.start() for _ in range(count)]
            while not any(worker.ready for worker in self._staff):
                self._hear()
        except BaseException:
            self.close()
            raise

    def answers(
        self, shards: Iterator[Shard], *, parts: Path | None, settled: Any, settles: bool
    ) -> Generator[Answer]:
        """See `Executor`."""
        self._settled = settled
        coming = _Coming(shards, parts)
        done: dict[int, tuple[Order, Summary]] = {}
        following: int | None = None  # the number of the shard that is written next
        while True:
            while order := self._next(coming, settles, following):
                following = order.shard.number if following is None else following
                if order.part is not None and (found := known_part(order.part)) is not None:
                    done[order.shard.number] = order, found
                else:
                    self._send(order)
            while following in done:
                order, summary = done.pop(following)
                self._settled = summary.settled if self._settled is None else self._settled
                yield Answer(order.shard, _pieces(order.part, summary), summary, order.part)
                following += 1
            if not any(worker.orders for worker in self._staff) and not self._again:
                if following is None or coming.ended:
                    return
                continue
            if (heard := self._hear()) is not None:
                order, summary = heard
                done[order.shard.number] = order, summary

    def _next(self, coming: _Coming, settles: bool, following: int | None) -> Order | None:
        """Return the next order that a worker has room for, if there is any."""
        if not any(len(worker.orders) < _EACH for worker in self._staff):
            return None
        if self._again:
            return self._again.popleft()
        ahead = 0 if following is None or coming.given is None else coming.given + 1 - following
        if ahead >= (1 if settles and self._settled is None else _AHEAD * self.workers):
            return None
        order = coming.order()
        return None if order is None else replace(order, settled=self._settled)

    def _send(self, order: Order) -> None:
        worker = min(self._staff, key=lambda one: (len(one.orders), not one.ready))
        worker.orders.append(order)
        self._pool.send(worker, order)

    def _hear(self) -> tuple[Order, Summary] | None:
        """Wait for a worker, and return a shard that is done."""
        worker, said = self._pool.wait()
        if isinstance(said, Hello):
            if said.failure is not None:
                raise said.failure.error()
            worker.ready = True
            if self.facts and self.facts != said.facts:
                self._progress.warn(
                    f"{worker.name} has another model or device than the others: {said.facts}"
                )
            self.facts = self.facts or said.facts
            return None
        if isinstance(said, Died):
            self._replace(worker, str(said))
            return None
        order = worker.orders.popleft()
        if said.crash is not None:
            self._retry(order, said.crash)
            return None
        if order.part is not None and said.data is not None:  # from a machine that doesn't see our files
            keep_part(order.part, said, [said.data])
            said.data = None
        return order, said

    def _replace(self, worker: Worker, how: str) -> None:
        """Start another worker for one that died; the shard that it did is tried again, those behind it are done anew."""
        self._staff.remove(worker)
        if not worker.ready:
            self._starts_failed += 1
            if self._starts_failed >= TRIES:
                raise OrdtoolError(
                    f"{worker.name} {how} before its model was loaded",
                    "out of memory? fewer `workers` need less",
                )
        orders, worker.orders = list(worker.orders), deque()
        self._again.extendleft(reversed(orders[1:]))
        what = "another one begins"
        if orders:
            what = f"shard {orders[0].shard.number} ({orders[0].shard.where}) is done again"
        if orders and worker.ready:
            self._retry(orders[0], f"its worker {how}", told=True)
        elif orders:
            self._again.appendleft(orders[0])
        self._progress.warn(f"{worker.name} {how}; {what}")
        self._staff.append(self._pool.start())

    def _retry(self, order: Order, why: str, told: bool = False) -> None:
        number = order.shard.number
        self._tries[number] = self._tries.get(number, 0) + 1
        if self._tries[number] >= TRIES:
            raise OrdtoolError(
                f"shard {number} ({order.shard.where}) failed {TRIES} times: {why}",
                "`resume` goes on with what is done; out of memory? fewer `workers` need less",
            )
        if not told:
            self._progress.warn(f"shard {number} ({order.shard.where}): {why}; it is done again")
        self._again.appendleft(order)

    def close(self) -> None:
        """See `Executor`."""
        self._pool.close()


class _Coming:
    """Orders that nobody has yet."""

    def __init__(self, shards: Iterator[Shard], parts: Path | None) -> None:
        self._shards = shards
        self._parts = parts
        self.given: int | None = None
        self.ended = False

    def order(self) -> Order | None:
        shard = None if self.ended else next(self._shards, None)
        if shard is None:
            self.ended = True
            return None
        self.given = shard.number
        return Order(shard, None, None if self._parts is None else _part_of(self._parts, shard))


def _pieces(part: Path | None, summary: Summary) -> Iterator[bytes]:
    if summary.data is not None or part is None:
        yield summary.data or b""
        return
    with open(part, "rb") as file:
        while piece := file.read(_PIECE):
            yield piece
