"""Pieces of a large array on all cores, results in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")


def thread_count(threads: int | None = None) -> int:
    """Give `threads`, or the number of cores that this process may use."""
    if threads is not None:
        return threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(jobs: Iterable[Callable[[], T]], threads: int | None = None) -> Iterator[T]:
    """Run jobs on several cores, one core each, and yield their results in the order of the jobs.

    A few jobs are taken ahead of the reader, not all, so they may come from a stream. Matrix products inside them
    run on one thread: the jobs fill the cores better than a divided product, whose threads wait for each other, and
    their results don't depend on the number of threads.
    """
    workers = thread_count(threads)
    with _blas_controller().limit(limits=1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[T]] = deque()
        try:
            for job in jobs:
                pending.append(pool.submit(job))
                if len(pending) > workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


@cache
def _blas_controller() -> Any:
    """Find the BLAS libraries once: it takes a millisecond."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
