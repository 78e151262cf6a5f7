"""Draws docs/masks.svg: the seven attention masks, and a source shared by three targets.

python docs/masks_drawn.py -o docs/masks.svg
"""

import argparse

import matplotlib
import torch

from ordtool.lm.masks import example, mask_matrix

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "ordtool"  # the same picture, the same bytes
import matplotlib.pyplot as plt  # noqa: E402  (after the backend is chosen)
from matplotlib.colors import ListedColormap  # noqa: E402

TITLES = {
    "bidirectional": "bidirectional",
    "causal": "causal",
    "reversed": "reversed",
    "prefix": "prefix (source, target)",
    "permutation": "permutation",
    "window": "window",
    "lambda": "lambda",
}
SHARED = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2, 3, 3])
COLOURS = ListedColormap(["#f2f2f2", "#2166ac"])


def panel(axis, mask: torch.Tensor, title: str) -> None:
    """One mask: a row a query, a column a key."""
    count = len(mask)
    axis.imshow(mask, cmap=COLOURS, vmin=0, vmax=1)
    axis.set_title(title, fontsize=9)
    axis.set_xticks(range(count), range(1, count + 1), fontsize=6)
    axis.set_yticks(range(count), range(1, count + 1), fontsize=6)
    axis.set_xticks([place + 0.5 for place in range(count - 1)], minor=True)
    axis.set_yticks([place + 0.5 for place in range(count - 1)], minor=True)
    axis.grid(which="minor", color="white", linewidth=1)
    axis.tick_params(length=0, which="both")


def main() -> None:
    """Draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("-o", "--output", default="docs/masks.svg")
    output = parser.parse_args().output
    figure, axes = plt.subplots(2, 4, figsize=(9.5, 5), layout="constrained")
    for axis, (kind, title) in zip(axes.flat, TITLES.items(), strict=False):
        panel(axis, example(kind), title)
    panel(axes.flat[7], mask_matrix("prefix", len(SHARED), segments=SHARED), "a source, three targets")
    axes[0, 0].set_ylabel("query (who looks)", fontsize=8)
    axes[1, 0].set_ylabel("query", fontsize=8)
    figure.supxlabel("key (who is seen)", fontsize=8)
    figure.savefig(output, metadata={"Date": None})


if __name__ == "__main__":
    main()
