"""A job of a billion sentences on 1 to 1,000 workers, some of which die: how long it takes, and what limits it.

    python benchmarks/simulate_scale.py                    # the table of docs/scale.md
    python benchmarks/simulate_scale.py --mtbf-hours 24 --shard 100000 --model english-gold

Discrete events: a driver hands out shards of lines, workers read, parse and write them to a file system that all share, the
driver joins the parts in order. A worker that dies loses the shard it is at, which another one does anew; a driver that dies
loses what is under way, and is started anew with `--resume`. Joining happens in order, so that no more than some shards a
worker are ahead of the next one to be joined. The costs are measured (see `Costs`); how often machines die is assumed.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
from collections import deque
from dataclasses import asdict, dataclass, replace

import numpy as np

# Sentences a second of one core, as benchmarks/parser_speed.py and its runs on other models gave them.
MODELS = {"english": 770.0, "english-gold": 670.0}


@dataclass(frozen=True)
class Costs:
    """What things cost; seconds and bytes.

    Attributes:
        rate: Sentences a second of a worker (one core).
        read: Bytes of a sentence, read. 2,000 sentences of `examples/story.txt`: 101.
        written: Bytes of its tree, written. As JSONL 1,107; as brackets 282.
        start: To start a worker and load its model: 2.3 CPU seconds for `english`, one sentence parsed; twice that where the
            files are cold.
        shard: A worker's own for a shard: the part flushed to the disk and renamed, 0.02 with fsync.
        driver: The driver's for a shard: a part opened, read, removed (0.0001), and messages to and from a worker.
        join: Bytes a second that the driver copies from parts to the output: 233e6 on the disk here, fsync included.
        storage: Bytes a second of the shared file system, for all workers together; assumed, a small NFS server.
        link: Bytes a second of one worker to it; assumed, a gigabit.
        ahead: Shards a worker that may be done ahead of the next one to be joined.
        notice: Until a death is noticed.
        tries: How often a shard is tried.
        mtbf: Hours between two deaths of a worker; assumed.
        driver_mtbf: Of the driver; assumed.
        resume: To start the driver anew, by hand or a supervisor; assumed.
        spread: Shards take up to this share more or less time than the mean. Without it workers would stay in step, and all
            would want to write at the same moment.
    """

    rate: float = MODELS["english"]
    read: float = 101.0
    written: float = 1107.0
    start: float = 4.6
    shard: float = 0.02
    driver: float = 0.002
    join: float = 233e6
    storage: float = 1e9
    link: float = 125e6
    ahead: int = 4
    notice: float = 1.0
    tries: int = 3
    mtbf: float = math.inf
    driver_mtbf: float = math.inf
    resume: float = 120.0
    spread: float = 0.1


@dataclass
class Outcome:
    """What came of a job.

    Attributes:
        seconds: From the start to the last byte joined; infinite if a shard failed too often.
        deaths: Workers that died.
        driver_deaths: Deaths of the driver.
        lost: Worker seconds of work that was done anew.
        idle: Worker seconds of waiting for a shard.
        driver_busy: Share of the time that the driver worked.
        storage_busy: Share of the time that the shared file system worked.
        failed: The shard that failed too often, if one did.
    """

    seconds: float = 0.0
    deaths: int = 0
    driver_deaths: int = 0
    lost: float = 0.0
    idle: float = 0.0
    driver_busy: float = 0.0
    storage_busy: float = 0.0
    failed: int | None = None


def closed_form(costs: Costs, sentences: float, workers: int, shard: int) -> dict[str, float]:
    """Predict the time without failures: the largest of what workers, driver and file system need, after a start.

    Returns:
        `seconds`, and the needs: `workers`, `driver`, `storage`.
    """
    count = math.ceil(sentences / shard)
    transfer = max(1 / costs.link, 1 / costs.storage)
    each = shard / costs.rate + costs.shard + shard * (costs.read + costs.written) * transfer
    size = shard * costs.written
    needs = {
        "workers": math.ceil(count / workers) * each,
        "driver": count * (costs.driver + size / costs.join),
        "storage": sentences * (costs.read + costs.written) / costs.storage,
    }
    # What isn't the bottleneck adds one shard's way through it: the first one's, or the last one's.
    limit = max(needs, key=lambda name: needs[name])
    tail = costs.driver + size / costs.join
    rest = {"workers": tail, "driver": each, "storage": each + tail}[limit]
    return {"seconds": costs.start + needs[limit] + rest, **needs}


@dataclass
class _Worker:
    """A worker: when it dies, and what it is at."""

    dies: float
    shard: int | None = None
    began: float = 0.0
    life: int = 0
    idle_since: float | None = None


class Simulation:
    """One job.

    Args:
        costs: What things cost.
        sentences: How many there are.
        workers: How many work.
        shard: Sentences a shard.
        seed: Of the deaths.
    """

    def __init__(self, costs: Costs, sentences: float, workers: int, shard: int, seed: int = 0) -> None:
        self.costs, self.sentences, self.size = costs, sentences, shard
        self.count = math.ceil(sentences / shard)
        self.random = np.random.default_rng(seed)
        self.events: list[tuple[float, int, str, int, int]] = []
        self.order = 0
        self.workers = [_Worker(self._death(0.0)) for _ in range(workers)]
        self.waiting: deque[int] = deque()
        self.again: deque[int] = deque()
        self.tries: dict[int, int] = {}
        self.done: set[int] = set()
        self.following = 0  # the shard that is joined next
        self.given = 0
        self.storage_free = self.storage_time = self.driver_free = self.driver_time = 0.0
        self.blocked = 0.0  # until then no shard is handed out: the driver is dead
        self.found = Outcome()

    def run(self) -> Outcome:
        """Let it happen."""
        costs, found = self.costs, self.found
        for number in range(len(self.workers)):
            self._at(costs.start, "free", number)
        if costs.driver_mtbf < math.inf:
            self._at(self._exponential(costs.driver_mtbf), "driver", 0)
        now = 0.0
        while self.following < self.count:
            now, _, kind, number, life = heapq.heappop(self.events)
            if kind == "driver":
                self._driver_dies(now)
            elif kind == "joined":
                if life != self.found.driver_deaths:
                    continue  # it was being joined when the driver died
                self.following += 1
                self._join(now)
                self._hand_out(now)
            elif life == self.workers[number].life:
                getattr(self, f"_{kind}")(now, number)
            if found.failed is not None:
                found.seconds = math.inf
                return found
        found.seconds = now
        for worker in self.workers:
            if worker.idle_since is not None:
                found.idle += now - worker.idle_since
        found.driver_busy, found.storage_busy = self.driver_time / now, self.storage_time / now
        return found

    def _at(self, time: float, kind: str, number: int) -> None:
        life = self.workers[number].life if kind not in ("driver", "joined") else self.found.driver_deaths
        self.order += 1
        heapq.heappush(self.events, (time, self.order, kind, number, life))

    def _exponential(self, hours: float) -> float:
        return float(self.random.exponential(hours * 3600))

    def _death(self, now: float) -> float:
        return math.inf if self.costs.mtbf == math.inf else now + self._exponential(self.costs.mtbf)

    def _stage(self, now: float, end: float, kind: str, number: int) -> None:
        """Let a worker come to the end of a stage, or die before it."""
        dies = self.workers[number].dies
        self._at(min(end, max(dies, now)), kind if end <= dies else "dies", number)

    def _transfer(self, now: float, size: float) -> float:
        """Book bytes on the shared file system, first come, first served; return when they are there."""
        need = size / self.costs.storage
        begin = max(now, self.storage_free)
        self.storage_free = begin + need
        self.storage_time += need
        return max(begin + need, now + size / self.costs.link)

    def _free(self, now: float, number: int) -> None:
        """A worker asks for a shard."""
        worker = self.workers[number]
        worker.shard, worker.idle_since = None, now
        self.waiting.append(number)
        self._hand_out(now)

    def _hand_out(self, now: float) -> None:
        limit = self.following + self.costs.ahead * len(self.workers)
        while self.waiting and now >= self.blocked:
            if self.again:
                shard = self.again.popleft()
            elif self.given < min(self.count, limit):
                shard = self.given
                self.given += 1
            else:
                return
            number = self.waiting.popleft()
            worker = self.workers[number]
            self.found.idle += now - (worker.idle_since or 0.0)
            worker.shard, worker.began, worker.idle_since = shard, now, None
            self._stage(now, self._transfer(now, self.size * self.costs.read), "read", number)

    def _read(self, now: float, number: int) -> None:
        spread = self.costs.spread * float(self.random.uniform(-1, 1))
        end = now + self.size / self.costs.rate * (1 + spread) + self.costs.shard
        self._stage(now, end, "computed", number)

    def _computed(self, now: float, number: int) -> None:
        self._stage(now, self._transfer(now, self.size * self.costs.written), "written", number)

    def _written(self, now: float, number: int) -> None:
        shard = self.workers[number].shard
        assert shard is not None
        self.done.add(shard)
        if shard == self.following:
            self._join(now)
        self._free(now, number)

    def _join(self, now: float) -> None:
        """Join the next shard if it is done; `joined` comes when it is."""
        if self.following in self.done and now >= self.blocked:
            self.done.discard(self.following)
            need = self.costs.driver + self.size * self.costs.written / self.costs.join
            self.driver_free = max(now, self.driver_free) + need
            self.driver_time += need
            self._at(self.driver_free, "joined", 0)

    def _dies(self, now: float, number: int) -> None:
        self.found.deaths += 1
        self._lose(now, number)
        worker = self.workers[number]
        worker.life += 1
        begins = now + self.costs.notice + self.costs.start
        worker.dies = self._death(begins)
        self._at(begins, "free", number)

    def _lose(self, now: float, number: int, counted: bool = True) -> None:
        """Give a worker's shard back."""
        worker = self.workers[number]
        if worker.shard is None:
            return
        self.found.lost += now - worker.began
        if counted:
            self.tries[worker.shard] = self.tries.get(worker.shard, 0) + 1
            if self.tries[worker.shard] >= self.costs.tries:
                self.found.failed = worker.shard
        self.again.append(worker.shard)
        worker.shard = None

    def _driver_dies(self, now: float) -> None:
        """All that is under way is lost; parts that are done stay, and the same command goes on."""
        costs = self.costs
        joining = self.driver_free > now  # what was being joined is joined anew
        self.found.driver_deaths += 1
        self.blocked = now + costs.resume
        self.waiting.clear()
        for number, worker in enumerate(self.workers):
            self._lose(now, number, counted=False)
            if worker.idle_since is not None:
                self.found.idle += now - worker.idle_since
                worker.idle_since = None
            worker.life += 1
            begins = self.blocked + costs.start
            worker.dies = self._death(begins)
            self._at(begins, "free", number)
        if joining:
            self.done.add(self.following)
        self.driver_free = self.storage_free = self.blocked
        self._at(self.blocked, "resumed", 0)
        self._at(now + self._exponential(costs.driver_mtbf), "driver", 0)

    def _resumed(self, now: float, number: int) -> None:
        self._join(now)


