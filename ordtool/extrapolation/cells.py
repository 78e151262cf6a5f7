"""The cells of a comparison as tasks, which any executor does: here, in several processes, or by Ray."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ordtool.extrapolation.comparison import Comparison, ExtrapolateConfig
from ordtool.extrapolation.evaluation import Measurement
from ordtool.extrapolation.task_evaluation import TaskMeasurement
from ordtool.extrapolation.texts import Text
from ordtool.progress import SILENT, Progress
from ordtool.sharding.run import Scale
from ordtool.sharding.tasks import run_tasks

__all__ = ["measure_cells"]

Rows = list[Measurement] | list[TaskMeasurement]


def measure_cells(
    comparison: Comparison, texts: Sequence[Text], scale: Scale, progress: Progress = SILENT, start: int = 0
) -> Generator[Rows]:
    """Measure the cells of a comparison, each a task of its own for workers that have the model.

    Args:
        comparison: What is compared.
        texts: Which it was made of.
        scale: Who measures; alone it is `comparison.measure(start)`.
        progress: Told of the tokens of cells that are done.
        start: Cells of the grid to pass over.

    Yields:
        The measurements of each cell, in the order of `grid.cells()`, as `measure` gives them but for timings.
    """
    if scale.alone:
        yield from comparison.measure(start)
        return
    cells = comparison.grid.cells()
    count = comparison.count if comparison.windows is None else len(comparison.windows)
    tokens = [length * count for _, length in cells]
    progress.start("reading", sum(tokens), "tokens")
    progress.advance(sum(tokens[:start]))
    task = CellTask(comparison.config, tuple(texts))
    numbers = list(range(start, len(cells)))
    for number, found in zip(numbers, run_tasks(task, numbers, scale, progress), strict=True):
        kind = Measurement if comparison.task is None else TaskMeasurement
        rows: list[Any] = [kind(**row) for row in json.loads(found)]
        yield rows
        progress.advance(tokens[number])
    progress.close()


@dataclass
class CellTask:
    """Measures a cell, in a worker that makes the comparison once.

    Attributes:
        config: Of the comparison.
        texts: What it is made of.
    """

    config: ExtrapolateConfig
    texts: tuple[Text, ...]
    _made: Any = field(default=None, init=False, repr=False, compare=False)

    def __call__(self, number: int, threads: int | None) -> bytes:
        """Return a cell's measurements as JSON."""
        if self._made is None:
            self._made = Comparison(replace(self.config, threads=threads), self.texts)
        return json.dumps([asdict(row) for row in self._made.measure_cell(number)]).encode()
