"""Which layers and which builder make the best trees? Asked of a treebank that is named, never of a test set.

Which layer carries syntax differs from run to run, so it has to be found each time: `score_settings` scores
layers, mixtures of layers and builders on gold trees, and `choose_settings` writes the best into a model's
configuration together with the name of the treebank.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ordtool.batching import batches_by_length
from ordtool.errors import OrdtoolError
from ordtool.parsing.onlstm.model import OnlstmForCausalLM
from ordtool.parsing.onlstm.tokenizer import OnlstmTokenizer
from ordtool.parsing.trees.builders import build_spans, mix_distances
from ordtool.parsing.trees.config import TreeConfig
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


def candidate_settings(layers: int, builders: Sequence[str] = ("paper", "unbiased")) -> list[TreeConfig]:
    """Every layer alone, and every two neighbouring layers in three proportions, with every builder."""
    mixtures = [tuple(float(k == layer) for k in range(layers)) for layer in range(layers)]
    for lower in range(layers - 1):
        for share in (0.25, 0.5, 0.75):
            mixture = [0.0] * layers
            mixture[lower], mixture[lower + 1] = share, 1 - share
            mixtures.append(tuple(mixture))
    return [TreeConfig(mixture, builder) for mixture in mixtures for builder in builders]


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
) -> dict[TreeConfig, float]:
    """Sentence F1 in percent of each setting, by the default protocol.

    The model reads the words of the gold trees; their punctuation counts as far as a setting gives it weight.

    Raises:
        OrdtoolError: No tree has two words.
    """
    return _Measured.of(model, tokenizer, trees).score(settings)


@dataclass(frozen=True, slots=True)
class _Measured:
    """Gold trees with what a model makes of their words, so that many settings can be tried on them."""

    gold: list[Tree]
    kept: list[list[int]]
    distances: list[np.ndarray]
    punctuation: list[np.ndarray]

    @classmethod
    def of(cls, model: OnlstmForCausalLM, tokenizer: OnlstmTokenizer, trees: Sequence[Tree]) -> _Measured:
        pairs = [(tree, _words(tree, tokenizer)) for tree in trees]
        pairs = [(tree, words) for tree, words in pairs if len(words) > 1]
        if not pairs:
            raise OrdtoolError(
                "no tree of two words or more in the treebank", "name a folder of Penn-style trees"
            )
        sentences = [[tree.tokens[k] for k in words] for tree, words in pairs]
        return cls(
            [tree for tree, _ in pairs],
            [words for _, words in pairs],
            layer_distances(model, tokenizer, sentences),
            [_punctuation(tree, words) for tree, words in pairs],
        )

    def score(self, settings: Sequence[TreeConfig]) -> dict[TreeConfig, float]:
        result = {}
        for setting in settings:
            predictions = []
            for kept, layers, punctuation in zip(self.kept, self.distances, self.punctuation, strict=True):
                mixed = mix_distances(layers, setting.layer_weights)
                spans = build_spans(setting.add_priors(mixed, punctuation), setting.builder)
                predictions.append([(kept[start], kept[end - 1] + 1) for start, end in spans])
            result[setting] = score_trees(predictions, self.gold, baselines=False)[0].sentence_f1
        return result


def _words(tree: Tree, tokenizer: OnlstmTokenizer) -> list[int]:
    """Positions of the tokens that the model reads."""
    if not tokenizer.drop_punctuation:
        return list(range(len(tree.tokens)))
    tokens = zip(tree.tokens, tree.punctuation, strict=True)
    return [k for k, (token, is_mark) in enumerate(tokens) if not is_mark and tokenizer.keeps(token)]


def _punctuation(tree: Tree, kept: Sequence[int]) -> np.ndarray:
    """What stands between the words that the model reads."""
    words = set(kept)
    return punctuation_between(tree.tokens, [k not in words for k in range(len(tree.tokens))], tree.tags)


def layer_distances(
    model: OnlstmForCausalLM, tokenizer: OnlstmTokenizer, sentences: Sequence[Sequence[str]]
) -> list[np.ndarray]:
    """Distances of each sentence, `(layers, words)`, computed in batches of similar length."""
    ids = tokenizer.encode_words(sentences)
    result = [np.empty((model.config.num_hidden_layers, 0))] * len(ids)
    device = next(model.parameters()).device
    for batch in batches_by_length([len(sentence) for sentence in ids], tokens=BATCH_TOKENS):
        lengths = torch.tensor([len(ids[k]) for k in batch])
        padded = torch.zeros(len(batch), int(lengths.max()), dtype=torch.long)
        for row, k in enumerate(batch):
            padded[row, : len(ids[k])] = torch.tensor(ids[k])
        measured = model.syntactic_distances(padded.to(device), lengths.to(device)).cpu().numpy()
        for row, k in enumerate(batch):
            result[k] = measured[:, row, : len(ids[k])].astype(np.float64)
    return result


def choose_settings(
    model: OnlstmForCausalLM, tokenizer: OnlstmTokenizer, trees: Sequence[Tree], name: str
) -> dict[TreeConfig, float]:
    """Put the best setting on `trees` into the model's configuration.

    Args:
        model: Its `config` gets what `TreeConfig.to_model` gives, and `parse_tuned_on`.
        tokenizer: The model's.
        trees: A development treebank.
        name: What it is called; kept in `config.parse_tuned_on` with its size and the score.

    Returns:
        The score of every setting, best first.
    """
    settings = candidate_settings(model.config.num_hidden_layers)
    measured = _Measured.of(model, tokenizer, trees)
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
