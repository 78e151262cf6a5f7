"""Rows of `ordtool extrapolate` as tables and curves, on a terminal and in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ordtool.extrapolation.comparison import Comparison

Rows = list[dict[str, Any]]
WIDEST = 110


def curves(rows: Rows) -> dict[str, list[tuple[float, float]]]:
    """Return `(length, loss)` of each method, or `(position, loss)` at its longest length."""
    if "position" in rows[0]:
        longest = max(row["length"] for row in rows)
        rows = [row for row in rows if row["length"] == longest]
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        across = row["position"] if "position" in row else row["length"]
        series.setdefault(row["method"], []).append((across, row["loss"]))
    return series


def show(rows: Rows, title: str, *, to_stderr: bool) -> None:
    """Show a table and a chart."""
    from ordtool import console
    from ordtool.extrapolation.chart import LETTERS, draw_chart

    series = curves(rows)
    letters = dict(zip(series, LETTERS, strict=False))
    by_position = "position" in rows[0]
    if by_position:
        _show_positions(rows, series, letters, title, to_stderr)
    else:
        _show_lengths(rows, letters, title, to_stderr)
    if len({x for line in series.values() for x, _ in line}) > 1:
        across = "tokens read before" if by_position else "tokens of context, on a logarithmic scale"
        chart = draw_chart(
            series,
            width=min(console.terminal_width(to_stderr), WIDEST),
            logarithmic=not by_position,
            names=(across, "loss, nats a token"),
            colour=not to_stderr and console.stdout_has_colour(),
        )
        console.print_drawing(["", *chart], to_stderr=to_stderr)


def _show_lengths(rows: Rows, letters: dict[str, str], title: str, to_stderr: bool) -> None:
    """Print a row a method: the loss at each length, then the longest length's other figures."""
    from ordtool import console

    lengths = sorted({row["length"] for row in rows})
    heads = [f"{length:,}" for length in lengths]
    table = []
    for method, letter in letters.items():
        cells = {row["length"]: row for row in rows if row["method"] == method}
        far = cells[max(cells)]
        losses = [f"{cells[length]['loss']:.3f}" if length in cells else "-" for length in lengths]
        speed, memory = far.get("tokens_per_second"), far.get("peak_memory_mb")
        table.append(
            [
                f"{letter} {method}",
                *losses,
                f"{100 * far['accuracy']:.1f}",
                "-" if speed is None else f"{speed:,.0f}",
                "-" if memory is None else f"{memory:,.0f}",
            ]
        )
    columns = ["loss at", *heads, "acc. %", "tokens/s", "MB"]
    console.print_table(title, columns, table, to_stderr=to_stderr)
    far_off = f"accuracy, tokens/s and peak memory at {lengths[-1]:,} tokens"
    console.note(far_off) if to_stderr else console.show(far_off)


def _show_positions(
    rows: Rows,
    series: dict[str, list[tuple[float, float]]],
    letters: dict[str, str],
    title: str,
    to_stderr: bool,
) -> None:
    """Print a row a part of the text: the loss of each method up to that position."""
    from ordtool import console

    positions = sorted({position for line in series.values() for position, _ in line})
    losses = {method: dict(line) for method, line in series.items()}
    table = [
        [
            f"{position:,.0f}",
            *(f"{losses[method][position]:.3f}" if position in losses[method] else "-" for method in letters),
        ]
        for position in positions
    ]
    heads = [f"{letter} {method}" for method, letter in letters.items()]
    console.print_table(title, ["loss up to", *heads], table, to_stderr=to_stderr)


HeatMap = dict[tuple[float, int], float]
"""Shares by depth and length."""


def heat_maps(rows: Rows, score: str) -> dict[str, HeatMap]:
    """Return what each method found by depth and length."""
    key = "accuracy" if score == "choice" else "exact"
    maps: dict[str, HeatMap] = {}
    for row in rows:
        maps.setdefault(row["method"], {})[row["depth"], row["length"]] = row[key]
    return maps


def show_task(rows: Rows, title: str, score: str, *, to_stderr: bool) -> None:
    """Show a table, and a heat map a method."""
    from ordtool import console
    from ordtool.extrapolation.chart import draw_heat_map

    maps = heat_maps(rows, score)
    lengths = sorted({row["length"] for row in rows})
    table = []
    for method, found in maps.items():
        cells = []
        for length in lengths:
            shares = [share for (_, other), share in found.items() if other == length]
            cells.append(f"{100 * sum(shares) / len(shares):.0f}" if shares else "-")
        table.append([method, *cells])
    heads = ["found %, at", *(f"{length:,}" for length in lengths)]
    console.print_table(title, heads, table, to_stderr=to_stderr)
    chance = f"by guessing {100 * rows[0]['chance']:.0f}%" if score == "choice" else "the whole greedy answer"
    console.note(chance) if to_stderr else console.show(chance)
    colour = not to_stderr and console.stdout_has_colour()
    width = console.terminal_width(to_stderr)
    lines: list[str] = []
    for method, found in maps.items():
        lines += ["", *draw_heat_map(found, title=method, width=width, colour=colour)]
    console.print_drawing(lines, to_stderr=to_stderr)


def draw_rows(path: Path, rows: Rows, title: str, comparison: Comparison, *, force: bool) -> None:
    """Draw the curves, or of a task the heat maps, to a file."""
    from ordtool.extrapolation.plot import draw_heat_maps, draw_plot
    from ordtool.io.atomic import atomic_output
    from ordtool.plotting import check_plot

    grid, format = comparison.grid, check_plot(path)
    with atomic_output(path, force=force) as file:
        if comparison.task is not None:
            maps = heat_maps(rows, comparison.config.score)
            draw_heat_maps(file, format, maps, train_length=grid.train_length, title=title)
            return
        draw_plot(
            file,
            format,
            curves(rows),
            train_length=grid.train_length,
            title=title,
            by_position=grid.bins is not None,
        )
