"""Distances on a CUDA card: a few steps of all layers, recorded once in a graph and played along sentences of any length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["DistanceGraphs", "State", "Window"]

# Steps of a recording: more would be wasted on the ends of sentences, fewer would wait for launches.
_STEPS = 8
_FEWEST_COLUMNS = 8

State = list[tuple[Tensor, Tensor]]
Window = Callable[[Tensor, State], tuple[list[Tensor], State]]
"""Ids `(steps, batch)` and the states before them to the distances of each layer and the states after them."""


class _Recorded(NamedTuple):
    """A graph, where it reads, what it carries, and where it writes."""

    graph: Any
    ids: Tensor
    state: State
    distances: Tensor


class DistanceGraphs:
    """Recordings of a window, one a number of sentences (a power of two) and of layers.

    Args:
        padding: Id that fills columns and steps which hold no word.
    """

    def __init__(self, padding: int) -> None:
        self.padding = padding
        self.recorded: dict[tuple[int, int], _Recorded] = {}

    def run(self, ids: Tensor, state: Callable[[int], State], window: Window) -> Tensor:
        """Measure distances.

        Args:
            ids: `(words, batch)`, on the card.
            state: States of zeros of all layers for a number of sentences.
            window: What is recorded; it always does the same for the same number of layers.

        Returns:
            `(layers, words, batch)`.
        """
        words, batch = ids.shape
        columns = max(_FEWEST_COLUMNS, 1 << (batch - 1).bit_length())
        steps = -(-words // _STEPS) * _STEPS
        padded = ids.new_full((steps, columns), self.padding)
        padded[:words, :batch] = ids
        zeros = state(columns)
        key = (columns, len(zeros))
        if key not in self.recorded:
            self.recorded[key] = self._record(padded[:_STEPS].clone(), zeros, window)
        found = self.recorded[key]
        for layer in found.state:
            for tensor in layer:
                tensor.zero_()
        out = torch.empty(len(zeros), steps, columns, device=ids.device)
        for start in range(0, steps, _STEPS):
            found.ids.copy_(padded[start : start + _STEPS])
            found.graph.replay()
            out[:, start : start + _STEPS] = found.distances
        return out[:, :words, :batch]

    def _record(self, ids: Tensor, state: State, window: Window) -> _Recorded:
        device = ids.device
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):  # once for what is made at first use
            window(ids, state)
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            measured, after = window(ids, state)
            distances = torch.stack(measured)
            for kept, new in zip(state, after, strict=True):
                kept[0].copy_(new[0])
                kept[1].copy_(new[1])
        return _Recorded(graph, ids, state, distances)
