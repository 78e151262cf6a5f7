"""Master gates over a sentence: how far up the ranked neurons each word forgets and writes, as numbers and as a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ordtool.errors import UsageError
from ordtool.io.atomic import atomic_output
from ordtool.plotting import check_plot, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Gates", "check_gates_file", "draw_gates", "write_gates"]

_COLOURS = {"forget": "#2166ac", "input": "#d6604d"}
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Gates:
    """The master gates of an ON-LSTM over a sentence.

    Attributes:
        words: What the model reads; without punctuation, if it was trained so.
        forget: Of each layer the master forget gate f~, `(words, chunks)`; rises along the chunks.
        input: Of each layer the master input gate i~, `(words, chunks)`; falls along the chunks.
        backward: How many of the layers, the last ones, read from the right: their gates at a word have seen the words
            behind it, and their distance there is the height of the boundary behind the word.
    """

    words: list[str]
    forget: list[np.ndarray]
    input: list[np.ndarray]
    backward: int = 0

    def reads_backward(self, layer: int) -> bool:
        """Whether a layer, counted from 0, reads from the right."""
        return layer >= len(self.forget) - self.backward

    @property
    def forget_distances(self) -> np.ndarray:
        """d_f = 1 - mean(f~), the share of the cell that a word wipes out: `(layers, words)`."""
        return np.stack([1 - gate.mean(axis=1) for gate in self.forget])

    @property
    def input_distances(self) -> np.ndarray:
        """d_i = mean(i~), the share of the cell that a word writes: `(layers, words)`."""
        return np.stack([gate.mean(axis=1) for gate in self.input])

    def to_dict(self) -> dict[str, Any]:
        """Return the words, and of each layer both gates and both distances, as a JSON object."""
        parts = zip(self.forget, self.input, self.forget_distances, self.input_distances, strict=True)
        return {
            "words": self.words,
            "layers": [
                {
                    "layer": number,
                    **({"backward": self.reads_backward(number - 1)} if self.backward else {}),
                    "forget": _rounded(forget),
                    "input": _rounded(written),
                    "forget_distances": _rounded(d_forget),
                    "input_distances": _rounded(d_input),
                }
                for number, (forget, written, d_forget, d_input) in enumerate(parts, start=1)
            ],
        }


def _rounded(values: np.ndarray) -> Any:
    return np.round(values.astype(np.float64), _DIGITS).tolist()


def check_gates_file(path: str | Path) -> str:
    """Return the format of a file of gates from its suffix: `json`, or one of a picture.

    Raises:
        UsageError: If the suffix is another.
        OrdtoolError: If matplotlib is not installed.
    """
    return "json" if Path(path).suffix.lower() == ".json" else check_plot(path)


def write_gates(gates: Gates, path: str | Path, *, force: bool = False) -> None:
    """Write gates as JSON or as a picture, by the file's suffix.

    Args:
        gates: Of a sentence.
        path: `.json`, `.svg`, `.png` or `.pdf`.
        force: Replace a file that exists.

    Raises:
        UsageError: For another suffix, or a sentence without words.
        OrdtoolError: If the file exists, or matplotlib is not installed.
    """
    format = check_gates_file(path)
    if not gates.words:
        raise UsageError("the sentence has no word that the model reads, so there are no gates to show")
    with atomic_output(path, force=force) as file:
        if format == "json":
            file.write(json.dumps(gates.to_dict(), ensure_ascii=False).encode() + b"\n")
        else:
            save_figure(draw_gates(gates), file, format)


def draw_gates(gates: Gates) -> Figure:
    """Draw the gates as a matplotlib figure, for a notebook.

    A row a layer, the last one on top; to the left f~, to the right i~: words from left to right, chunks upwards by rank,
    bright where a gate is open. The line is the distance of each word, from 0 at the bottom to 1 at the top: everything
    below it is wiped out (f~ is shut) or written (i~ is open), if the gate switches at once.

    Args:
        gates: Of one word or more.
    """
    from matplotlib.figure import Figure

    layers, words = len(gates.forget), len(gates.words)
    width = max(3.2, 0.9 + 0.3 * words)
    figure = Figure(figsize=(2 * width + 0.8, 2.1 * layers + 1.2), layout="constrained")
    grid = figure.subplots(layers, 2, squeeze=False, sharex=True)
    columns = (
        ("forget", "master forget gate, d = 1 - mean", gates.forget, gates.forget_distances),
        ("input", "master input gate, d = mean", gates.input, gates.input_distances),
    )
    images = []
    for column, (name, title, tables, distances) in enumerate(columns):
        for layer in range(layers):
            axes = grid[layers - 1 - layer][column]
            images.append(_draw_layer(axes, tables[layer], distances[layer], _COLOURS[name]))
            name_of_layer = f"layer {layer + 1}" + (", from the right" if gates.reads_backward(layer) else "")
            axes.set_ylabel(f"{name_of_layer}\nchunk" if column == 0 else "")
        grid[0][column].set_title(title, fontsize=10)
        _name_words(grid[layers - 1][column], gates.words)
    figure.colorbar(images[0], ax=grid, label="open", shrink=0.6, aspect=30)
    return figure


def _draw_layer(axes: Any, table: np.ndarray, distances: np.ndarray, colour: str) -> Any:
    """Draw a gate of a layer, and its distances from the bottom (0) to the top (1)."""
    words, chunks = table.shape
    image = axes.imshow(
        table.T, origin="lower", aspect="auto", cmap="Greys_r", vmin=0, vmax=1, interpolation="nearest"
    )
    axes.plot(range(words), distances * chunks - 0.5, color=colour, marker="o", markersize=3, linewidth=1.2)
    axes.set_ylim(-0.5, chunks - 0.5)
    axes.set_yticks([0, chunks - 1], ["1", str(chunks)])
    return image


def _name_words(axes: Any, words: Sequence[str]) -> None:
    axes.set_xticks(range(len(words)), words, rotation=90, fontsize=8)
