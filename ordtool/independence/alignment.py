r"""Alignment of representations: CKA of two sets of vectors, and of every layer with every other.

$$\mathrm{CKA} = \frac{\mathrm{HSIC}(K, L)}{\sqrt{\mathrm{HSIC}(K, K) \, \mathrm{HSIC}(L, L)}}$$

(Kornblith et al. 2019), with the biased estimator as they have it, or with the unbiased one ("debiased" CKA),
which is 0 on average for independent data, while the biased form tends to 1 as the dimension outgrows the
number of rows.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ordtool.errors import OrdtoolError
from ordtool.independence.config import CkaOptions
from ordtool.independence.hsic import HsicResult, hsic
from ordtool.plotting import save_figure, short_labels
from ordtool.progress import SILENT, Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]

_MAX_ANNOTATED = 16
_UPRIGHT = 3  # characters of a label that fit above a column
_NAMES = {"cka": "CKA", "statistic": "HSIC"}


def cka(
    x: ArrayLike,
    y: ArrayLike,
    *,
    kernel: str | tuple[str, str] = "linear",
    debiased: bool = True,
    progress: Progress = SILENT,
    **options: Unpack[CkaOptions],
) -> float | None:
    """Return the centred kernel alignment of two sets of vectors over the same items.

    Args:
        x: `(rows, dim)`.
        y: `(rows, other dim)`.
        kernel: `linear` ignores rotations and a common scale; a gaussian one sees neighbourhoods.
        debiased: Use the unbiased estimator of HSIC.
        progress: Told of the work.
        **options: `bandwidth`, `random_features`, `seed`, `dtype` and `threads` of `HsicConfig`.

    Returns:
        1 for vectors that differ by a rotation and a scale; None where one of them is constant.

    Raises:
        OrdtoolError: As `hsic`.
    """
    estimator = "unbiased" if debiased else "biased"
    return hsic(x, y, progress=progress, kernel=kernel, estimator=estimator, test="none", **options).cka


@dataclass(frozen=True)
class Matrix:
    """Results of several variables against several, as a table.

    Attributes:
        rows: Names of the left variables.
        columns: Names of the right ones.
        value: What is shown: `cka` or `statistic`.
        cells: `(rows, columns)`; NaN where nothing was compared or the value is undefined.
        p_values: The same shape, adjusted for the number of pairs; NaN where there is none.
    """

    rows: list[str]
    columns: list[str]
    value: str
    cells: NDArray[np.float64]
    p_values: NDArray[np.float64]


def to_matrix(results: Sequence[HsicResult], value: str = "cka") -> Matrix:
    """Arrange results in a matrix: square and symmetric if they are pairs within one list of variables.

    Args:
        results: As `compare` gives them.
        value: `cka` or `statistic`.
    """
    rows = list(dict.fromkeys(result.x for result in results))
    columns = list(dict.fromkeys(result.y for result in results))
    square = len(results) < len(rows) * len(columns)
    if square:
        rows = columns = list(dict.fromkeys([*rows, *columns]))
    cells = np.full((len(rows), len(columns)), np.nan)
    p_values = np.full(cells.shape, np.nan)
    for result in results:
        shown = getattr(result, value)
        positions = [(rows.index(result.x), columns.index(result.y))]
        if square:
            positions.append((rows.index(result.y), columns.index(result.x)))
        for position in positions:
            cells[position] = np.nan if shown is None else shown
            p = result.p_value if result.p_adjusted is None else result.p_adjusted
            p_values[position] = np.nan if p is None else p
    if square and value == "cka":
        np.fill_diagonal(cells, 1.0)
    return Matrix(rows, columns, value, cells, p_values)


def short_names(names: Sequence[str]) -> tuple[str, list[str]]:
    """Return what the names of files have in common, and what tells them apart.

    Returns:
        The common folder, with the common beginning of names that differ in a number alone (`bert/layer`), or nothing;
        and the names without it and without `.npy`: `0`, `1`, ... of `layer-00.npy`, `layer-01.npy`.
    """
    common, shortened = _without_folder(names)
    shortened = [name.removesuffix(".npy") for name in shortened]
    numbered = [re.fullmatch(r"(.*?)(\d+)", name) for name in shortened]
    beginnings = {found[1] if found else "" for found in numbered}
    if len(names) < 2 or len(beginnings) > 1 or not all(beginnings):
        return common, shortened
    common = f"{common}/" * bool(common) + beginnings.pop().rstrip("-_. ")
    return common, [str(int(found[2])) for found in numbered if found]


def _without_folder(names: Sequence[str]) -> tuple[str, list[str]]:
    folders = [str(Path(name).parent) for name in names]
    if len({Path(folder).is_absolute() for folder in folders}) > 1:
        return "", list(names)
    common = os.path.commonpath(folders)
    kept = [str(Path(name).relative_to(common)) for name in names]
    return ("" if common == "." else common), kept


def plot_matrix(
    matrix: Matrix, file: BinaryIO, format: str = "png", title: str | None = None, subtitle: str | None = None
) -> None:
    """Draw a heat-map, the first row at the bottom, so that two networks are read from their inputs up.

    Args:
        matrix: What to draw.
        file: Where to write.
        format: `png`, `svg` or `pdf`.
        title: Above it; None says what is compared.
        subtitle: Below the title, smaller.

    Raises:
        OrdtoolError: If nothing in the matrix is defined.
    """
    if not np.isfinite(matrix.cells).any():
        raise OrdtoolError("there is nothing to plot: no value is defined", "are the vectors constant?")
    save_figure(draw_matrix(matrix, title, subtitle), file, format)


def draw_matrix(matrix: Matrix, title: str | None = None, subtitle: str | None = None) -> Figure:
    """Draw the heat-map as a matplotlib figure, for a notebook; see `plot_matrix`."""
    from matplotlib.figure import Figure

    left, rows = short_names(matrix.rows)
    below, columns = short_names(matrix.columns)
    rows, columns = short_labels(rows), short_labels(columns)
    if matrix.rows == matrix.columns and max(map(len, columns)) > _UPRIGHT:  # the rows explain the columns
        rows = [f"{name}  {number}" for number, name in enumerate(rows, 1)]
        columns = [str(number) for number in range(1, len(columns) + 1)]
    upright = max(map(len, columns)) <= _UPRIGHT or len(columns) == 1
    width = 1.9 + 0.08 * max(map(len, rows)) + 0.45 * len(columns)
    height = 1.5 + (0 if upright else 0.08 * max(map(len, columns))) + 0.4 * len(rows)
    title = title or _what(matrix, left, below)
    figure = Figure(
        figsize=(max(4.2, width, 0.6 + 0.085 * len(title)), max(2.6, height)), layout="constrained"
    )
    axes = figure.add_subplot()
    shown = np.ma.masked_invalid(matrix.cells)
    top = 1.0 if matrix.value == "cka" else float(shown.max())
    image = axes.imshow(shown, origin="lower", cmap="magma", vmin=min(0.0, float(shown.min())), vmax=top)
    axes.set_xticks(range(len(columns)), columns, rotation=0 if upright else 90)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel(below)
    axes.set_ylabel(left)
    figure.suptitle(title, fontsize=11)
    if subtitle:
        axes.set_title(subtitle, fontsize=8, color="0.35")
    if max(matrix.cells.shape) <= _MAX_ANNOTATED:
        _annotate(axes, matrix.cells, top)
    figure.colorbar(image, ax=axes, label=_NAMES[matrix.value], shrink=0.9)
    return figure


def _what(matrix: Matrix, left: str, right: str) -> str:
    """Say what a matrix compares: `CKA of bert/layer and gpt/layer`, `HSIC of 7 sets of vectors`."""
    name = _NAMES[matrix.value]
    if matrix.rows == matrix.columns:
        return f"{name} of {left}" if left else f"{name} of {len(matrix.rows)} sets of vectors"
    if left and right:
        return f"{name} of {left} and {right}"
    both = [*matrix.rows, *matrix.columns]
    if len(both) == 2:
        return f"{name} of {' and '.join(short_labels(short_names(both)[1]))}"
    return f"{name} of {len(matrix.rows)} and {len(matrix.columns)} sets of vectors"


def _annotate(axes: Any, cells: NDArray[np.float64], top: float) -> None:
    for (row, column), cell in np.ndenumerate(cells):
        if np.isfinite(cell):
            colour = "black" if cell > 0.6 * top else "white"
            text = f"{cell:.2f}" if top <= 1 and top > 0.05 else f"{cell:.1e}"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
