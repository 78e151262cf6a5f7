"""The spectrum of vectors before and after whitening, with matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ordtool.embedding.statistics import Float64Array
from ordtool.embedding.whitening import Whitening
from ordtool.embedding.whitening_solver import RANK_TOLERANCE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def spectra(whitening: Whitening) -> tuple[Float64Array, Float64Array]:
    """Return variances along the principal directions, largest first, as shares of the largest.

    Args:
        whitening: Fitted.

    Returns:
        Of the vectors that it was fitted on, `(dim,)`, and of what it makes of them, `(width,)`, before rows are scaled.
    """
    covariance, kernel = whitening.moments_.covariance(), whitening.kernel_
    before, after = (
        np.linalg.eigvalsh(matrix)[::-1].clip(0) for matrix in (covariance, kernel.T @ covariance @ kernel)
    )
    return before / before[0], after / after[0]


def draw_spectrum(whitening: Whitening) -> Figure:
    """Draw both spectra as a matplotlib figure, for a notebook.

    Args:
        whitening: Fitted.
    """
    from matplotlib.figure import Figure

    before, after = spectra(whitening)
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for values, label, colour, line in (
        (before, "as fitted on", "#888888", "-"),
        (after, "whitened", "#2166ac", "--" if len(after) == len(before) else "-"),
    ):
        drawn = values[values > RANK_TOLERANCE]  # beyond the rank there is rounding alone
        axes.semilogy(np.arange(1, len(drawn) + 1), drawn, line, label=label, color=colour, linewidth=1.8)
    if len(after) < len(before):
        axes.axvline(len(after), color="0.6", linewidth=0.8, linestyle=":")
    axes.set_xlabel("principal direction")
    axes.set_ylabel("variance, share of the largest")
    axes.set_xlim(1 - 0.02 * len(before), 1.02 * len(before))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    figure.suptitle(f"Spectrum of {whitening.fitted_on_}", fontsize=11)
    kept = f"{len(before)} columns to {len(after)}"
    axes.set_title(f"{kept}, rank {whitening.rank_}, {whitening.method}", fontsize=8, color="0.35")
    return figure
