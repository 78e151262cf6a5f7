"""Work over the blocks of a matrix of pairs, on all cores, with the same result on any number of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

from ordtool.errors import UsageError

Job = TypeVar("Job")
Result = TypeVar("Result")


def thread_count(threads: int | None = None) -> int:
    """Give `threads`, or the number of cores this process may use.

    Raises:
        UsageError: For less than one thread.
    """
    if threads is not None:
        if threads < 1:
            raise UsageError(f"--threads {threads} is not possible", "give a number of 1 or more")
        return threads
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_threads(
    work: Callable[[Job], Result], jobs: Sequence[Job], threads: int | None = None
) -> Iterator[Result]:
    """Do `work` for every job, each on one core, and yield the results in the order of the jobs.

    numpy lets other threads run while it computes. Its matrix product is kept to one thread
    inside each, because the jobs fill the cores better than it does. Since the order of the results is
    that of the jobs, sums over them don't depend on the number of threads.
    """
    workers = min(thread_count(threads), len(jobs))
    if workers <= 1:
        with _blas_threads(1 if threads == 1 else None):
            yield from map(work, jobs)
        return
    with _blas_threads(1):
        pool = ThreadPoolExecutor(workers)
        try:
            yield from pool.map(work, jobs)
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _blas_threads(count: int | None) -> Iterator[None]:
    if count is None:
        yield
        return
    with _controller().limit(limits=count, user_api="blas"):
        yield


@cache
def _controller() -> Any:
    """Find the BLAS libraries once: it takes a millisecond."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
