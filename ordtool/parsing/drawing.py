"""Trees of sentences by the models at hand: from distances, from the probabilities of spans, or with labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ordtool.errors import UsageError
from ordtool.parsing.text.tokenize import Sentence, Token
from ordtool.parsing.trees.builders import build_trees, mean_distances, mix_distances, needs_chart
from ordtool.parsing.trees.chart import CHART_LIMIT, Span, best_distances, chart_trees
from ordtool.parsing.voting import SOFT_LIMIT, guess_posteriors, mean_tables
from ordtool.progress import Progress

if TYPE_CHECKING:
    from ordtool.parsing.config import ParseConfig
    from ordtool.parsing.loading import TreeModel
    from ordtool.parsing.onlstm.directions import BidirectionalModel
    from ordtool.parsing.onlstm.inference import DistanceModel
    from ordtool.parsing.trees.config import TreeConfig
    from ordtool.parsing.trees.treebank import Constituent

__all__ = ["DrawnTree", "PreparedSentence", "TreeDrawer", "as_onlstm"]


@dataclass(frozen=True, slots=True)
class PreparedSentence:
    """A sentence on its way: its tokens, which of them are left out, the words that are read, and what is between them."""

    sentence: Sentence
    tokens: tuple[Token, ...]
    dropped: list[bool]
    words: list[str]
    punctuation: np.ndarray


@dataclass(frozen=True, slots=True)
class DrawnTree:
    """What was made of a sentence's words.

    Attributes:
        distances: One a word.
        spans: Of the tree.
        posteriors: The probabilities of all spans, if wanted.
        constituents: The tree's nodes with their labels, if it has any.
        tags: Parts of speech, if the model knows them.
    """

    distances: np.ndarray
    spans: list[Span]
    posteriors: np.ndarray | None = None
    constituents: list[Constituent] | None = None
    tags: list[str] | None = None


class TreeDrawer:
    """Models that draw trees over the words of sentences, each by itself or together.

    Args:
        config: How to parse.
        models: The models that `config` names.
        progress: Warned of sentences too long for the chart.
    """

    def __init__(self, config: ParseConfig, models: Sequence[TreeModel], progress: Progress) -> None:
        self.config, self._models, self._progress = config, models, progress
        self._tree_configs = [_tree_config(config, model) for model in models]
        self._flat = self._draws_flat_trees()
        self._warned_of_length = False

    def _draws_flat_trees(self) -> bool:
        """Whether trees are those of a span scorer that may leave spans out: it is alone, and nobody asks for a builder."""
        from ordtool.parsing.spans.inference import SpanParser

        asked = self.config.binary or self.config.builder or self.config.right_branching_bias
        alone = self._models[0] if len(self._models) == 1 else None
        return isinstance(alone, SpanParser) and alone.flat and not asked

    def draw(
        self, jobs: list[PreparedSentence], ids: list[list[list[int]]], compiled: bool
    ) -> list[DrawnTree]:
        """Return the trees of a batch, over its words."""
        if self._flat:
            return self._draw_flat(jobs, ids[0])
        soft = self.config.posteriors or (self.config.vote == "posteriors" and len(self._models) > 1)
        if soft and max(len(job.words) for job in jobs) <= SOFT_LIMIT:
            return self._draw_softly(jobs, ids, compiled)
        distances = self._measure(jobs, ids, compiled)
        trees = self._build(jobs, distances)
        return [
            DrawnTree(mean_distances(by_model), spans)
            for by_model, spans in zip(distances, trees, strict=True)
        ]

    def _draw_flat(self, jobs: list[PreparedSentence], ids: list[list[int]]) -> list[DrawnTree]:
        """As `draw`, with labels, by a span scorer that leaves out what is less likely than not."""
        from ordtool.parsing.spans.inference import SpanParser

        [model] = self._models
        assert isinstance(model, SpanParser)
        punctuation = [job.punctuation for job in jobs]
        wanted = self.config.posteriors and max(len(job.words) for job in jobs) <= SOFT_LIMIT
        tables = model.posteriors(ids, punctuation) if wanted else [None] * len(jobs)
        return [
            DrawnTree(tree.distances, tree.spans, table, tree.constituents, tree.tags)
            for tree, table in zip(model.trees(ids, punctuation), tables, strict=True)
        ]

    def _draw_softly(
        self, jobs: list[PreparedSentence], ids: list[list[list[int]]], compiled: bool
    ) -> list[DrawnTree]:
        """As `draw`, with what each model thinks of every span."""
        punctuation = [job.punctuation for job in jobs]
        tables = [
            model.posteriors(sentences, punctuation) if model.has_posteriors is True else None
            for model, sentences in zip(self._models, ids, strict=True)
        ]
        distances = self._measure(jobs, ids, compiled, tables)
        by_model = [
            found or guess_posteriors([own[k] for own in distances], punctuation, config)
            for k, (found, config) in enumerate(zip(tables, self._tree_configs, strict=True))
        ]
        means = mean_tables(by_model, self.config.weights)
        if self.config.vote == "posteriors" and len(self._models) > 1:
            trees = chart_trees(means)
        else:
            trees = self._build(jobs, distances)
        drawn = zip(distances, trees, means, strict=True)
        return [
            DrawnTree(mean_distances(own), spans, mean if self.config.posteriors else None)
            for own, spans, mean in drawn
        ]

    def _measure(
        self,
        jobs: list[PreparedSentence],
        ids: list[list[list[int]]],
        compiled: bool,
        tables: Sequence[list[np.ndarray] | None] = (),
    ) -> list[list[np.ndarray]]:
        """Return the distances of each sentence by each model, its layers mixed.

        Args:
            jobs: Sentences.
            ids: Their words, by model.
            compiled: Take compiled loops.
            tables: Of each model the posteriors of each sentence, where they are known: the distances are theirs.
        """
        distances: list[list[np.ndarray]] = [[] for _ in jobs]
        punctuation = [job.punctuation for job in jobs]
        for number, (model, config, sentences) in enumerate(
            zip(self._models, self._tree_configs, ids, strict=True)
        ):
            known = tables[number] if tables else None
            if known is not None:
                for by_model, own in zip(distances, best_distances(known), strict=True):
                    by_model.append(own)
                continue
            weights = config.layer_weights
            depth = max(k + 1 for k, weight in enumerate(weights) if weight)
            if config.distance == "input":
                measured = as_onlstm(model).distances(sentences, depth, compiled=compiled, gate="input")
            else:
                measured = model.distances(sentences, depth, punctuation, compiled=compiled)
            for by_model, layers in zip(distances, measured, strict=True):
                by_model.append(mix_distances(layers, weights[:depth]))
        return distances

    def _build(self, jobs: list[PreparedSentence], distances: list[list[np.ndarray]]) -> list[list[Span]]:
        """Return the trees of distances with what is known beforehand about writing added to them."""
        builders = [config.builder for config in self._tree_configs]
        with_priors = [
            [
                config.add_priors(mixed, job.punctuation)
                for mixed, config in zip(by_model, self._tree_configs, strict=True)
            ]
            for job, by_model in zip(jobs, distances, strict=True)
        ]
        if needs_chart(builders):
            self._warn_of_length(jobs)
        return build_trees(with_priors, builders)

    def _warn_of_length(self, jobs: list[PreparedSentence]) -> None:
        """Say it once when a sentence is too long to be put together from the best of all spans."""
        for job in jobs:
            if len(job.words) > CHART_LIMIT and not self._warned_of_length:
                where = f"{job.sentence.where}: " if job.sentence.where else ""
                self._progress.warn(
                    f"{where}a sentence of {len(job.words):,} words is too long for the chart ({CHART_LIMIT:,} at most);"
                    " such sentences get the tree of the mean distances"
                )
                self._warned_of_length = True


def _tree_config(config: ParseConfig, model: TreeModel) -> TreeConfig:
    """Return how a model's distances make trees: as its configuration says, where `config` says nothing."""
    changes: dict[str, Any] = {}
    if config.layer is not None:
        changes["layer_weights"] = _layer_weights(config.layer, model.layers)
    if config.distance is not None:
        if config.distance == "input":
            as_onlstm(model)
        changes["distance"] = config.distance
    if config.builder is not None:
        changes["builder"] = config.builder
    if config.right_branching_bias is not None:
        changes["right_branching_bias"] = config.right_branching_bias
    return replace(model.tree_config, **changes)


