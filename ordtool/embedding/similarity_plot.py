"""Correlation by the number of columns that a whitening keeps, with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

from ordtool.embedding.similarity import SimilarityRow
from ordtool.plotting import SETTINGS, save_figure

Curve = list[tuple[int, float]]


def curves(rows: Sequence[SimilarityRow]) -> dict[str, Curve]:
    """Return `(columns, Spearman)` of each kind of vectors and each way to whiten them; raw vectors as one of 0 columns.

    Of a task with several parts, all of its pairs together.
    """
    whole = [row for row in rows if row.part in (None, "all")]
    whole += [
        row for row in rows if row.part not in (None, "all", "mean", "weighted mean") and _alone(row, rows)
    ]
    found: dict[str, Curve] = {}
    for row in whole:
        if row.spearman is None or (row.dims is None and row.transform != "raw"):
            continue
        how = (
            row.transform if row.dims is None else row.transform.removesuffix(f"dims={row.dims}").rstrip(",")
        )
        several = {(one.vectors, one.task) for one in whole}
        what = " ".join(filter(None, [row.vectors if len({v for v, _ in several}) > 1 else "", row.task]))
        name = f"{what}: {how or 'whitened'}" if what else how or "whitened"
        found.setdefault(name, []).append((row.dims or 0, row.spearman))
    return found


def _alone(row: SimilarityRow, rows: Sequence[SimilarityRow]) -> bool:
    """Whether a task has this part only."""
    return not any(other.task == row.task and other.part == "all" for other in rows)


def draw_dims(rows: Sequence[SimilarityRow], file: BinaryIO, format: str) -> None:
    """Draw a curve for each way to whiten, and raw vectors as a dashed line; the same rows give the same bytes.

    Args:
        rows: Some of them with `dims`.
        file: Open for writing.
        format: One of `ordtool.plotting.FORMATS`.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, rc_context
    from matplotlib.ticker import FuncFormatter, NullLocator

    with rc_context({**SETTINGS, "svg.fonttype": "none", "font.size": 10}):
        figure, axes = pyplot.subplots(figsize=(7.5, 4.2), layout="constrained")
        for number, (name, points) in enumerate(curves(rows).items()):
            colour = f"C{number % 10}"
            if points[0][0] == 0:
                axes.axhline(points[0][1], label=name, color=colour, linewidth=1.2, linestyle="--")
                continue
            points.sort()
            axes.plot(*zip(*points, strict=True), label=name, color=colour, marker="o", markersize=4)
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted({row.dims for row in rows if row.dims is not None}))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
        axes.set_xlabel("columns kept")
        axes.set_ylabel("Spearman, %")
        axes.set_title(f"{rows[0].vectors}, {max(row.pairs for row in rows):,} pairs", fontsize=10)
        axes.grid(axis="y", linewidth=0.3)
        axes.legend(fontsize=8, frameon=False)
        save_figure(figure, file, format)
        pyplot.close(figure)
