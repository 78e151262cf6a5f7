"""Workers that are actors of Ray: on this machine, or on a cluster."""

from __future__ import annotations

import logging
import os
import re
import socket
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ordtool.errors import OrdtoolError, UsageError
from ordtool.parallel import thread_count
from ordtool.progress import Progress
from ordtool.runtime import libraries_heard, library_messages, require
from ordtool.sharding.executors import Died, Hello, Worker
from ordtool.sharding.plan import Failure
from ordtool.sharding.work import Heard, Order, Summary, Work, summaries

LOCAL = "local"
# In the folder of parts: an actor that reads the same there shares the driver's file system.
_TOKEN = "driver"


class RayActors:
    """A pool of Ray's actors.

    Args:
        work: What they do.
        address: Of a cluster, as `ray.init` takes it; `local` starts one here, which ends with this process.
        threads: CPUs that an actor asks for, and its threads.
        gpus: GPUs that an actor asks for, or a part of one.
        workers: How many actors there will be, if that is known.
        progress: Told what was joined.

    Attributes:
        most: Actors that there is room for.

    Raises:
        OrdtoolError: If Ray is not installed, or there is no cluster at the address.
        UsageError: If there is no room for so many.
    """

    def __init__(
        self, work: Work, address: str, threads: int, gpus: float, workers: int | None, progress: Progress
    ) -> None:
        require("ray", "ray")
        self._actors: list[Any] = []
        self._calls: dict[Any, tuple[Worker, Order | None]] = {}
        self._blind: set[Any] = set()
        self._number = 0
        self._owns = _connect(address, threads, workers)
        import ray

        found = ray.cluster_resources()
        share = {"CPU": threads, "GPU": gpus}
        self.most = min(int(found.get(name, 0) / each + 1e-9) for name, each in share.items() if each)
        if self.most < (workers or 1):
            self.close()
            raise UsageError(
                f"Ray has {found.get('CPU', 0):g} CPUs and {found.get('GPU', 0):g} GPUs, too few for "
                f"{workers or 1} workers of {threads} and {gpus:g} each",
                "fewer `workers`, `threads` or `gpus_per_worker`",
            )
        kind = ray.remote(num_cpus=threads, num_gpus=gpus, max_restarts=0, max_task_retries=0)(_Actor)
        self._actor: Any = kind
        self._work = ray.put(work)
        self._threads = None if gpus else threads

    def start(self) -> Worker:
        """See `Pool`."""
        actor = self._actor.remote(self._work, self._threads, libraries_heard())
        self._actors.append(actor)
        self._number += 1
        worker = Worker(f"actor {self._number}", actor)
        self._calls[actor.hello.remote()] = worker, None
        return worker

    def send(self, worker: Worker, order: Order) -> None:
        """See `Pool`."""
        sent, stat = order, None
        if (source := order.shard.source) is not None:
            if worker.handle in self._blind:
                sent = replace(order, shard=replace(order.shard, source=source.loaded()))
            else:
                stat = _stat(source.path)
        self._calls[worker.handle.do.remote(sent, stat, _token(order.part))] = worker, order

    def wait(self) -> tuple[Worker, Hello | Summary | Died]:
        """See `Pool`."""
        import ray
        from ray.exceptions import RayActorError, RayError

        while True:
            [call, *_], _ = ray.wait(list(self._calls), num_returns=1)
            worker, order = self._calls.pop(call)
            try:
                found = ray.get(call)
            except RayActorError as error:
                self._calls = {ref: pair for ref, pair in self._calls.items() if pair[0] is not worker}
                self._actors.remove(worker.handle)
                return worker, Died(_how(error))
            except RayError as error:
                number = 0 if order is None else order.shard.number
                found = Summary(number, crash=_how(error))
            if order is None and isinstance(found, Summary):
                return worker, Died(str(found.crash))
            if order is None:
                worker.name, found = found
            elif found is None:  # another machine, which doesn't see the file
                self._blind.add(worker.handle)
                self.send(worker, order)
                continue
            return worker, found

    def close(self) -> None:
        """See `Pool`."""
        import ray

        for actor in self._actors:
            with suppress(Exception):  # the cluster may be gone
                ray.kill(actor)
        self._actors.clear()
        if self._owns:
            ray.shutdown()


def _connect(address: str, threads: int, workers: int | None) -> bool:
    """Connect to Ray, and say whether that is to be undone: not where it was connected before."""
    # Nothing goes over the network that nobody asked for; and what is said here is said by us.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if not libraries_heard():
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # else it tells of dead actors on stdout
    import ray

    if ray.is_initialized():
        return False
    options: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {}
    if address == LOCAL:
        options["num_cpus"] = max(thread_count(), threads * (workers or 1))
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except Exception as error:  # Ray raises no kind of its own where its processes don't start in time
        reason = " ".join(str(error).split())
        raise OrdtoolError(
            f"no Ray at {address}: {reason[:200]}", "`ray` without an address starts it here"
        ) from None
    return True


class _Actor:
    """Holds a model, and does orders."""

    def __init__(self, work: Work, threads: int | None, heard: bool) -> None:
        library_messages(shown=heard).__enter__()  # for as long as the process lives
        self._work = work
        self._listener = Heard()
        self._failure: Failure | None = None
        try:
            self._runner = work.load(self._listener, threads)
        except Exception as error:  # a bug too is said once, by the driver
            self._failure = Failure.of(error)

    def hello(self) -> tuple[str, Hello]:
        """Say who and where this is, and what the model says of itself."""
        name = f"actor of process {os.getpid()} on {socket.gethostname()}"
        return name, Hello(failure=self._failure) if self._failure else Hello(self._runner.facts)

    def do(self, order: Order, stat: tuple[int, int] | None, token: str | None) -> Summary | None:
        """Do an order; None: its file isn't seen here."""
        source = order.shard.source
        if source is not None and stat is not None and _stat(source.path) != stat:
            return None
        if order.part is not None and (token is None or _read_token(order.part) != token):
            order = replace(order, part=None)
        [summary] = summaries(self._runner, self._work, iter([order]), self._listener)
        return summary


def _stat(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _token(part: Path | None) -> str | None:
    """Return what an actor has to find in the folder of parts, and put it there."""
    if part is None:
        return None
    if (known := _read_token(part)) is not None:
        return known
    part.parent.mkdir(exist_ok=True)
    token = f"{socket.gethostname()} {os.getpid()} {os.stat(part.parent).st_ctime_ns}"
    part.with_name(_TOKEN).write_text(token)
    return token


def _read_token(part: Path) -> str | None:
    try:
        return part.with_name(_TOKEN).read_text()
    except OSError:
        return None


def _how(error: Exception) -> str:
    """Say in a line how an actor ended."""
    text = " ".join(str(error).split())
    found = re.search(r"exit detail: ([^.]*)|(\w*Error: [^.]*)$", text)
    return "died: " + (next(filter(None, found.groups())) if found else text[:200])
