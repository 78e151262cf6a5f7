"""Tasks: an item in, bytes out. They know no model and no text, and every executor does them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from ordtool.errors import OnError
from ordtool.io.inputs import Input
from ordtool.progress import Progress
from ordtool.sharding.plan import Cut, Reader, Shard
from ordtool.sharding.run import Scale, open_executor
from ordtool.sharding.work import Computed, OnBad, Runner

__all__ = ["run_tasks"]

Task = Callable[[Any, int | None], bytes]
"""(item, CPU threads) -> the result; a function of a module, so that workers find it."""


def run_tasks(task: Task, items: Sequence[Any], scale: Scale, progress: Progress) -> Iterator[bytes]:
    """Do a task for every item, here, in several processes or by Ray.

    Args:
        task: What is done.
        items: What it is done for; each travels to the worker that has it.
        scale: Who does the work.
        progress: Told of workers that die.

    Yields:
        The results, in the order of the items.

    Raises:
        OrdtoolError: As the task does, or if one failed three times.
    """
    shards = (Shard(number, number, records=[item], count=1) for number, item in enumerate(items))
    with (
        open_executor(scale, _Tasks(task), progress) as executor,
        closing(executor.answers(shards, parts=None, settled=None, settles=False)) as answers,
    ):
        for answer in answers:
            data = b"".join(answer.pieces)
            if answer.summary.error is not None:
                raise answer.summary.error.error()
            yield data


@dataclass(frozen=True, slots=True)
class _Tasks:
    """A task, as it travels to a worker."""

    task: Task

    @property
    def cut(self) -> Cut:
        """See `Work`."""
        return Cut(1)

    @property
    def skips(self) -> bool:
        """See `Work`."""
        return False

    def load(self, progress: Progress, threads: int | None) -> Runner:
        """See `Work`; there is nothing to load."""
        return _Runner(self.task, threads)


class _Runner:
    """Does a task."""

    def __init__(self, task: Task, threads: int | None) -> None:
        self.facts: dict[str, Any] = {}
        self.reader: Reader = _NoReader()
        self._task, self._threads = task, threads

    def prepare(self, records: list[Any], indices: list[int], on_error: OnBad) -> Any:
        """See `Runner`."""
        return records

    def compute(self, prepared: Any, settled: Any) -> Iterator[Computed]:
        """See `Runner`."""
        for item in prepared:
            yield Computed(self._task(item, self._threads), 1)


class _NoReader:
    """Items aren't read from anywhere."""

    def kind_of(self, stream: Input) -> str | None:
        """See `Reader`."""
        return None

    def read(self, stream: Input, kind: str | None, on_error: OnError | None) -> Iterator[Any]:
        """See `Reader`."""
        return iter(())

    def weigh(self, record: Any) -> int:
        """See `Reader`."""
        return 0
