"""Draws ladder-memory.png: peak extra memory of a training step by the length of the texts, read from RESULTS-ladder.md."""

import json
import re
from pathlib import Path

from matplotlib.figure import Figure

ROOT = Path(__file__).parent.parent
METHODS = ("full", "lora", "bitfit", "ladder, no cache", "ladder", "head")
COLOURS = ("tab:red", "tab:orange", "tab:olive", "tab:cyan", "tab:blue", "tab:grey")


def rows():
    """Yield the measurements of `benchmarks/ladder.py memory`."""
    text = (ROOT / "benchmarks" / "RESULTS-ladder.md").read_text(encoding="utf-8")
    for line in re.findall(r"^\{.*\}$", text, flags=re.M):
        record = json.loads(line)
        if "length" in record and record["batch"] == 8:
            yield record


def draw() -> Figure:
    """Bars a method, a group a length."""
    found = list(rows())
    lengths = sorted({row["length"] for row in found})
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.subplots()
    for place, (method, colour) in enumerate(zip(METHODS, COLOURS, strict=True)):
        values = [
            next(
                row["peak_extra_memory_mb"]
                for row in found
                if (row["length"], row["method"]) == (length, method)
            )
            for length in lengths
        ]
        bars = axes.bar(
            [i + 0.14 * place for i in range(len(lengths))], values, 0.13, label=method, color=colour
        )
        axes.bar_label(bars, fmt="%.0f", fontsize=7)
    axes.set(yscale="log", ylabel="MB above the loaded model", title="One training step, minilm, 8 texts")
    axes.set_xticks([i + 0.35 for i in range(len(lengths))], [f"{length} tokens" for length in lengths])
    axes.legend(fontsize=7, ncols=2)
    return figure


if __name__ == "__main__":
    draw().savefig(ROOT / "docs" / "ladder-memory.png", dpi=130)
