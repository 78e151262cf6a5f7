"""Cores: how many there are, an ordered map over them, and processes that end with the one that began them."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

from ordtool.errors import UsageError

Item = TypeVar("Item")
Result = TypeVar("Result")


def thread_count(threads: int | None = None) -> int:
    """Return `threads`, or the number of cores this process may use.

    Raises:
        UsageError: For less than one thread.
    """
    if threads is not None:
        if threads < 1:
            raise UsageError(f"{threads} threads are not possible", "give a number of 1 or more")
        return threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered_map(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int | None = None
) -> Iterator[Result]:
    """Do `work` for every item, each on one core, and yield the results in the order of the items.

    numpy lets other threads run while it computes. Its matrix product is kept to one thread inside each,
    because the items fill the cores better than it does. Since the order of the results is that of the items,
    sums over them don't depend on the number of threads. A few items are taken ahead of the reader, not all,
    so they may come from a stream.

    Args:
        work: What to do.
        items: What to do it for.
        threads: Threads to use; None is one a core.

    Yields:
        `work(item)` for each item.

    Raises:
        UsageError: For less than one thread.
    """
    workers = thread_count(threads)
    if isinstance(items, Sized):
        workers = min(workers, len(items))
    if workers <= 1:
        # A lone item may have all cores, unless one was asked for.
        with _blas_threads(1 if threads == 1 else None):
            yield from map(work, items)
        return
    with _blas_threads(1), ThreadPoolExecutor(workers) as pool:
        pending: deque[Future[Result]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) > 2 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def one_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Yield items, and get the next one ready in a thread while the reader works on this one."""
    source, end = iter(items), object()
    with ThreadPoolExecutor(1) as pool:
        coming: Future[Any] = pool.submit(next, source, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, source, end)
            yield item


def end_with_parent(*others: Any) -> None:
    """Let a process that `multiprocessing` began end as soon as its parent does, however that ends.

    Killed parents can't tell their children, and those that wait on a queue of which they hold both ends wait for ever.

    Args:
        *others: Whatever else `multiprocessing.connection.wait` takes, whose end is the parent's end too.
    """
    from multiprocessing import connection, parent_process

    parent = parent_process()
    if parent is None:
        return

    def wait(sentinel: int = parent.sentinel) -> None:
        connection.wait([sentinel, *others])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def _blas_threads(count: int | None) -> Iterator[None]:
    if count is None:
        yield
        return
    with _blas_controller().limit(limits=count, user_api="blas"):
        yield


@cache
def _blas_controller() -> Any:
    """Find the BLAS libraries once: it takes a millisecond."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
