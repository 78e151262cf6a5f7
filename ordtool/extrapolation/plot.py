"""Curves of loss by length or by position, with matplotlib."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from ordtool.extrapolation.chart import Points
from ordtool.plotting import SETTINGS, save_figure

if TYPE_CHECKING:
    from ordtool.extrapolation.explanation import Explanation


def draw_plot(
    file: BinaryIO,
    format: str,
    series: Mapping[str, Points],
    *,
    train_length: int,
    title: str,
    by_position: bool = False,
) -> None:
    """Draw a curve a method.

    The same numbers give the same bytes.

    Args:
        file: Open for writing.
        format: One of `FORMATS`.
        series: `(length or position, loss)` of each method.
        train_length: Marked on the axis of lengths.
        title: Above the plot.
        by_position: The points are positions in one text, not lengths.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, rc_context

    with rc_context({**SETTINGS, "svg.fonttype": "none", "font.size": 10}):
        figure, axes = pyplot.subplots(figsize=(7.5, 4.6), layout="constrained")
        _draw_curves(axes, series)
        axes.axvline(train_length, color="0.6", linewidth=0.8, linestyle=":")
        axes.annotate("trained length", (train_length, 1), (3, -3), xycoords=("data", "axes fraction"),
                      textcoords="offset points", fontsize=8, color="0.4", va="top")  # fmt: skip
        _scale_axes(axes, series, by_position)
        axes.set_title(title, fontsize=10)
        axes.grid(axis="y", linewidth=0.3)
        axes.legend(
            fontsize=8, ncols=1 + (len(series) > 8), loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False
        )
        save_figure(figure, file, format)
        pyplot.close(figure)


def draw_heat_maps(
    file: BinaryIO,
    format: str,
    maps: Mapping[str, Mapping[tuple[float, int], float]],
    *,
    train_length: int,
    title: str,
) -> None:
    """Draw a map a method: shares found by depth and length. The same numbers give the same bytes.

    Args:
        file: Open for writing.
        format: One of `FORMATS`.
        maps: Shares, 0 to 1, by depth and length, of each method.
        train_length: A line stands between it and longer lengths.
        title: Above the plot.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, rc_context

    across = min(4, len(maps))
    down = -(-len(maps) // across)
    depths = sorted({depth for shares in maps.values() for depth, _ in shares})
    lengths = sorted({length for shares in maps.values() for _, length in shares})
    with rc_context({**SETTINGS, "svg.fonttype": "none", "font.size": 9}):
        size = (1.6 + across * max(1.8, 0.62 * len(lengths)), 0.9 + down * max(1.5, 0.32 * len(depths) + 0.6))
        figure, grid = pyplot.subplots(
            down, across, figsize=size, layout="constrained", squeeze=False, sharex=True, sharey=True
        )
        for axes, (name, shares) in zip(grid.flat, maps.items(), strict=False):
            values = [[shares.get((depth, length), math.nan) for length in lengths] for depth in depths]
            image = axes.imshow(values, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
            for row, line in enumerate(values):
                for column, value in enumerate(line):
                    if not math.isnan(value):
                        axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=8)
            within = sum(length <= train_length for length in lengths)
            if 0 < within < len(lengths):
                axes.axvline(within - 0.5, color="black", linewidth=1.2)
            axes.set_title(name, fontsize=9)
            axes.set_xticks(range(len(lengths)), [f"{length:,}" for length in lengths], fontsize=8)
            axes.set_yticks(range(len(depths)), [f"{100 * depth:.0f}%" for depth in depths], fontsize=8)
        for axes in list(grid.flat)[len(maps) :]:
            axes.axis("off")
        figure.supxlabel("context (tokens); the line is the trained length", fontsize=9)
        figure.supylabel("depth", fontsize=9)
        figure.suptitle(textwrap.fill(title, int(12 * size[0])), fontsize=10)
        figure.colorbar(image, ax=grid, label="found", shrink=0.8)
        save_figure(figure, file, format)
        pyplot.close(figure)


def _draw_curves(axes: Any, series: Mapping[str, Points]) -> None:
    from matplotlib import pyplot

    colours = pyplot.get_cmap("tab10" if len(series) <= 10 else "tab20").colors
    for number, (name, points) in enumerate(series.items()):
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            label=name,
            color=colours[number % len(colours)],
            marker=("o", "s", "^", "D", "v", "P", "X")[number % 7],
            markersize=4,
            linewidth=1.4,
            linestyle="--" if name == "none" else "-",
        )


def _scale_axes(axes: Any, series: Mapping[str, Points], by_position: bool) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    if not by_position:
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted({x for points in series.values() for x, _ in points}))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    if (limits := _limits(series)) is not None:
        axes.set_ylim(*limits)
    axes.set_xlabel("position in the text (tokens)" if by_position else "context (tokens)")
    axes.set_ylabel("loss (nats a token)")


def _limits(series: Mapping[str, Points]) -> tuple[float, float] | None:
    """Return where to cut the axis when few points are far above the rest; None: nowhere."""
    values: Sequence[float] = sorted(y for points in series.values() for _, y in points)
    usual, low = values[int(0.75 * (len(values) - 1))], values[0]
    top = usual + 2.5 * (usual - low)
    margin = 0.05 * (top - low)
    return (low - margin, top + margin) if low < top < values[-1] else None


def draw_turns(file: BinaryIO, format: str, explanation: Explanation) -> None:
    """Draw the turns that each pair makes in training, and at the length to come by each method.

    Where a pair makes less than a turn in training, what lies above that is shaded: it was never seen.

    Args:
        file: Open for writing.
        format: One of `FORMATS`.
        explanation: What is drawn.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, rc_context

    numbers = [pair.number for pair in explanation.pairs]
    trained = [pair.turns for pair in explanation.pairs]
    colours = pyplot.get_cmap("tab10" if len(explanation.effects) <= 10 else "tab20").colors
    with rc_context({**SETTINGS, "svg.fonttype": "none", "font.size": 10}):
        figure, axes = pyplot.subplots(figsize=(8.5, 4.8), layout="constrained")
        least = min(turns for turns in trained if turns > 0) / 2
        axes.set_yscale("log")
        for number, effect in enumerate(explanation.effects):
            reached = [
                pair.frequency / slowed * effect.furthest / (2 * math.pi)
                for pair, slowed in zip(explanation.pairs, effect.slowed, strict=True)
            ]
            axes.plot(
                numbers,
                [max(value, least) for value in reached],
                label=effect.method,
                color=colours[number % len(colours)],
                linestyle=("-", "--", ":", "-.")[number % 4],
                linewidth=1.6,
                marker="o",
                markersize=2.5,
            )
        name = f"in training ({explanation.train_length:,} tokens)"
        axes.plot(numbers, trained, color="0.6", linewidth=5, zorder=1, label=name)
        top = axes.get_ylim()[1]
        axes.fill_between(numbers, trained, top, where=[turns < 1 for turns in trained],
                          color="0.85", linewidth=0, label="never seen in training")  # fmt: skip
        axes.axhline(1, color="0.5", linewidth=0.8, linestyle=":")
        axes.set_ylim(least, top)
        axes.set_xlabel("pair of coordinates, the fastest first")
        axes.set_ylabel("turns (logarithmic scale)")
        axes.set_title(f"{explanation.model} at {explanation.length:,} tokens", fontsize=10)
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
        save_figure(figure, file, format)
        pyplot.close(figure)
