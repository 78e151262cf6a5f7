"""F1 by the length of sentences, a curve a system, with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ordtool.errors import OrdtoolError
from ordtool.parsing.trees.scoring import TRIVIAL, Row
from ordtool.plotting import short_labels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = ("#2166ac", "#888888", "#e08214", "#5aae61", "#9970ab")


def draw_f1_by_length(rows: Sequence[Row]) -> Figure:
    """Draw sentence F1 by words of the sentence as a matplotlib figure, for a notebook.

    Args:
        rows: Of one protocol, the prediction first; trivial trees are drawn thin.

    Raises:
        OrdtoolError: If no sentence was counted.
    """
    from matplotlib.figure import Figure

    if not rows or not rows[0].length_f1:
        raise OrdtoolError("there is nothing to plot: no sentence was counted")
    lengths = list(rows[0].length_f1)
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for number, row in enumerate(rows):
        trivial = number > 0 and row.system in TRIVIAL
        axes.plot(
            lengths,
            [row.length_f1[length] for length in lengths],
            marker="os^Dv"[number % 5],
            markersize=3 if trivial else 5,
            linewidth=1.0 if trivial else 2.0,
            linestyle="--" if trivial else "-",
            color=_COLOURS[number % len(_COLOURS)],
            label=short_labels([row.system])[0],
        )
    axes.set_ylim(0, 100)
    axes.set_xlabel("words of the sentence")
    axes.set_ylabel("sentence F1 (%)")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    figure.suptitle("F1 by length", fontsize=11)
    axes.set_title(f"{rows[0].sentences:,} sentences; {rows[0].protocol}", fontsize=8, color="0.35")
    return figure
