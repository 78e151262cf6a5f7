"""Workers that are processes of this machine."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from multiprocessing import connection, get_context
from typing import Any

from ordtool.parallel import end_with_parent
from ordtool.runtime import libraries_heard, library_messages
from ordtool.sharding.executors import Died, Hello, Worker
from ordtool.sharding.plan import Failure
from ordtool.sharding.work import Heard, Order, Summary, Work, summaries


class Processes:
    """A pool of processes; they end with this one, however it ends.

    Args:
        work: What they do.
        threads: CPU threads of each.
    """

    def __init__(self, work: Work, threads: int) -> None:
        self._work = work
        self._threads = threads
        self._context = get_context("spawn")
        # Nothing is ever sent through it: it closes when this process ends, or lets go of it.
        self._lifeline, self._ours = self._context.Pipe(duplex=False)
        self._workers: list[tuple[Worker, Any]] = []

    def start(self) -> Worker:
        """See `Pool`."""
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_serve,
            args=(self._work, self._threads, libraries_heard(), theirs, self._lifeline),
            daemon=True,
        )
        process.start()
        theirs.close()
        worker = Worker(f"worker process {process.pid}", ours)
        self._workers.append((worker, process))
        return worker

    def send(self, worker: Worker, order: Order) -> None:
        """See `Pool`."""
        try:
            worker.handle.send(order)
        except OSError:  # it died, as `wait` will find
            pass

    def wait(self) -> tuple[Worker, Hello | Summary | Died]:
        """See `Pool`."""
        [handle, *_] = connection.wait([worker.handle for worker, _ in self._workers])
        worker, process = next(pair for pair in self._workers if pair[0].handle is handle)
        try:
            return worker, worker.handle.recv()
        except (EOFError, OSError):
            self._workers.remove((worker, process))
            process.join()
            worker.handle.close()
            return worker, Died(_how(process.exitcode))

    def close(self) -> None:
        """See `Pool`."""
        self._ours.close()
        for worker, process in self._workers:
            worker.handle.close()
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()
        self._workers.clear()
        self._lifeline.close()


def _how(code: int | None) -> str:
    """Say how a process ended."""
    if code is not None and code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with status {code}"


def _serve(
    work: Work, threads: int, heard: bool, channel: connection.Connection, lifeline: connection.Connection
) -> None:
    """Load the model in a new process, and do orders until nobody wants anything."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too, and says so once
    end_with_parent(lifeline)
    listener = Heard()
    with library_messages(shown=heard):
        try:
            runner = work.load(listener, threads)
        except Exception as error:  # a bug too is said once, by the driver
            channel.send(Hello(failure=Failure.of(error)))
            return
        channel.send(Hello(runner.facts))
        for summary in summaries(runner, work, _orders(channel), listener):
            channel.send(summary)


def _orders(channel: connection.Connection) -> Iterator[Order]:
    while True:
        try:
            yield channel.recv()
        except (EOFError, OSError):
            return
