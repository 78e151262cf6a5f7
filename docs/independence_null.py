"""Draws independence-null.png: the statistic under permutations, the curve of --test gamma, and the observed value."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import pearson3

from ordtool.independence.gamma import UCentredMoments, null_moments
from ordtool.independence.kernel_sums import kernel_sums
from ordtool.independence.kernels import fit_kernel
from ordtool.independence.permutation import null_sample


def draw() -> Figure:
    """Two variables on a noisy circle: uncorrelated, and dependent."""
    rng = np.random.default_rng(3)
    angle = rng.uniform(0, 2 * np.pi, (150, 1))
    x, y = (f(angle) + 0.25 * rng.standard_normal((150, 1)) for f in (np.cos, np.sin))
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots(1, 2, width_ratios=[1, 2])
    axes[0].scatter(x, y, s=8, color="tab:blue")
    axes[0].set(
        xlabel="x", ylabel="y", aspect="equal", title=f"correlation {np.corrcoef(x[:, 0], y[:, 0])[0, 1]:.2f}"
    )
    kernels = [fit_kernel(x), fit_kernel(y)]
    sums = kernel_sums(kernels, [(0, 1)])
    sample = null_sample(sums, [(0, 1)], permutations=10_000)
    moments = null_moments(
        sums,
        0,
        1,
        (UCentredMoments.from_kernel(kernels[0]), UCentredMoments.from_kernel(kernels[1])),
        "unbiased",
    )
    axes[1].hist(sample.values[0, 1:], bins=80, density=True, color="0.8", label="10,000 permutations")
    grid = np.linspace(sample.values.min(), sample.values.max() * 1.1, 400)
    curve = pearson3(moments.skewness, loc=moments.mean, scale=moments.variance**0.5).pdf(grid)
    axes[1].plot(grid, curve, color="tab:orange", label="--test gamma")
    observed = sample.values[0, 0]
    found = f"observed: p = {sample.p_values()[0]:.4f}, gamma {moments.p_value(observed):.4f}"
    axes[1].axvline(observed, color="tab:red", label=found)
    axes[1].set(xlabel="unbiased HSIC", yticks=[])
    axes[1].legend()
    return figure


if __name__ == "__main__":
    draw().savefig(Path(__file__).with_name("independence-null.png"), dpi=130, metadata={"Software": None})
