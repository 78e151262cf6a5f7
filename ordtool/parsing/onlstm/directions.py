"""Two ON-LSTMs that read a sentence in two directions, as one parser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from ordtool.parsing.onlstm.inference import DistanceModel

__all__ = ["BACKWARD_FOLDER", "BidirectionalModel"]

BACKWARD_FOLDER = "backward"
"""In the folder of a model that reads forward, the one that reads backward; its tokenizer is the other's."""


class BidirectionalModel:
    """An ON-LSTM that reads from the left and one that reads from the right.

    Its layers are those of the first and then those of the second. What mixes layers (`mix_distances`: the weighted mean of
    distances that are standardised over the sentence) so mixes directions too.

    Attributes:
        forward: The one that reads from the left.
        backward: The one that reads from the right.
        layers: Number of layers of both together.
        backward_layers: How many of them, the last ones, read from the right.
        vocabulary: How both look up words.
        tree_config: How the distances of all layers make trees.
        matmul_dtype: Element type of matrix products; None: float32.
    """

    has_posteriors: Literal[False] = False

    def __init__(self, forward: DistanceModel, backward: DistanceModel) -> None:
        """Take two models of one vocabulary.

        Raises:
            ValueError: If they don't read in two directions, or don't look up the same words.
        """
        if forward.backward or not backward.backward:
            raise ValueError("one has to read forward, the other backward")
        if forward.vocabulary.tokens != backward.vocabulary.tokens:
            raise ValueError("the two directions have two vocabularies")
        self.forward, self.backward = forward, backward
        self.layers = forward.layers + backward.layers
        self.backward_layers = backward.layers
        self.vocabulary = forward.vocabulary
        self.tree_config = forward.tree_config
        self.matmul_dtype = forward.matmul_dtype

    def distances(
        self,
        sentences: Sequence[Sequence[int]],
        depth: int | None = None,
        punctuation: Sequence[np.ndarray] | None = None,
        *,
        compiled: bool = False,
        gate: str = "forget",
    ) -> list[np.ndarray]:
        """Return the distances of each sentence, `(depth, words)`; see `DistanceModel.distances`, whose arguments these are.

        At k stands the height of the boundary before word k, in the layers that read backward too; see `align_backward`.
        """
        own = self.forward.layers
        depth = self.layers if depth is None else depth
        found = self.forward.distances(sentences, min(depth, own), punctuation, compiled=compiled, gate=gate)
        if depth <= own:
            return found
        more = self.backward.distances(sentences, depth - own, punctuation, compiled=compiled, gate=gate)
        return [np.concatenate(pair) for pair in zip(found, more, strict=True)]

    def gates(self, words: Sequence[int]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the master forget and input gates of each layer, `(words, chunks)` both.

        The gates of a word are those with which it was read: by the later layers, after the words behind it.
        """
        return [*self.forward.gates(words), *self.backward.gates(words)]
