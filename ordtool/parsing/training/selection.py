"""Which layers and which builder make the best trees? Asked of a treebank that is named, never of a test set.

Which layer carries syntax differs from run to run, so it has to be found each time: `score_settings` scores
layers, mixtures of layers and builders on gold trees, and `choose_settings` writes the best into a model's
configuration together with the name of the treebank.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ordtool.batching import batches_by_length
from ordtool.errors import OrdtoolError
from ordtool.parsing.onlstm.directions import BidirectionalModel
from ordtool.parsing.onlstm.inference import COMPILED_FROM, DistanceModel
from ordtool.parsing.onlstm.model import OnlstmForCausalLM
from ordtool.parsing.onlstm.tokenizer import OnlstmTokenizer
from ordtool.parsing.text.vocabulary import Vocabulary
from ordtool.parsing.trees.builders import build_spans, mix_distances
from ordtool.parsing.trees.config import DISTANCES, TreeConfig
from ordtool.parsing.trees.punctuation import punctuation_between
from ordtool.parsing.trees.scoring import score_trees
from ordtool.parsing.trees.treebank import Tree

__all__ = ["candidate_settings", "choose_settings", "sample_trees", "score_settings"]

BATCH_TOKENS = 4096
RIGHT_BRANCHING_BIASES = (0.05, 0.1, 0.15, 0.2, 0.3)
# Settings that are worth trying with every bias.
_FINALISTS = 3
# Kinds of punctuation that are weighed together, and the weights that are tried, one kind after the other; a
# hyphen holds the words on its sides together.
PUNCTUATION_STEPS: tuple[tuple[tuple[str, ...], tuple[float, ...]], ...] = (
    (("comma",), (1.0, 2.0, 3.0, 4.0)),
    (("open", "close"), (1.0, 2.0, 3.0)),
    (("colon",), (1.0, 2.0, 4.0)),
    (("dash",), (1.0, 2.0, 4.0)),
    (("hyphen",), (-1.0, -3.0)),
    (("quote",), (0.5, 1.0)),
    (("stop",), (1.0, 2.0)),
    (("other",), (1.0, 2.0)),
)


def candidate_settings(
    layers: int,
    builders: Sequence[str] = ("paper", "unbiased"),
    *,
    backward: int = 0,
    distances: Sequence[str] = ("forget",),
) -> list[TreeConfig]:
    """List the mixtures of layers that are tried, each with every builder and every distance.

    Every layer alone; every two neighbouring layers of a direction in three proportions; and of two directions every layer
    of one with every layer of the other, in equal shares.

    Args:
        layers: Number of layers, of both directions together.
        builders: Names of builders.
        backward: How many of the layers, the last ones, read from the right.
        distances: Of `forget` and `input`.
    """
    forward = layers - backward
    shares = [{layer: 1.0} for layer in range(layers)]
    neighbours = [lower for lower in range(layers - 1) if lower + 1 != forward]
    shares += [{low: share, low + 1: 1 - share} for low in neighbours for share in (0.25, 0.5, 0.75)]
    if forward:
        shares += [{k: 0.5, j: 0.5} for k in range(forward) for j in range(forward, layers)]
    mixtures = [tuple(chosen.get(k, 0.0) for k in range(layers)) for chosen in shares]
    return [TreeConfig(m, builder, distance=d) for d in distances for m in mixtures for builder in builders]


def sample_trees(trees: Iterable[Tree], count: int, seed: int = 0) -> list[Tree]:
    """Draw at most `count` trees, in their order."""
    pool = list(trees)
    if len(pool) <= count:
        return pool
    chosen = np.random.default_rng(seed).permutation(len(pool))[:count]
    return [pool[k] for k in sorted(chosen)]


def score_settings(
    model: OnlstmForCausalLM,
    tokenizer: OnlstmTokenizer,
    trees: Sequence[Tree],
    settings: Sequence[TreeConfig],
    *backward: OnlstmForCausalLM,
) -> dict[TreeConfig, float]:
    """Sentence F1 in percent of each setting, by the default protocol.

    The model reads the words of the gold trees; their punctuation counts as far as a setting gives it weight.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        trees: A treebank.
        settings: Ways from distances to trees.
        *backward: The model that reads from the right, if there is one beside it.

    Raises:
        OrdtoolError: No tree has two words.
    """
    gates = sorted({setting.distance for setting in settings})
    return _Measured.of(_reader(model, tokenizer, *backward), trees, gates).score(settings)


@dataclass(frozen=True, slots=True)
class _Measured:
    """Gold trees with what a model makes of their words, so that many settings can be tried on them."""

    gold: list[Tree]
    kept: list[list[int]]
    distances: dict[str, list[np.ndarray]]
    punctuation: list[np.ndarray]

    @classmethod
    def of(
        cls,
        reader: DistanceModel | BidirectionalModel,
        trees: Sequence[Tree],
        gates: Sequence[str] = ("forget",),
    ) -> _Measured:
        pairs = [(tree, _words(tree, reader.vocabulary)) for tree in trees]
        pairs = [(tree, words) for tree, words in pairs if len(words) > 1]
        if not pairs:
            raise OrdtoolError(
                "no tree of two words or more in the treebank", "name a folder of Penn-style trees"
            )
        sentences = [[tree.tokens[k] for k in words] for tree, words in pairs]
        return cls(
            [tree for tree, _ in pairs],
            [words for _, words in pairs],
            {gate: layer_distances(reader, sentences, gate) for gate in gates},
            [_punctuation(tree, words) for tree, words in pairs],
        )

    def score(self, settings: Sequence[TreeConfig]) -> dict[TreeConfig, float]:
        result = {}
        for setting in settings:
            predictions = []
            distances = self.distances[setting.distance]
            for kept, layers, punctuation in zip(self.kept, distances, self.punctuation, strict=True):
                mixed = mix_distances(layers, setting.layer_weights)
                spans = build_spans(setting.add_priors(mixed, punctuation), setting.builder)
                predictions.append([(kept[start], kept[end - 1] + 1) for start, end in spans])
            result[setting] = score_trees(predictions, self.gold, baselines=False)[0].sentence_f1
        return result


def _reader(
    model: OnlstmForCausalLM, tokenizer: OnlstmTokenizer, *backward: OnlstmForCausalLM
) -> DistanceModel | BidirectionalModel:
    """Return what a model, or two of them that read in two directions, measure with when they parse."""
    readers = [
        DistanceModel.from_parts(
            one.config.to_dict(), one.state_dict(), tokenizer.vocabulary, one.device, one.model.matmul_dtype
        )
        for one in (model, *backward)
    ]
    return BidirectionalModel(*readers) if backward else readers[0]


def _words(tree: Tree, vocabulary: Vocabulary) -> list[int]:
    """Positions of the tokens that the model reads."""
    if not vocabulary.drop_punctuation:
        return list(range(len(tree.tokens)))
    tokens = zip(tree.tokens, tree.punctuation, strict=True)
    return [k for k, (token, is_mark) in enumerate(tokens) if not is_mark and vocabulary.keeps(token)]


def _punctuation(tree: Tree, kept: Sequence[int]) -> np.ndarray:
    """What stands between the words that the model reads."""
    words = set(kept)
    return punctuation_between(tree.tokens, [k not in words for k in range(len(tree.tokens))], tree.tags)


def layer_distances(
    reader: DistanceModel | BidirectionalModel, sentences: Sequence[Sequence[str]], gate: str
) -> list[np.ndarray]:
    """Distances of each sentence, `(layers, words)`, computed in batches of similar length."""
    ids = reader.vocabulary.encode_words(sentences)
    lengths = [len(sentence) for sentence in ids]
    compiled = sum(lengths) >= COMPILED_FROM
    result = [np.empty((reader.layers, 0))] * len(ids)
    for batch in batches_by_length(lengths, tokens=BATCH_TOKENS):
        measured = reader.distances([ids[k] for k in batch], compiled=compiled, gate=gate)
        for k, found in zip(batch, measured, strict=True):
            result[k] = found.astype(np.float64)
    return result


def choose_settings(
    model: OnlstmForCausalLM,
    tokenizer: OnlstmTokenizer,
    trees: Sequence[Tree],
    name: str,
    *backward: OnlstmForCausalLM,
) -> dict[TreeConfig, float]:
    """Put the best setting on `trees` into the model's configuration.

    Args:
        model: Its `config` gets what `TreeConfig.to_model` gives, and `parse_tuned_on`.
        tokenizer: The model's.
        trees: A development treebank.
        name: What it is called; kept in `config.parse_tuned_on` with its size and the score.
        *backward: The model that reads from the right, if there is one beside it.

    Returns:
        The score of every setting, best first.
    """
    reader = _reader(model, tokenizer, *backward)
    other = sum(one.config.num_hidden_layers for one in backward)
    settings = candidate_settings(reader.layers, backward=other, distances=DISTANCES)
    measured = _Measured.of(reader, trees, DISTANCES)
    scores = measured.score(settings)
    finalists = sorted(settings, key=lambda setting: -scores[setting])[:_FINALISTS]
    scores |= measured.score(
        [
            replace(setting, right_branching_bias=bias)
            for setting in finalists
            for bias in RIGHT_BRANCHING_BIASES
        ]
    )
    if tokenizer.drop_punctuation:
        _try_punctuation(measured, scores)
    best = max(scores, key=lambda setting: scores[setting])
    weights = list(dict.fromkeys(setting.layer_weights for setting in (best, *finalists)))
    biases = sorted({0.0, *RIGHT_BRANCHING_BIASES})
    scores |= measured.score(
        [
            replace(best, layer_weights=w, builder="mixed", right_branching_bias=bias)
            for w in weights
            for bias in biases
        ]
    )
    ranked = dict(sorted(scores.items(), key=lambda item: -item[1]))
    best = next(iter(ranked))
    for key, value in best.to_model().items():
        setattr(model.config, key, value)
    model.config.parse_tuned_on = f"{name} ({len(trees):,} sentences): sentence F1 {ranked[best]:.1f}"
    return ranked


def _try_punctuation(measured: _Measured, scores: dict[TreeConfig, float]) -> None:
    """Add to `scores` weights of one kind of punctuation after another, each on top of the best so far."""
    for kinds, weights in PUNCTUATION_STEPS:
        best = max(scores, key=lambda setting: scores[setting])
        tried = [
            replace(best, punctuation_bonus=(*best.punctuation_bonus, *((kind, w) for kind in kinds)))
            for w in weights
        ]
        scores |= measured.score(tried)