def as_onlstm(model: TreeModel) -> DistanceModel | BidirectionalModel:
    """Return a model that has master gates.

    Raises:
        UsageError: If it is of another kind.
    """
    from ordtool.parsing.onlstm.directions import BidirectionalModel
    from ordtool.parsing.onlstm.inference import DistanceModel
    from ordtool.parsing.spans.inference import SpanParser

    if not isinstance(model, DistanceModel | BidirectionalModel):
        kind = "a span scorer" if isinstance(model, SpanParser) else "a grammar"
        raise UsageError(f"{kind} has no master gates; an ON-LSTM has", "for example -m english-onlstm")
    return model


_LAYER = re.compile(r"(\d+)(?::(-?\d*\.?\d+))?")


def _layer_weights(layer: str, layers: int) -> tuple[float, ...]:
    """Read `2`, `2,3` or `2:0.25,3:0.75` into a weight a layer."""
    weights = [0.0] * layers
    for part in layer.split(","):
        match = _LAYER.fullmatch(part.strip())
        if match is None:
            raise UsageError(f"`layer` {layer!r} is no layer", "for example 2, or 2,3, or 2:0.25,3:0.75")
        number = int(match[1])
        if not 1 <= number <= layers:
            hint = "an ON-LSTM has several: -m english-onlstm" if layers == 1 else None
            raise UsageError(f"there is no layer {number}: the model has layers 1 to {layers}", hint)
        weights[number - 1] = float(match[2] or 1.0)
    if not any(weights):
        raise UsageError(f"`layer` {layer!r} gives no layer any weight")
    return tuple(weights)
