"""Trees from a span scorer, in the form in which an ON-LSTM gives them: as heights of boundaries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ordtool.parsing.spans.model import SpanConfig, SpanModel
from ordtool.parsing.text.vocabulary import WordLookup
from ordtool.parsing.trees.chart import chart_heights

# A line of more words than any sentence has is read in pieces: the chart takes n^3 / 6 additions.
_LONGEST, _PIECE = 1024, 512
# Spans of a batch whose scores are held at a time.
_SPANS = 1 << 22


class SpanParser:
    """A span scorer that is ready to parse.

    It has the attributes of `DistanceModel`, so that both can be asked in the same way and vote together. It has one
    layer, its heights are 1 / depth in its best tree (`chart_heights`), and their unbiased tree is that tree.

    Attributes:
        words: How words are looked up.
        layers: 1.
        weights: [1.0].
        builder: `unbiased`.
        tilt: 0.
        mark_weights: None of its own: the network reads the marks.
        matmul_dtype: Element type of the network's products; None: float32.
        kernel: Not looked at.
    """

    layers = 1
    tilt = 0.0
    builder = "unbiased"

    def __init__(self, config: SpanConfig, tensors: dict[str, Tensor], words: WordLookup) -> None:
        if config.vocab_size != len(words.tokens):
            raise ValueError(f"{config.vocab_size} embeddings, {len(words.tokens)} words")
        self.words = words
        self.weights = [1.0]
        self.mark_weights: dict[str, float] = {}
        self.kernel = "torch"
        self._network = SpanModel(config).eval()
        try:
            self._network.load_state_dict(tensors)
        except RuntimeError as error:
            raise ValueError(" ".join(str(error).split())) from None
        self._dtype: torch.dtype | None = None

    @classmethod
    def from_parts(
        cls, config: dict[str, Any], tensors: dict[str, Tensor], words: WordLookup, device: torch.device | str
    ) -> SpanParser:
        """Make a parser of what a model folder holds.

        Raises:
            KeyError: For a size that the configuration lacks.
            ValueError: For parts that don't fit each other.
        """
        names = {field.name for field in fields(SpanConfig)}
        shape = SpanConfig(**{name: value for name, value in config.items() if name in names})
        parser = cls(shape, tensors, words)
        parser._network.to(device)
        return parser

    @property
    def matmul_dtype(self) -> torch.dtype | None:
        """Element type of the network's products; None: float32."""
        return self._dtype

    @matmul_dtype.setter
    def matmul_dtype(self, dtype: torch.dtype | None) -> None:
        self._dtype = dtype
        self._network.to(dtype or torch.float32)

    @torch.inference_mode()
    def distances(
        self,
        sentences: Sequence[Sequence[int]],
        depth: int | None = None,
        marks: Sequence[np.ndarray] | None = None,
    ) -> list[np.ndarray]:
        """Find the best trees.

        A line of over 1,024 words, which is no sentence, is read in pieces of 512 that are joined from the right.

        Args:
            sentences: Ids of the words of each sentence, one at least; of similar lengths, because short ones are padded.
            depth: Not looked at: there is one layer.
            marks: What stands between the words of each, `(words + 1,)`, see `marks_between`; None: nothing.

        Returns:
            For each sentence the heights of its boundaries, `(1, words)`.
        """
        if marks is None:
            marks = [np.zeros(len(sentence) + 1, dtype=np.uint16) for sentence in sentences]
        found: list[np.ndarray] = []
        short: list[int] = []
        for place, sentence in enumerate(sentences):
            if len(sentence) > _LONGEST:
                found += self._flush(sentences, marks, short)
                found.append(self._read_long(sentence, marks[place]))
                continue
            longest = max(len(sentence), *(len(sentences[k]) for k in short), 0)
            if (len(short) + 1) * (longest + 1) ** 2 > _SPANS:
                found += self._flush(sentences, marks, short)
            short.append(place)
        found += self._flush(sentences, marks, short)
        return [heights[None] for heights in found]

    def _flush(
        self, sentences: Sequence[Sequence[int]], marks: Sequence[np.ndarray], places: list[int]
    ) -> list[np.ndarray]:
        batch, between = [sentences[k] for k in places], [marks[k] for k in places]
        places.clear()
        return self._read(batch, between) if batch else []

    def _read(self, sentences: Sequence[Sequence[int]], marks: Sequence[np.ndarray]) -> list[np.ndarray]:
        lengths = [len(sentence) for sentence in sentences]
        longest = max(lengths)
        ids = np.zeros((len(sentences), longest), dtype=np.int64)
        between = np.zeros((len(sentences), longest + 1), dtype=np.int64)
        for row, (sentence, found) in enumerate(zip(sentences, marks, strict=True)):
            ids[row, : len(sentence)] = sentence
            between[row, : len(sentence) + 1] = found
        device = self._network.words.weight.device
        arguments = (torch.from_numpy(x).to(device) for x in (ids, between, np.array(lengths)))
        # The tree with the largest sum of probabilities is the one with the most phrases to be expected right.
        scores = torch.sigmoid(self._network(*arguments).float()).cpu().numpy()
        return chart_heights(scores[:, :-1], lengths)

    def _read_long(self, sentence: Sequence[int], marks: np.ndarray) -> np.ndarray:
        starts = range(0, len(sentence), _PIECE)
        pieces = [sentence[start : start + _PIECE] for start in starts]
        between = [marks[start : start + len(piece) + 1] for start, piece in zip(starts, pieces, strict=True)]
        heights: list[np.ndarray] = []
        for number, (piece, found) in enumerate(zip(pieces, between, strict=True)):
            (inside,) = self._read([piece], [found])
            inside[1:] = 1 / (len(pieces) + 1 / inside[1:])
            inside[0] = 1 / number if number else 0.0
            heights.append(inside)
        return np.concatenate(heights)
