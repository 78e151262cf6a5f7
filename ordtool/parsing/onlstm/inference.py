"""Distances from a trained model, without transformers: what parsing runs.

`OnlstmForCausalLM.syntactic_distances` gives the same numbers. Importing transformers takes longer than parsing a thousand
sentences, and parsing needs a small part of the model: the embedding and the layers up to the one that makes trees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ordtool.parsing.onlstm.graphs import DistanceGraphs, State
from ordtool.parsing.onlstm.kernels_torch import FUSED, choose_kernels, numba_available
from ordtool.parsing.onlstm.scan import INPUT_GATES, ScanOutput, master_gates, ordered_scan
from ordtool.parsing.text.vocabulary import Vocabulary
from ordtool.parsing.trees.config import TreeConfig

# Steps that are projected at once; a sentence may be much longer, its state is carried.
_WINDOW = 256
# A line of more words than any sentence has is read in pieces side by side, each after some words of context: word by word
# from its first one on, a megabyte would take minutes.
_LONGEST, _PIECE, _CONTEXT = 4096, 1024, 128
_PIECES_AT_ONCE = 32

COMPILED_FROM = 20_000
"""Words from which numba's loops, which take a while to load, save more time than that."""


@dataclass(frozen=True, slots=True)
class _Layer:
    weight_ih: Tensor
    weight_hh: Tensor
    bias: Tensor


