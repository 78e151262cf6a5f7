"""Trees from a span scorer: as distances, the form in which an ON-LSTM gives them, or with labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ordtool.parsing.spans.data import CHAIN
from ordtool.parsing.spans.encoder import PieceEncoder
from ordtool.parsing.spans.examples import pad_batch
from ordtool.parsing.spans.model import Scored, SpanConfig, SpanModel
from ordtool.parsing.spans.words import PieceVocabulary
from ordtool.parsing.text.vocabulary import Vocabulary
from ordtool.parsing.trees.chart import Span, chart_distances, flat_trees, join_pieces
from ordtool.parsing.trees.config import TreeConfig
from ordtool.parsing.trees.treebank import Constituent

# A line of more words than any sentence has is read in pieces: the chart takes n^3 / 6 additions.
_LONGEST, _PIECE = 1024, 512
# Encoders read less: MiniLM 512 pieces of words.
_LONGEST_ENCODED, _PIECE_ENCODED = 256, 192
# The label of what joins the pieces.
_JOINED = "X"
# Spans of a batch whose scores are held at a time.
_SPANS = 1 << 22


@dataclass(frozen=True, slots=True)
class SpanTree:
    """A tree over words that need not be binary.

    Attributes:
        distances: Of the binary tree from which it comes, `(words,)`.
        spans: Constituents wider than a word, in pre-order, the whole sentence first.
        constituents: The nodes with their labels, single words' too, parents before children; None: without labels.
        tags: Parts of speech; None: not known.
    """

    distances: np.ndarray
    spans: list[Span]
    constituents: list[Constituent] | None = None
    tags: list[str] | None = None


class SpanParser:
    """A span scorer that is ready to parse.

    It has the attributes of `DistanceModel`, so that both can be asked in the same way and vote together. It has one
    layer, its distances are 1 / depth in its best tree (`chart_distances`), and their unbiased tree is that tree.

    Args:
        network: The network, with its weights.
        vocabulary: How words are looked up.
        matmul_dtype: Element type of the network's products; None: float32.

    Attributes:
        network: The network, in evaluation mode.
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
        network: SpanModel,
        vocabulary: Vocabulary | PieceVocabulary,
        matmul_dtype: torch.dtype | None = None,
    ) -> None:
        self.vocabulary = vocabulary
        self.matmul_dtype = matmul_dtype
        self.network = network.eval().to(matmul_dtype or torch.float32)

    @classmethod
    def from_parts(
        cls,
        config: dict[str, Any],
        tensors: dict[str, Tensor],
        vocabulary: Vocabulary | PieceVocabulary,
        device: torch.device | str = "cpu",
        matmul_dtype: torch.dtype | None = None,
        encoder: PieceEncoder | None = None,
    ) -> SpanParser:
        """Make a parser of what a model folder holds.

        Raises:
            KeyError: For a size that the configuration lacks.
            ValueError: For parts that don't fit each other.
        """
        names = {field.name for field in fields(SpanConfig)}
        values = {name: value for name, value in config.items() if name in names}
        for name in ("labels", "tags"):
            values[name] = tuple(map(str, values.get(name, ())))
        shape = SpanConfig(**values)
        if encoder is None and shape.vocab_size != len(vocabulary.tokens):  # type: ignore[union-attr]
            raise ValueError(f"{shape.vocab_size} embeddings, {len(vocabulary.tokens)} words")  # type: ignore[union-attr]
        network = SpanModel(shape, encoder)
        # An encoder comes with its weights.
        given = {} if encoder is None else {f"encoder.{k}": v for k, v in encoder.state_dict().items()}
        try:
            network.load_state_dict(tensors | given)
        except RuntimeError as error:
            raise ValueError(" ".join(str(error).split())) from None
        parser = cls(network, vocabulary, matmul_dtype)
        parser.network.to(device)
        return parser

    @property
    def flat(self) -> bool:
        """Whether its trees need not be binary."""
        return self.network.config.threshold is not None

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
        for chosen in self._groups(sentences):
            if len(sentences[chosen[0]]) > self._longest:
                measured.append(self._read_long(sentences[chosen[0]], punctuation[chosen[0]]))
            else:
                measured += self._read([sentences[k] for k in chosen], [punctuation[k] for k in chosen])
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
        table_scores, _ = self._score(sentences, punctuation)
        scores = table_scores.cpu().numpy()
        tables = []
        for table, sentence in zip(scores, sentences, strict=True):
            length = len(sentence)
            edges = np.arange(length + 1)
            wide = edges[None, :] - edges[:-1, None] >= 2
            tables.append(np.where(wide, table[:length, : length + 1], 0.0))
            tables[-1][0, length] = float(length > 1)
        return tables

    @torch.inference_mode()
    def trees(self, sentences: Sequence[Sequence[int]], punctuation: Sequence[np.ndarray]) -> list[SpanTree]:
        """Find the trees that leave out what is less likely than not, with labels where the model has learned some.

        Args:
            sentences: As for `distances`.
            punctuation: As for `distances`.
        """
        found: list[SpanTree] = []
        for chosen in self._groups(sentences):
            if len(sentences[chosen[0]]) > self._longest:
                found.append(self._draw_long(sentences[chosen[0]], punctuation[chosen[0]]))
            else:
                found += self._draw([sentences[k] for k in chosen], [punctuation[k] for k in chosen])
        return found

    @property
    def _longest(self) -> int:
        return _LONGEST if self.network.encoder is None else _LONGEST_ENCODED

    @property
    def _piece(self) -> int:
        return _PIECE if self.network.encoder is None else _PIECE_ENCODED

    def _groups(self, sentences: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Group sentences whose scores are held together, in their order; one that is too long stands alone."""
        group: list[int] = []
        longest = 0
        for index, sentence in enumerate(sentences):
            length = len(sentence)
            if group and (
                length > self._longest or (len(group) + 1) * (max(longest, length) + 1) ** 2 > _SPANS
            ):
                yield group
                group, longest = [], 0
            group.append(index)
            longest = max(longest, length)
            if length > self._longest:
                yield group
                group, longest = [], 0
        if group:
            yield group

    def _read(
        self, sentences: Sequence[Sequence[int]], punctuation: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        # The tree with the largest sum of probabilities is the one with the most phrases to be expected right.
        tables = self._score(sentences, punctuation)[0][:, :-1]
        lengths = [len(sentence) for sentence in sentences]
        return chart_distances(tables if tables.device.type == "cuda" else tables.numpy(), lengths)

    def _score(
        self, sentences: Sequence[Sequence[int]], punctuation: Sequence[np.ndarray]
    ) -> tuple[Tensor, Scored]:
        """Return the probability of every span, `(sentences, longest + 1, longest + 1)`, and what else was read."""
        batch = pad_batch(sentences, punctuation, self.network.widen.weight.device)
        read = self.network.read(batch.words, batch.punctuation, batch.lengths)
        return torch.sigmoid(read.spans.float()), read

    def _draw(self, sentences: Sequence[Sequence[int]], punctuation: Sequence[np.ndarray]) -> list[SpanTree]:
        lengths = [len(sentence) for sentence in sentences]
        scores, read = self._score(sentences, punctuation)
        found = flat_trees(scores[:, :-1].cpu().numpy() - (self.network.config.threshold or 0.0), lengths)
        trees = [SpanTree(distances, spans) for spans, distances in found]
        return self._label(trees, read) if self.network.config.labels else trees

    def _label(self, trees: list[SpanTree], read: Scored) -> list[SpanTree]:
        """Put labels on the spans of trees, and on single words where there is one."""
        labels, kinds = self.network.config.labels, self.network.config.tags
        places, wide = [], []
        for row, tree in enumerate(trees):
            length = len(tree.distances)
            words = [] if length == 1 else [(k, k + 1) for k in range(length)]
            # A sentence of one word is its word.
            spans = sorted([*(tree.spans or [(0, 1)]), *words], key=lambda span: (span[0], -span[1]))
            places += [(row, *span) for span in spans]
            wide += [end - start > 1 or length == 1 for start, end in spans]
        device = read.boundaries.device
        rows, starts, ends = torch.tensor(places, device=device).T
        scores = self.network.label_scores(read.boundaries, rows, starts, ends).float()
        # A span of the tree is a phrase, whichever.
        scores[torch.tensor(wide, device=device), 0] = -torch.inf
        chains = [labels[number].split(CHAIN) for number in scores.argmax(-1).tolist()]
        nodes: list[list[Constituent]] = [[] for _ in trees]
        for (row, start, end), chain in zip(places, chains, strict=True):
            nodes[row] += [Constituent(label, start, end) for label in chain if label]
        tags = self.network.tag_scores(read.words).argmax(-1).tolist() if kinds else None
        return [
            SpanTree(
                tree.distances,
                tree.spans,
                nodes[row],
                [kinds[k] for k in tags[row][: len(tree.distances)]] if tags is not None else None,
            )
            for row, tree in enumerate(trees)
        ]

    def _draw_long(self, sentence: Sequence[int], punctuation: np.ndarray) -> SpanTree:
        """Put the trees of pieces under one root."""
        starts = range(0, len(sentence), self._piece)
        spans: list[Span] = [(0, len(sentence))]
        nodes, tags = [Constituent(_JOINED, 0, len(sentence))], []
        for start in starts:
            piece = sentence[start : start + self._piece]
            [tree] = self._draw([piece], [punctuation[start : start + len(piece) + 1]])
            spans += [(a + start, b + start) for a, b in tree.spans]
            nodes += [Constituent(label, a + start, b + start) for label, a, b in tree.constituents or []]
            tags += tree.tags or []
        distances = self._read_long(sentence, punctuation)
        labelled = bool(self.network.config.labels)
        return SpanTree(distances, spans, nodes if labelled else None, tags or None)

    def _read_long(self, sentence: Sequence[int], punctuation: np.ndarray) -> np.ndarray:
        pieces: list[np.ndarray] = []
        for start in range(0, len(sentence), self._piece):
            piece = sentence[start : start + self._piece]
            pieces += self._read([piece], [punctuation[start : start + len(piece) + 1]])
        return join_pieces(pieces)
