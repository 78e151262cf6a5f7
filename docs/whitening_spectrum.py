"""Draws docs/whitening-spectrum.svg: variances along the principal directions, before and after whitening.

ordtool embed sentences.txt -m minilm -o minilm.npy
ordtool embed sentences.txt -m smollm2 --layers -1 -o smollm2.npy
python docs/whitening_spectrum.py minilm.npy smollm2.npy -o docs/whitening-spectrum.svg
"""

import argparse
import warnings
from pathlib import Path

import matplotlib
import numpy as np

from ordtool.embedding.statistics import accumulate
from ordtool.embedding.whitening import Whitening, WhiteningWarning

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "ordtool"  # the same picture, the same bytes
import matplotlib.pyplot as plt  # noqa: E402  (after the backend is chosen)

SETTINGS = {"raw": None, "γ = 0.5": 0.5, "γ = 1 (whitened)": 1.0}
COLOURS = ("#888888", "#e08214", "#2166ac")


def spectrum(rows: np.ndarray) -> np.ndarray:
    """Variances along the principal directions, largest first, as shares of the largest."""
    values = np.linalg.eigvalsh(accumulate(rows).covariance())[::-1].clip(0)
    return values / values[0]


def draw(axis, path: Path) -> None:
    """One model: its spectrum raw, softened and whitened."""
    rows = np.load(path, allow_pickle=False)
    for (label, gamma), colour in zip(SETTINGS.items(), COLOURS, strict=True):
        shown = rows if gamma is None else Whitening(gamma=gamma).fit_transform(rows)
        values = spectrum(shown)
        axis.semilogy(
            np.arange(1, len(values) + 1), values.clip(1e-12), label=label, color=colour, linewidth=1.8
        )
    axis.set_title(f"{path.stem}: {rows.shape[0]:,} sentences, {rows.shape[1]} columns", fontsize=10)
    axis.set_xlabel("principal direction")
    axis.set_ylim(1e-9, 3)
    axis.grid(alpha=0.3)


def main() -> None:
    """Draw one panel a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("vectors", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "whitening-spectrum.svg")
    options = parser.parse_args()
    warnings.simplefilter("ignore", WhiteningWarning)
    count = len(options.vectors)
    figure, axes = plt.subplots(1, count, figsize=(4.6 * count, 3.4), sharey=True, squeeze=False)
    for axis, path in zip(axes[0], options.vectors, strict=True):
        draw(axis, path)
    axes[0][0].set_ylabel("variance, share of the largest")
    axes[0][0].legend(loc="lower left", fontsize=9)
    figure.tight_layout()
    figure.savefig(options.output, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main()
