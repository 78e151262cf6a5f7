"""Plots in files: which formats there are, and the same bytes for the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ordtool.errors import UsageError
from ordtool.runtime import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")
# No date, and ids that don't depend on memory addresses.
_METADATA: dict[str, dict[str, Any]] = {
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
    "png": {"Software": None},
}
SETTINGS = {"svg.hashsalt": "ordtool"}


def check_plot(path: str | Path) -> str:
    """Check that a plot can be drawn, before anything is computed.

    Returns:
        Its format, from the file's suffix.

    Raises:
        UsageError: If the suffix is none of `FORMATS`.
        OrdtoolError: If matplotlib is not installed.
    """
    suffix = Path(path).suffix.lower().removeprefix(".")
    if suffix not in FORMATS:
        raise UsageError(
            f"{path}: a plot is one of .{', .'.join(FORMATS)}",
            f"name it {Path(path).stem or 'plot'}.png, for example",
        )
    require("matplotlib", "plot")
    return suffix


def short_labels(names: Sequence[str], most: int = 24) -> list[str]:
    """Shorten names for an axis: the middle of a long one is left out, as long as all can be told apart.

    Args:
        names: In any order.
        most: Characters of a label.
    """
    for length in range(most, max(map(len, names), default=0)):
        head = (length - 1) // 2
        labels = [
            name if len(name) <= length else f"{name[:head]}\u2026{name[head + 1 - length :]}"
            for name in names
        ]
        if len(set(labels)) == len(set(names)):
            return labels
    return list(names)


def save_figure(figure: Figure, file: BinaryIO, format: str) -> None:
    """Write a figure; the same figure gives the same bytes.

    Args:
        figure: What is drawn.
        file: Open for writing.
        format: One of `FORMATS`.
    """
    from matplotlib import rc_context

    with rc_context(SETTINGS):
        figure.savefig(file, format=format, metadata=_METADATA[format], dpi=150)
