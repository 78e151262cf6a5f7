"""Trees from a span scorer, in the form in which an ON-LSTM gives them: as distances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ordtool.parsing.spans.model import SpanConfig, SpanModel
from ordtool.parsing.text.vocabulary import Vocabulary
from ordtool.parsing.trees.chart import chart_distances, join_pieces
from ordtool.parsing.trees.config import TreeConfig

# A line of more words than any sentence has is read in pieces: the chart takes n^3 / 6 additions.
_LONGEST, _PIECE = 1024, 512
# Spans of a batch whose scores are held at a time.
_SPANS = 1 << 22


class SpanParser:
    """A span scorer that is ready to parse.

    It has the attributes of `DistanceModel`, so that both can be asked in the same way and vote together. It has one
    layer, its distances are 1 / depth in its best tree (`chart_distances`), and their unbiased tree is that tree.

    Attributes:
        vocabulary: How words are looked up.
        layers: 1.
        tree_config: The unbiased builder; no bonus for punctuation, which the network reads.
        matmul_dtype: Element type of the network's products; None: float32.
    """

    layers = 1
    has_posteriors: Literal[True] = True
    tree_config = TreeConfig(builder="unbiased")

    def __init__(
        self,
        config: SpanConfig,
        tensors: dict[str, Tensor],
        vocabulary: Vocabulary,
        matmul_dtype: torch.dtype | None = None,
    ) -> None:
        if config.vocab_size != len(vocabulary.tokens):
            raise ValueError(f"{config.vocab_size} embeddings, {len(vocabulary.tokens)} words")
        self.vocabulary = vocabulary
        self.matmul_dtype = matmul_dtype
        self._network = SpanModel(config).eval()
        try:
            self._network.load_state_dict(tensors)
        except RuntimeError as error:
            raise ValueError(" ".join(str(error).split())) from None
        self._network.to(matmul_dtype or torch.float32)

    @classmethod
    def from_parts(
        cls,
        config: dict[str, Any],
        tensors: dict[str, Tensor],
        vocabulary: Vocabulary,
        device: torch.device | str = "cpu",
        matmul_dtype: torch.dtype | None = None,
    ) -> SpanParser:
        """Make a parser of what a model folder holds.

        Raises:
            KeyError: For a size that the configuration lacks.
            ValueError: For parts that don't fit each other.
        """
        names = {field.name for field in fields(SpanConfig)}
        shape = SpanConfig(**{name: value for name, value in config.items() if name in names})
        parser = cls(shape, tensors, vocabulary, matmul_dtype)
        parser._network.to(device)
        return parser

    @torch.inference_mode()
    def distances(
        self,
        sentences: Sequence[Sequence[int]],
        depth: int | None = None,
        punctuation: Sequence[np.ndarray] | None = None,
        *,
        compiled: bool = False,
    ) -> list[np.ndarray]:
        """Find the best trees.

        A line of over 1,024 words, which is no sentence, is read in pieces of 512 that are joined from the right.

        Args:
            sentences: Ids of the words of each sentence, one at least; of similar lengths, because short ones are padded.
            depth: Not looked at: there is one layer.
            punctuation: What stands between the words of each, `(words + 1,)`, see `punctuation_between`; None: nothing.
            compiled: Not looked at: there are no compiled loops.

        Returns:
            For each sentence its distances, `(1, words)`.
        """
        if punctuation is None:
            punctuation = [np.zeros(len(sentence) + 1, dtype=np.uint16) for sentence in sentences]
        measured: list[np.ndarray] = []
        short: list[int] = []
        for index, sentence in enumerate(sentences):
            if len(sentence) > _LONGEST:
                measured += self._flush(sentences, punctuation, short)
                measured.append(self._read_long(sentence, punctuation[index]))
                continue
            longest = max(len(sentence), *(len(sentences[k]) for k in short), 0)
            if (len(short) + 1) * (longest + 1) ** 2 > _SPANS:
                measured += self._flush(sentences, punctuation, short)
            short.append(index)
        measured += self._flush(sentences, punctuation, short)
        return [distances[None] for distances in measured]

    @torch.inference_mode()
    def posteriors(
        self, sentences: Sequence[Sequence[int]], punctuation: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """Return the probability of each span, `(words, words + 1)` a sentence.

        Args:
            sentences: As for `distances`, of 1,024 words at most.
            punctuation: Likewise.
        """
        if not sentences:
            return []
        scores = self._probabilities(sentences, punctuation).cpu().numpy()
        tables = []
        for table, sentence in zip(scores, sentences, strict=True):
            length = len(sentence)
            edges = np.arange(length + 1)
            wide = edges[None, :] - edges[:-1, None] >= 2
            tables.append(np.where(wide, table[:length, : length + 1], 0.0))
            tables[-1][0, length] = float(length > 1)
        return tables

    def _flush(
        self, sentences: Sequence[Sequence[int]], punctuation: Sequence[np.ndarray], chosen: list[int]
    ) -> list[np.ndarray]:
        """Read the sentences that `chosen` counts, and empty it."""
        batch, between = [sentences[k] for k in chosen], [punctuation[k] for k in chosen]
        chosen.clear()
        return self._read(batch, between) if batch else []

    def _read(
        self, sentences: Sequence[Sequence[int]], punctuation: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        # The tree with the largest sum of probabilities is the one with the most phrases to be expected right.
        scores = self._probabilities(sentences, punctuation)
        tables = scores[:, :-1]
        lengths = [len(sentence) for sentence in sentences]
        return chart_distances(tables if tables.device.type == "cuda" else tables.numpy(), lengths)

    def _probabilities(self, sentences: Sequence[Sequence[int]], punctuation: Sequence[np.ndarray]) -> Tensor:
        """Return what the network says of each span: `(sentences, longest + 1, longest + 1)`."""
        lengths = [len(sentence) for sentence in sentences]
        longest = max(lengths)
        ids = np.zeros((len(sentences), longest), dtype=np.int64)
        between = np.zeros((len(sentences), longest + 1), dtype=np.int64)
        for row, (sentence, bits) in enumerate(zip(sentences, punctuation, strict=True)):
            ids[row, : len(sentence)] = sentence
            between[row, : len(sentence) + 1] = bits
        device = self._network.words.weight.device
        arguments = (torch.from_numpy(x).to(device) for x in (ids, between, np.array(lengths)))
        found: Tensor = torch.sigmoid(self._network(*arguments).float())
        return found

    def _read_long(self, sentence: Sequence[int], punctuation: np.ndarray) -> np.ndarray:
        pieces = []
        for start in range(0, len(sentence), _PIECE):
            piece = sentence[start : start + _PIECE]
            pieces += self._read([piece], [punctuation[start : start + len(piece) + 1]])
        return join_pieces(pieces)
