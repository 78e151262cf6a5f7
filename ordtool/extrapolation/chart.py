"""A small chart of lines in characters, for a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
Points = Sequence[tuple[float, float]]


def draw_chart(
    series: Mapping[str, Points], *, width: int = 64, height: int = 12, logarithmic: bool = True
) -> list[str]:
    """Draw a line a series; each is a letter, in the order given.

    Where lines meet, `*` stands. Values above the 90th percentile by far are cut off at the
    top, where `^` marks them, so that one failing method doesn't flatten the others.

    Args:
        series: Points `(x, y)` by name, `x` growing.
        width: Columns for the curves.
        height: Rows.
        logarithmic: Space `x` by its logarithm.

    Returns:
        The rows, with the axis of `y` on the left and of `x` below.
    """
    points = [point for line in series.values() for point in line if math.isfinite(point[1])]
    if not points or width < 8 or height < 3:
        return []
    low, high = min(y for _, y in points), _ceiling(sorted(y for _, y in points))
    if high <= low:
        low, high = low - 0.5, low + 0.5
    across = [math.log(x) if logarithmic else x for x, _ in points]
    left, right = min(across), max(across)
    grid = [[" "] * width for _ in range(height)]

    def column(x: float) -> int:
        at = math.log(x) if logarithmic else x
        return round((at - left) / ((right - left) or 1.0) * (width - 1))

    for letter, line in zip(LETTERS, series.values(), strict=False):
        _draw(grid, [(column(x), (y - low) / (high - low)) for x, y in line if math.isfinite(y)], letter)
    rows = []
    for number, row in enumerate(grid):
        value = high - (high - low) * number / (height - 1)
        label = f"{value:7.3f}" if number in (0, height - 1) or number % 4 == 0 else " " * 7
        rows.append(f"{label} |{''.join(row)}".rstrip())
    return [*rows, " " * 8 + "+" + "-" * width, _axis(sorted({x for x, _ in points}), column, width)]


def _ceiling(values: Sequence[float]) -> float:
    """Return the top of the chart: the largest value, unless few are far above the rest."""
    usual = values[int(0.75 * (len(values) - 1))]
    top = usual + 1.5 * max(usual - values[0], 1e-9)
    return values[-1] if values[-1] <= top else min(top, values[-1])


def _draw(grid: list[list[str]], points: Sequence[tuple[int, float]], letter: str) -> None:
    height = len(grid)
    inner: list[tuple[int, float, bool]] = [(x, y, True) for x, y in points]
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        inner += [(x, y0 + (y1 - y0) * (x - x0) / (x1 - x0), False) for x in range(x0 + 1, x1)]
    for x, y, measured in inner:
        row = min(height - 1, max(0, round((1 - y) * (height - 1))))
        mark = "^" if y > 1.02 and measured else letter if measured else "."
        if not measured and y > 1.02:
            continue
        there = grid[row][x]
        if measured:
            grid[row][x] = mark if there in " ." else there if there == mark else "*"
        elif there == " ":
            grid[row][x] = mark


def _axis(ticks: Sequence[float], column: Callable[[float], int], width: int) -> str:
    line = [" "] * width
    end = -1
    for tick in ticks:
        text = f"{tick:,.0f}"
        start = min(max(0, column(tick) - len(text) // 2), width - len(text))
        if start > end:
            line[start : start + len(text)] = text
            end = start + len(text)
    return " " * 9 + "".join(line).rstrip()
