"""Plots in files: which formats there are, and the same bytes for the same numbers."""

from __future__ import annotations

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