class DistanceModel:
    """The part of an ON-LSTM that measures distances.

    Attributes:
        vocabulary: How words are looked up.
        layers: Number of layers of the whole model.
        backward: Whether it reads sentences from the last word to the first.
        backward_layers: How many of its layers do: all of them or none.
        tree_config: How the model's configuration makes trees of distances.
        matmul_dtype: Element type of matrix products; None: float32.
    """

    has_posteriors: Literal[False] = False

    def __init__(
        self,
        config: dict[str, Any],
        tensors: dict[str, Tensor],
        vocabulary: Vocabulary,
        matmul_dtype: torch.dtype | None = None,
    ) -> None:
        self.vocabulary = vocabulary
        self.layers = int(config["num_hidden_layers"])
        self.backward = config.get("direction") == "backward"
        self.backward_layers = self.layers if self.backward else 0
        self.tree_config = TreeConfig.from_model(config)
        self.matmul_dtype = matmul_dtype
        self._chunk = int(config["chunk_size"])
        self._input_gate = str(config.get("input_gate") or "paper")
        self._eos = int(config.get("eos_token_id") or 0)
        self._embedding = tensors["model.embed_tokens.weight"]
        self._stack = [
            _Layer(
                tensors[f"model.layers.{k}.weight_ih"],
                tensors[f"model.layers.{k}.weight_hh"],
                tensors[f"model.layers.{k}.bias_ih"] + tensors[f"model.layers.{k}.bias_hh"],
            )
            for k in range(self.layers)
        ]

    @classmethod
    def from_parts(
        cls,
        config: dict[str, Any],
        tensors: dict[str, Tensor],
        vocabulary: Vocabulary,
        device: torch.device | str = "cpu",
        matmul_dtype: torch.dtype | None = None,
    ) -> DistanceModel:
        """Make a model of what a model folder holds.

        Raises:
            KeyError: For a setting or a weight that isn't there.
            ValueError: For parts that don't fit each other.
        """
        on_device = {name: tensor.to(device) for name, tensor in tensors.items()}
        model = cls(config, on_device, vocabulary, matmul_dtype)
        model._check()
        return model

    def _check(self) -> None:
        if self._input_gate not in INPUT_GATES:
            raise ValueError(f"input_gate is {self._input_gate!r}, and one is {', '.join(INPUT_GATES)}")
        rows = len(self._embedding)
        if rows != len(self.vocabulary.tokens):
            raise ValueError(f"{rows} embeddings, {len(self.vocabulary.tokens)} words")
        size = self._embedding.shape[1]
        for k, layer in enumerate(self._stack):
            gates, hidden = layer.weight_hh.shape
            if hidden % self._chunk or gates != 4 * hidden + 2 * (hidden // self._chunk):
                raise ValueError(
                    f"layer {k + 1} has recurrent weights of shape {tuple(layer.weight_hh.shape)}"
                )
            if tuple(layer.weight_ih.shape) != (gates, size):
                raise ValueError(f"layer {k + 1} has input weights of shape {tuple(layer.weight_ih.shape)}")
            size = hidden

    def distances(
        self,
        sentences: Sequence[Sequence[int]],
        depth: int | None = None,
        punctuation: Sequence[np.ndarray] | None = None,
        *,
        compiled: bool = False,
        gate: str = "forget",
    ) -> list[np.ndarray]:
        """Return the distance of each word: the height of the boundary before it.

        Every sentence is read as `<eos> words` from a zero state; by a model that reads backward from its last word on, and
        the distances stand where their gaps are, see `align_backward`. A line of over 4,096 words, which is no sentence, is
        read in pieces of 1,024, each from a zero state 128 words before it.

        Args:
            sentences: Ids of the words of each sentence; of similar lengths, because short ones are padded.
            depth: Layers to run; None: all. Layers above the ones that make trees need not be.
            punctuation: Not looked at: the network doesn't read it.
            compiled: Take numba's loops where they are installed, which are faster and take seconds to load. On CUDA
            Triton's kernels are taken where it is installed.
            gate: `forget` or `input`: the master gate that measures.

        Returns:
            For each sentence 1 - mean(master forget gate), or mean(master input gate), `(depth, words)`, float32.

        Source: Shen et al. 2019, section 5.2.
        """
        run = self._running(depth, compiled, gate)
        if self.backward:
            return [align_backward(found) for found in self._read([s[::-1] for s in sentences], run)]
        return self._read(sentences, run)

    def _read(self, sentences: Sequence[Sequence[int]], run: Callable[[Tensor], Tensor]) -> list[np.ndarray]:
        """Measure sentences in the order of their words."""
        if all(len(sentence) <= _LONGEST for sentence in sentences):
            return self._measure(sentences, run)
        return [
            self._measure_long(s, run) if len(s) > _LONGEST else self._measure([s], run)[0] for s in sentences
        ]

    def _measure_long(self, sentence: Sequence[int], run: Callable[[Tensor], Tensor]) -> np.ndarray:
        starts = range(0, len(sentence), _PIECE)
        pieces = [sentence[max(start - _CONTEXT, 0) : start + _PIECE] for start in starts]
        measured: list[np.ndarray] = []
        for first in range(0, len(pieces), _PIECES_AT_ONCE):
            measured += self._measure(pieces[first : first + _PIECES_AT_ONCE], run)
        return np.concatenate(
            [piece[:, min(start, _CONTEXT) :] for start, piece in zip(starts, measured, strict=True)], axis=1
        )

    @torch.inference_mode()
    def _measure(
        self, sentences: Sequence[Sequence[int]], run: Callable[[Tensor], Tensor]
    ) -> list[np.ndarray]:
        """Run the layers over sentences side by side, a window at a time with carried state."""
        longest = max(map(len, sentences), default=0)
        ids = torch.full((longest + 1, len(sentences)), self._eos, dtype=torch.long)
        for column, sentence in enumerate(sentences):
            ids[1 : len(sentence) + 1, column] = torch.tensor(sentence, dtype=torch.long)
        ids = ids.to(self._embedding.device)
        table = run(ids)[:, 1:].cpu().numpy()
        return [table[:, : len(sentence), column] for column, sentence in enumerate(sentences)]

    def _running(self, depth: int | None, compiled: bool, gate: str) -> Callable[[Tensor], Tensor]:
        """Return what measures ids `(words, batch)`: `(layers, words, batch)`."""
        if gate == "forget" and compiled and self._runs_in_bf16():
            return lambda ids: self._run_bf16(ids, self._bf16_stack[:depth])
        return lambda ids: self._run(ids, self._stack[:depth], self._kernel(compiled), gate)

    @torch.inference_mode()
    def gates(self, words: Sequence[int]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the master forget and input gates of each layer, `(words, chunks)` both.

        Args:
            words: Ids of a sentence, read as `<eos> words` from a zero state; by a model that reads backward from the last
                word on. The gates of a word are those with which it was read.
        """
        order = -1 if self.backward else 1
        ids = torch.tensor([self._eos, *words[::order]], device=self._embedding.device)[:, None]
        hidden = F.embedding(ids, self._embedding)
        found = []
        for layer, (before, cell) in zip(self._stack, self._zeros(1, self._stack), strict=True):
            projected = self._project(hidden, layer)
            hidden = self._scan(projected, layer, before, cell, self._kernel(False)).hidden_states
            gates = self._master_gates(projected, layer, before, hidden)
            forget, written = (gate[1:, 0].float().cpu().numpy()[::order] for gate in gates)
            found.append((forget, written))
        return found

    def _master_gates(
        self, projected: Tensor, layer: _Layer, before: Tensor, after: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the master gates of a scan from its states."""
        previous = torch.cat((before[None], after[:-1]))
        return master_gates(projected, layer.weight_hh, previous, self._chunk, self._input_gate)

    def _scan(
        self, projected: Tensor, layer: _Layer, before: Tensor, cell: Tensor, kernel: str
    ) -> ScanOutput:
        return ordered_scan(
            projected,
            layer.weight_hh,
            before,
            cell,
            self._chunk,
            matmul_dtype=self.matmul_dtype,
            kernel=kernel,
            input_gate=self._input_gate,
        )

    def _kernel(self, compiled: bool) -> str:
        """Name of the scan's kernels."""
        if self._embedding.device.type != "cuda":
            return "auto" if compiled else "torch"
        sizes = [layer.weight_hh.shape[1] for layer in self._stack]
        chosen = [choose_kernels("auto", self._embedding, size, self._chunk) for size in sizes]
        return FUSED if all(kernels is FUSED for kernels in chosen) else "torch"

    @cached_property
    def _graphs(self) -> DistanceGraphs:
        return DistanceGraphs(self._eos)

    def _runs_in_bf16(self) -> bool:
        return (
            self.matmul_dtype == torch.bfloat16 and self._embedding.device.type == "cpu" and numba_available()
        )

    def _run(self, ids: Tensor, stack: Sequence[_Layer], kernel: str, gate: str) -> Tensor:
        """Distances of all layers of `stack`, `(layers, words, batch)`, of ids `(words, batch)`."""

        def window(ids: Tensor, state: State) -> tuple[list[Tensor], State]:
            return self._run_window(ids, state, stack, kernel, gate)

        if ids.device.type == "cuda" and kernel == FUSED and gate == "forget":
            return self._graphs.run(ids, lambda columns: self._zeros(columns, stack), window)
        out = torch.empty(len(stack), *ids.shape)
        state = self._zeros(ids.shape[1], stack)
        for start in range(0, len(ids), _WINDOW):
            distances, state = window(ids[start : start + _WINDOW], state)
            for k, measured in enumerate(distances):
                out[k, start : start + _WINDOW] = measured
        return out

    def _zeros(self, batch: int, stack: Sequence[_Layer]) -> State:
        """States before the first word; tensors of their own, because a graph carries on in them."""
        sizes = [layer.weight_hh.shape[1] for layer in stack]
        new = self._embedding.new_zeros
        return [(new(batch, size), new(batch, size)) for size in sizes]

    def _run_window(
        self, ids: Tensor, state: State, stack: Sequence[_Layer], kernel: str, gate: str
    ) -> tuple[list[Tensor], State]:
        hidden = F.embedding(ids, self._embedding)
        distances, after = [], []
        for layer, (before, cell) in zip(stack, state, strict=True):
            projected = self._project(hidden, layer)
            scan = self._scan(projected, layer, before, cell, kernel)
            hidden = scan.hidden_states
            after.append((hidden[-1], scan.cell))
            if gate == "forget":
                distances.append(scan.distances)
            else:
                distances.append(self._master_gates(projected, layer, before, hidden)[1].mean(dim=-1))
        return distances, after

    def _run_bf16(self, ids: Tensor, layers: Sequence[_Layer]) -> Tensor:
        """What `_run` does, in bfloat16 from one product to the next; see `kernels_bf16`."""
        from ordtool.parsing.onlstm.kernels_bf16 import bf16_scan

        out = torch.empty(len(layers), *ids.shape)
        sizes = [layer.weight_hh.shape[0] for layer in layers]
        states = [layers[0].weight_hh.new_zeros(ids.shape[1], size) for size in sizes]
        cells = [torch.zeros(ids.shape[1], size) for size in sizes]
        for start in range(0, len(ids), _WINDOW):
            hidden = F.embedding(ids[start : start + _WINDOW], self._embedding).bfloat16()
            for k, layer in enumerate(layers):
                hidden, distances = bf16_scan(
                    F.linear(hidden, layer.weight_ih),
                    layer.weight_hh,
                    layer.bias,
                    states[k],
                    cells[k],
                    self._chunk,
                    self._input_gate,
                )
                states[k] = hidden[-1]
                out[k, start : start + _WINDOW] = distances
        return out

    @cached_property
    def _bf16_stack(self) -> list[_Layer]:
        """The layers in bfloat16, the recurrent weight transposed; the bias stays float32."""
        return [
            _Layer(x.weight_ih.bfloat16(), x.weight_hh.bfloat16().t().contiguous(), x.bias)
            for x in self._stack
        ]

    def _project(self, hidden: Tensor, layer: _Layer) -> Tensor:
        if self.matmul_dtype is None:
            return F.linear(hidden, layer.weight_ih, layer.bias)
        product = F.linear(hidden.to(self.matmul_dtype), layer.weight_ih.to(self.matmul_dtype))
        return product.float() + layer.bias


def align_backward(read: np.ndarray) -> np.ndarray:
    """Put the distances of a sentence that was read from its end where their gaps are.

    Of n words, the j-th read is word n - 1 - j, and its distance is the height of the boundary between it and word n - j,
    which was read before it: of the gap before word n - j. So the distance goes to `n - j`, for j from 1 on. The gap before
    the first word isn't read across: there the mean of the others stands, which takes no side. The distance of the first
    word read is that of the boundary behind the sentence, which is no gap, and is left out.

    Args:
        read: `(layers, words)`, in the order of reading.

    Returns:
        `(layers, words)`: at k the height of the boundary before word k. A sentence of one word keeps its distance.
    """
    if read.shape[1] < 2:
        return read
    gaps = read[:, :0:-1]
    return np.concatenate((gaps.mean(axis=1, keepdims=True), gaps), axis=1)
