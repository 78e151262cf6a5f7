"""Trees from a grammar: the tree with the most constituents to be expected right, under the grammar's own posteriors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import fields
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ordtool.parsing.onlstm.kernels_torch import numba_available
from ordtool.parsing.pcfg.inside import Grammar, span_posteriors
from ordtool.parsing.pcfg.merging import Merger, span_count
from ordtool.parsing.pcfg.model import PcfgConfig, PcfgModel
from ordtool.parsing.text.vocabulary import Vocabulary
from ordtool.parsing.trees.chart import best_distances, join_pieces
from ordtool.parsing.trees.config import TreeConfig, current_keys
from ordtool.parsing.trees.punctuation import check_punctuation_bonus, crossing_potentials

__all__ = ["PUNCTUATION_BONUS", "PcfgParser", "merger_for"]

# A longer line, which is no sentence, is read in pieces as long as the longest sentence that grammars learn from: the chart
# takes n^2 m^2 + n^3 m steps and holds n^2 m numbers, so that short pieces make the steps of a line few.
_LONGEST, _PIECE = 200, 40
# Words from which compiled loops, which take a while to load, save more time than that.
_COMPILED_WORDS = 200
# Numbers of a batch's chart that are held at a time.
_NUMBERS = 1 << 26

PUNCTUATION_BONUS = {"comma": 2.0, "colon": 2.0, "open": 2.0, "close": 2.0, "dash": 2.0, "hyphen": -1.0}
"""What a grammar that was never tuned makes of punctuation, in nats a constituent that crosses it."""


def merger_for(device: torch.device) -> Merger | None:
    """Return the kernels that sum over splits on a device; None: plain PyTorch."""
    if device.type == "cpu" and numba_available():
        from ordtool.parsing.pcfg.kernels_numba import NumbaMerger

        return NumbaMerger()
    if device.type != "cuda":
        return None
    try:
        from ordtool.parsing.pcfg.kernels_triton import TritonMerger
    except ImportError:
        return None
    return TritonMerger()


class PcfgParser:
    """A grammar that is ready to parse.

    It has the attributes of `DistanceModel`, so that both can be asked in the same way and vote together. It has one
    layer, its distances are 1 / depth in its best tree (`chart_distances`), and their unbiased tree is that tree.

    Attributes:
        vocabulary: How words are looked up.
        layers: 1.
        tree_config: The unbiased builder; punctuation counts before there are distances.
        matmul_dtype: Element type of products with the rules; None: float32, as all the rest.
        punctuation_bonus: Nats that each constituent loses for each punctuation of a kind that it crosses.
    """

    layers = 1
    has_posteriors: Literal[True] = True
    tree_config = TreeConfig(builder="unbiased")

    def __init__(
        self,
        model: PcfgModel,
        vocabulary: Vocabulary,
        punctuation_bonus: Mapping[str, float],
        matmul_dtype: torch.dtype | None = None,
    ) -> None:
        if model.config.vocab_size != len(vocabulary.tokens):
            raise ValueError(f"{model.config.vocab_size} word vectors, {len(vocabulary.tokens)} words")
        self.vocabulary = vocabulary
        self.matmul_dtype = matmul_dtype
        self.punctuation_bonus = dict(punctuation_bonus)
        self._model = model
        self._merger: Merger | None = None
        self._compiled = False
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Compute the rules anew, of weights that have changed."""
        grammar, dtype = self._model.grammar(), self.matmul_dtype or torch.float32
        self._grammar = Grammar(
            grammar.root,
            grammar.nonterminal_children.to(dtype).contiguous(),
            grammar.preterminal_children.to(dtype).contiguous(),
        )
        self._emission = self._model.emission_vectors()

    @classmethod
    def from_parts(
        cls,
        config: dict[str, Any],
        tensors: dict[str, Tensor],
        vocabulary: Vocabulary,
        device: torch.device | str = "cpu",
        matmul_dtype: torch.dtype | None = None,
    ) -> PcfgParser:
        """Make a parser of what a model folder holds.

        Raises:
            KeyError: For a size that the configuration lacks.
            ValueError: For parts that don't fit each other.
        """
        shape = PcfgConfig(**{field.name: int(config[field.name]) for field in fields(PcfgConfig)})
        model = PcfgModel(shape).eval()
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            raise ValueError(" ".join(str(error).split())) from None
        bonus = current_keys(config).get("parse_punctuation_bonus")
        weights = PUNCTUATION_BONUS if bonus is None else check_punctuation_bonus(bonus)
        return cls(model.to(device), vocabulary, weights, matmul_dtype)

    def distances(
        self,
        sentences: Sequence[Sequence[int]],
        depth: int | None = None,
        punctuation: Sequence[np.ndarray] | None = None,
        *,
        compiled: bool = False,
    ) -> list[np.ndarray]:
        """Find the best trees.

        A line of over 200 words is read in pieces of 40 that are joined from the right: its time grows with its words.

        Args:
            sentences: Ids of the words of each sentence, one at least.
            depth: Not looked at: there is one layer.
            punctuation: What stands between the words of each, `(words + 1,)`, see `punctuation_between`; None: nothing.
            compiled: Not looked at.

        Returns:
            For each sentence its distances, `(1, words)`.
        """
        if punctuation is None:
            punctuation = [np.zeros(len(sentence) + 1, dtype=np.uint16) for sentence in sentences]
        pieces = [list(range(0, len(s), _PIECE if len(s) > _LONGEST else len(s))) for s in sentences]
        parts: list[Sequence[int]] = []
        between: list[np.ndarray] = []
        for sentence, bits, starts in zip(sentences, punctuation, pieces, strict=True):
            size = _PIECE if len(starts) > 1 else len(sentence)
            parts += [sentence[start : start + size] for start in starts]
            between += [bits[start : start + size + 1] for start in starts]
        found = iter(best_distances(self.posteriors(parts, between)))
        return [join_pieces([next(found) for _ in starts])[None] for starts in pieces]

    def posteriors(
        self, sentences: Sequence[Sequence[int]], punctuation: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        """Return the probability of each span, `(words, words + 1)` a sentence; see `span_posteriors`."""
        tables: list[np.ndarray] = [np.zeros((len(s), len(s) + 1), dtype=np.float32) for s in sentences]
        device = self._model.words.device
        if not self._compiled and (device.type == "cuda" or sum(map(len, sentences)) >= _COMPILED_WORDS):
            self._merger, self._compiled = merger_for(device), True
        for length, group in _by_length(sentences):
            if length < 2:
                continue
            each = span_count(length) * self._model.config.num_nonterminals * 6
            count = max(1, _NUMBERS // each)
            for first in range(0, len(group), count):
                batch = group[first : first + count]
                ids = np.array([sentences[k] for k in batch], dtype=np.int64)
                potentials = np.stack(
                    [crossing_potentials(punctuation[k], self.punctuation_bonus) for k in batch]
                )
                for k, table in zip(batch, self._read(ids, potentials), strict=True):
                    tables[k] = table
        return tables

    @torch.no_grad()
    def _read(self, ids: np.ndarray, potentials: np.ndarray) -> np.ndarray:
        device = self._model.words.device
        words = self._model.word_scores(torch.from_numpy(ids).to(device), *self._emission)
        known = torch.from_numpy(potentials).to(device) if potentials.any() else None
        found: np.ndarray = span_posteriors(words, self._grammar, known, self._merger).cpu().numpy()
        return found


def _by_length(items: Sequence[Sized]) -> Iterator[tuple[int, list[int]]]:
    """Yield each length with the numbers of the items that have it."""
    groups: dict[int, list[int]] = defaultdict(list)
    for k, item in enumerate(items):
        groups[len(item)].append(k)
    yield from groups.items()