def simulate(costs: Costs, sentences: float, workers: int, shard: int, seed: int = 0) -> Outcome:
    """Simulate one job; see `Simulation`."""
    return Simulation(costs, sentences, workers, shard, seed).run()


def limited_by(costs: Costs, sentences: float, workers: int, shard: int) -> str:
    """Say what the closed form expects to be the bottleneck."""
    needs = closed_form(costs, sentences, workers, shard)
    del needs["seconds"]
    return max(needs, key=lambda name: needs[name])


def row(costs: Costs, sentences: float, workers: int, shard: int, seed: int) -> dict[str, object]:
    """Simulate a job with and without deaths, as a line of the table."""
    found = simulate(costs, sentences, workers, shard, seed)
    calm = replace(costs, mtbf=math.inf, driver_mtbf=math.inf)
    spent = workers * found.seconds
    return {
        "workers": workers,
        "shard": shard,
        "shards": math.ceil(sentences / shard),
        "closed form, hours": round(closed_form(calm, sentences, workers, shard)["seconds"] / 3600, 3),
        "hours": round(found.seconds / 3600, 3),
        "core hours": round(spent / 3600) if spent < math.inf else spent,
        "efficiency": round(sentences / costs.rate / spent, 3),
        "lost": round(found.lost / spent, 4),
        "idle": round(found.idle / spent, 3),
        "deaths": found.deaths,
        "driver deaths": found.driver_deaths,
        "driver busy": round(found.driver_busy, 2),
        "storage busy": round(found.storage_busy, 2),
        "limit": limited_by(calm, sentences, workers, shard),
        "failed": found.failed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="A billion sentences on many workers, simulated.")
    parser.add_argument("--sentences", type=float, default=1e9)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 10, 100, 1000])
    parser.add_argument("--shard", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--model", choices=sorted(MODELS), default="english")
    parser.add_argument("--brackets", action="store_true", help="282 bytes a tree instead of 1,107")
    parser.add_argument("--mtbf-hours", type=float, default=168.0, help="between two deaths of a worker")
    parser.add_argument("--driver-mtbf-hours", type=float, default=720.0)
    parser.add_argument("--storage", type=float, default=1e9, help="bytes a second of the file system")
    parser.add_argument("--join", type=float, default=Costs.join, help="bytes a second that the driver joins")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    costs = Costs(
        rate=MODELS[given.model],
        written=282.0 if given.brackets else Costs.written,
        mtbf=given.mtbf_hours,
        driver_mtbf=given.driver_mtbf_hours,
        storage=given.storage,
        join=given.join,
    )
    print(json.dumps({"costs": asdict(costs), "sentences": given.sentences}, default=str))
    rows = [row(costs, given.sentences, w, s, given.seed) for w in given.workers for s in given.shard]
    print("| " + " | ".join(rows[0]) + " |")
    print("|" + "---|" * len(rows[0]))
    for line in rows:
        print("| " + " | ".join(str(value) for value in line.values()) + " |")


if __name__ == "__main__":
    main()
