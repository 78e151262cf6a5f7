"""A small chart of lines in characters, for a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
Points = Sequence[tuple[float, float]]


# Six colours that are read on a dark and on a light ground, then the same in bold.
_COLOURS = tuple(f"{weight}{colour}" for weight in ("", "1;") for colour in (31, 32, 33, 34, 35, 36))
_MOST_JOINED = 6
_LEFT = 9


def draw_chart(
    series: Mapping[str, Points],
    *,
    width: int = 80,
    height: int = 12,
    logarithmic: bool = True,
    names: tuple[str, str] = ("", ""),
    colour: bool = False,
) -> list[str]:
    """Draw a line a series; each is a letter, in the order given.

    Where lines meet, `*` stands; the letters of lines that end in a row stand at its right. Values above the 90th
    percentile by far are cut off at the top, where `^` marks them, so that one failing method doesn't flatten the
    others. Of more than six series the points are drawn alone.

    Args:
        series: Points `(x, y)` by name, `x` growing.
        width: Columns, of all.
        height: Rows of the curves.
        logarithmic: Space `x` by its logarithm.
        names: Of the two axes.
        colour: Give each series a colour.

    Returns:
        The rows, with the axis of `y` on the left and of `x` below, and then the legend.
    """
    points = [point for line in series.values() for point in line if math.isfinite(point[1])]
    if not points or height < 3:
        return []
    low, high = min(y for _, y in points), _ceiling(sorted(y for _, y in points))
    if high <= low:
        low, high = low - 0.5, low + 0.5
    lines = {
        letter: [(x, (y - low) / (high - low)) for x, y in line if math.isfinite(y)]
        for letter, line in zip(LETTERS, series.values(), strict=False)
    }
    ends = _ends(lines, height)
    inner = max(16, width - _LEFT - 1 - max(map(len, ends)))
    across = [math.log(x) if logarithmic else x for x, _ in points]
    left, right = min(across), max(across)

    def column(x: float) -> int:
        at = math.log(x) if logarithmic else x
        return round((at - left) / ((right - left) or 1.0) * (inner - 1))

    grid = [[" "] * inner for _ in range(height)]
    for letter, line in lines.items():
        _draw(grid, [(column(x), y) for x, y in line], letter, joined=len(series) <= _MOST_JOINED)
    paint = _painter(colour)
    rows = [names[1]] if names[1] else []
    for number, row in enumerate(grid):
        value = high - (high - low) * number / (height - 1)
        label = f"{value:7.3f}" if number in (0, height - 1) or number % 4 == 0 else " " * 7
        rows.append(f"{label} |{''.join(map(paint, row))} {''.join(map(paint, ends[number]))}".rstrip())
    rows += [" " * 8 + "+" + "-" * inner, _axis(sorted({x for x, _ in points}), column, inner)]
    if names[0]:
        rows.append(" " * _LEFT + names[0].center(inner).rstrip())
    return rows + _legend(series, "".join(map("".join, grid)), width, paint)


_SHADES = " .:-=+*#%@"  # of a terminal without colours, from none to all
_GREENS = (52, 88, 130, 136, 142, 106, 70, 34)  # of 256 colours, from red to green


def draw_heat_map(
    shares: Mapping[tuple[float, int], float], *, title: str, width: int = 80, colour: bool = False
) -> list[str]:
    """Draw shares by depth (down) and length (across), each as a number of percent on its shade.

    Args:
        shares: 0 to 1, by depth and length.
        title: Above it.
        width: Columns, of all; lengths that don't fit stand below, in a map of their own.
        colour: Shade by colours of the ground instead of characters.

    Returns:
        The rows, the least depth first.
    """
    depths = sorted({depth for depth, _ in shares})
    lengths = sorted({length for _, length in shares})
    cell = max(7, *(len(f"{length:,}") + 2 for length in lengths))
    left = max(len("depth "), *(len(f"{100 * depth:.0f}% ") for depth in depths))
    fit = max(1, (width - left) // cell)
    rows = [title]
    for start in range(0, len(lengths), fit):
        part = lengths[start : start + fit]
        rows.append("depth".ljust(left) + "".join(f"{length:,}".rjust(cell) for length in part))
        for depth in depths:
            cells = [_heat(shares.get((depth, length)), cell, colour) for length in part]
            rows.append(f"{100 * depth:.0f}%".rjust(left - 1) + " " + "".join(cells))
    return [row.rstrip() for row in rows]


def _heat(share: float | None, width: int, colour: bool) -> str:
    if share is None:
        return "-".rjust(width)
    number = f"{100 * share:.0f}"
    if colour:
        code = _GREENS[min(len(_GREENS) - 1, int(share * len(_GREENS)))]
        return f"\x1b[48;5;{code};97m{number.rjust(width)}\x1b[0m"
    shade = _SHADES[min(len(_SHADES) - 1, int(share * len(_SHADES)))]
    return " " + shade * (width - 5) + number.rjust(4)


def _ends(lines: Mapping[str, Points], height: int) -> list[str]:
    """Give the letters of the lines that end in each row."""
    ends = [""] * height
    for letter, line in lines.items():
        if line:
            ends[_row(line[-1][1], height)] += letter
    return ends


def _row(share: float, height: int) -> int:
    return min(height - 1, max(0, round((1 - share) * (height - 1))))


def _painter(colour: bool) -> Callable[[str], str]:
    """Return what gives a letter the colour of its series."""
    if not colour:
        return str
    codes = {letter: _COLOURS[number % len(_COLOURS)] for number, letter in enumerate(LETTERS)}
    return lambda mark: f"\x1b[{codes[mark]}m{mark}\x1b[0m" if mark in codes else mark


def _legend(series: Mapping[str, Points], marks: str, width: int, paint: Callable[[str], str]) -> list[str]:
    """Say which letter is which series, as many a line as fit, none split."""
    entries = [(letter, name) for letter, name in zip(LETTERS, series, strict=False)]
    entries += [("*", "several")] * ("*" in marks) + [("^", "off the top")] * ("^" in marks)
    lines, used = [" " * _LEFT], _LEFT
    for letter, name in entries:
        size = len(name) + 4
        if used > _LEFT and used + size - 2 > width:
            lines.append(" " * _LEFT)
            used = _LEFT
        lines[-1] += f"{paint(letter)} {name}  "
        used += size
    return [line.rstrip() for line in lines]


def _ceiling(values: Sequence[float]) -> float:
    """Return the top of the chart: the largest value, unless few are far above the rest."""
    usual = values[int(0.75 * (len(values) - 1))]
    top = usual + 1.5 * max(usual - values[0], 1e-9)
    return values[-1] if values[-1] <= top else min(top, values[-1])


def _draw(grid: list[list[str]], points: Sequence[tuple[int, float]], letter: str, *, joined: bool) -> None:
    inner: list[tuple[int, float, bool]] = [(x, y, True) for x, y in points]
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False) if joined else ():
        inner += [(x, y0 + (y1 - y0) * (x - x0) / (x1 - x0), False) for x in range(x0 + 1, x1)]
    for x, y, measured in inner:
        row = _row(y, len(grid))
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
