"""Text to trees: the engine of `ordtool parse`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, Unpack, overload

import numpy as np

from ordtool.arguments import as_many, as_strings, is_one
from ordtool.batching import batches_by_length, windows
from ordtool.errors import UsageError, close_match_hint
from ordtool.parsing.result import Parse
from ordtool.parsing.text.chinese import is_chinese
from ordtool.parsing.text.tokenize import (
    TOKEN_KINDS,
    Sentence,
    Token,
    tokenize,
    whitespace_tokens,
)
from ordtool.parsing.trees.builders import BUILDERS, build_trees, mean_distances, mix_distances, needs_chart
from ordtool.parsing.trees.chart import CHART_LIMIT, Span, best_distances, chart_trees
from ordtool.parsing.trees.config import DISTANCES
from ordtool.parsing.trees.labels import label_tokens
from ordtool.parsing.trees.punctuation import attach_punctuation, is_punctuation, punctuation_between
from ordtool.parsing.voting import (
    SOFT_LIMIT,
    VOTES,
    check_weights,
    guess_posteriors,
    mean_tables,
    probable_spans,
)
from ordtool.progress import SILENT, Progress

if TYPE_CHECKING:
    from ordtool.parsing.loading import TreeModel
    from ordtool.parsing.onlstm.gates import Gates
    from ordtool.parsing.onlstm.inference import DistanceModel
    from ordtool.parsing.trees.config import TreeConfig
    from ordtool.parsing.trees.treebank import Constituent

__all__ = ["Parse", "ParseConfig", "Parser", "Sentence", "parse"]

# Sentences read ahead to be sorted by length: few at first, so that the first tree comes soon.
_FIRST_WINDOW, _LARGEST_WINDOW = 32, 4096
# Words of a window, at most: what bounds memory when sentences are long.
_WINDOW_WORDS = 1 << 18
# Padded words of a batch, at most.
_BATCH_WORDS = 1 << 13
# Words of a window from which numba's loops, which take a while to load, save more time than that.
_NUMBA_WORDS = 20_000


@dataclass(frozen=True, slots=True)
class ParseConfig:
    """How to parse.

    Attributes:
        model: A model folder or name, or several, which vote.
        layer: Layers whose distances make trees: `2`, `2,3` (equal shares), `2:0.25,3:0.75`; None: each model's own.
        distance: `forget` or `input`: the master gate of an ON-LSTM whose distances make trees; None: each model's own.
        builder: `paper`, `unbiased`, `chart` or `mixed`; None: each model's own. With several models, `chart` and `mixed`
            add up their span scores, and the others build a tree a model and let the trees vote.
        right_branching_bias: How far trees lean to the right where distances leave it open, see `add_right_branching_bias`;
            None: each model's own.
        vote: How several models agree: `trees`, the tree with most spans of theirs, or `posteriors`, the tree with the
            largest sum of what each thinks of its spans.
        weights: What each model counts, in `posteriors`; None: all the same.
        posteriors: Give the probabilities of spans as well, the models' mean.
        binary: Draw a binary tree, without labels, also where the model would leave out spans.
        punctuation: Let punctuation say where phrases end, as far as the models know how; see
            `ordtool.parsing.trees.punctuation`.
        tokens: `words`, `chars`, `jieba` or `whitespace`; None: the model's own.
        batch_size: Sentences a batch, at most. 64 batches are read ahead to be sorted by length; 1 reads nothing ahead.
        device: As in `ordtool.runtime.resolve_device`.
        dtype: Of matrix products, as in `ordtool.runtime.resolve_dtype`.
    """

    model: str | Sequence[str] = "english"
    layer: str | None = None
    distance: str | None = None
    builder: str | None = None
    right_branching_bias: float | None = None
    vote: str = "trees"
    weights: Sequence[float] | None = None
    posteriors: bool = False
    binary: bool = False
    punctuation: bool = True
    tokens: str | None = None
    batch_size: int = 128
    device: str = "auto"
    dtype: str = "auto"

    def __post_init__(self) -> None:
        """Check what can be checked without the models.

        Raises:
            UsageError: For no model, an unknown distance, builder, vote or kind of tokens, or other than a weight a model.
        """
        if not self.models:
            raise UsageError("no model was named")
        if self.builder is not None and self.builder not in BUILDERS:
            raise UsageError(f"unknown builder {self.builder!r}", close_match_hint(self.builder, BUILDERS))
        if self.distance is not None and self.distance not in DISTANCES:
            raise UsageError(
                f"unknown `distance` {self.distance!r}", close_match_hint(self.distance, DISTANCES)
            )
        if self.vote not in VOTES:
            raise UsageError(f"unknown vote {self.vote!r}", close_match_hint(self.vote, VOTES))
        if self.weights is not None:
            check_weights(self.weights, len(self.models))
        kinds = (*TOKEN_KINDS, "whitespace")
        if self.tokens is not None and self.tokens not in kinds:
            raise UsageError(f"unknown tokens {self.tokens!r}", close_match_hint(self.tokens, kinds))

    @property
    def models(self) -> tuple[str, ...]:
        """The names of the models, one or several."""
        return as_strings(self.model)


class ParseOptions(TypedDict, total=False):
    """The fields of `ParseConfig`, as keywords of `parse`."""

    model: str | Sequence[str]
    layer: str | None
    distance: str | None
    builder: str | None
    right_branching_bias: float | None
    vote: str
    weights: Sequence[float] | None
    posteriors: bool
    binary: bool
    punctuation: bool
    tokens: str | None
    batch_size: int
    device: str
    dtype: str


class _Spoken(Protocol):
    """A sentence of spaCy: a `Doc`, or a `Span` of one."""

    @property
    def text(self) -> str: ...
    def __iter__(self) -> Iterator[Any]: ...


Parsable = str | Sentence | Sequence[str] | _Spoken


def as_sentence(given: Parsable) -> Sentence:
    """Return a sentence of a text, of tokens, or of spaCy's `Doc` or `Span`, whose tokens and tags it keeps.

    Raises:
        UsageError: If it is nothing of the kind.
    """
    if isinstance(given, Sentence):
        return given
    if is_one(given):
        return Sentence(str(given))
    sentence: Any = given
    try:
        tokens: list[Any] = list(sentence)
    except TypeError:
        tokens = [None]
    if all(isinstance(token, str) for token in tokens):
        starts = accumulate((len(token) + 1 for token in tokens), initial=0)
        placed = tuple(Token(token, k, k + len(token)) for token, k in zip(tokens, starts, strict=False))
        return Sentence(" ".join(tokens), placed)
    if not hasattr(sentence, "text") or not all(hasattr(token, "idx") for token in tokens):
        raise UsageError(
            f"a sentence can't be a {type(given).__name__}", "give a text, or a list of its tokens"
        )
    tokens = [token for token in tokens if not token.is_space]
    begin = sentence[0].idx if tokens else 0
    placed = tuple(Token(t.text, t.idx - begin, t.idx - begin + len(t.text)) for t in tokens)
    tags = tuple(token.tag_ for token in tokens)
    return Sentence(sentence.text, placed, tuple(t.is_punct for t in tokens), tags if any(tags) else None)


@overload
def parse(  # type: ignore[overload-overlap]
    sentences: str | Sentence,
    config: ParseConfig | None = None,
    *,
    progress: Progress = SILENT,
    **options: Unpack[ParseOptions],
) -> Parse: ...
@overload
def parse(
    sentences: Iterable[Parsable],
    config: ParseConfig | None = None,
    *,
    progress: Progress = SILENT,
    **options: Unpack[ParseOptions],
) -> Iterator[Parse]: ...
def parse(
    sentences: str | Sentence | Iterable[Parsable],
    config: ParseConfig | None = None,
    *,
    progress: Progress = SILENT,
    **options: Unpack[ParseOptions],
) -> Parse | Iterator[Parse]:
    """Parse one sentence, or many.

    Args:
        sentences: A text or a `Sentence`; or any number of them, of lists of tokens, or of spaCy's sentences
            (`doc.sents`), which are read in windows and held no longer than needed.
        config: How to parse.
        progress: Told how many sentences are done, and warned of sentences too long for the chart.
        **options: Fields of `ParseConfig`, instead of or on top of `config`.

    Returns:
        A result for one sentence; for many an iterator of them, in order. One without words has an empty tree.

    Raises:
        OrdtoolError: If a model can't be loaded.
        UsageError: For an unknown builder, layer or kind of tokens, or models that don't go together.

    Example:
        >>> parse("The children played in the garden.").tree
        '((The children) (played (in (the garden))) .)'
    """
    parser = Parser(replace(config or ParseConfig(), **options), progress)
    return parser.parse(sentences)


class Parser:
    """Models that are loaded once and parse many streams.

    Args:
        config: How to parse.
        progress: Told where a model comes from, if it must be fetched, and of the sentences that are done.
        compiled: Take compiled loops from the start, where there are any; else once a window makes up for their loading.
    """

    def __init__(
        self, config: ParseConfig | None = None, progress: Progress = SILENT, *, compiled: bool = False
    ) -> None:
        self.config = config or ParseConfig()
        self._progress = progress
        self._compiled_from = 0 if compiled else _NUMBA_WORDS
        self._models = _load_models(self.config, progress)
        self._tree_configs = [_tree_config(self.config, model) for model in self._models]
        self._flat = self._draws_flat_trees()
        self._check_vocabularies()
        vocabulary = self._models[0].vocabulary
        self._drops_punctuation = vocabulary.drop_punctuation
        self._token_kind = self.config.tokens or vocabulary.token_kind
        self._warned_of_length = self._warned_of_script = False

    def _draws_flat_trees(self) -> bool:
        """Whether trees are those of a span scorer that may leave spans out: it is alone, and nobody asks for a builder."""
        from ordtool.parsing.spans.inference import SpanParser

        asked = self.config.binary or self.config.builder or self.config.right_branching_bias
        alone = self._models[0] if len(self._models) == 1 else None
        return isinstance(alone, SpanParser) and alone.flat and not asked

    def _check_vocabularies(self) -> None:
        """Refuse models that read different tokens."""
        read = [(m.vocabulary.token_kind, m.vocabulary.drop_punctuation) for m in self._models]
        for name, tokens in zip(self.config.models, read, strict=True):
            if tokens != read[0]:
                raise UsageError(
                    f"{name} reads other tokens than {self.config.models[0]}, so they can't vote",
                    "take models that were trained on the same tokens, with punctuation or without",
                )

    @overload
    def parse(self, sentences: str | Sentence) -> Parse: ...  # type: ignore[overload-overlap]
    @overload
    def parse(self, sentences: Iterable[Parsable]) -> Iterator[Parse]: ...
    def parse(self, sentences: str | Sentence | Iterable[Parsable]) -> Parse | Iterator[Parse]:
        """Parse one sentence, or a stream of them; see `parse`."""
        stream = self._parse(map(as_sentence, as_many(sentences, Sentence)))
        return next(stream) if is_one(sentences, Sentence) else stream

    def gates(self, sentence: Parsable) -> Gates:
        """Return the master gates of every layer over a sentence, by the one model of this parser.

        Args:
            sentence: A text, its tokens, or a sentence of spaCy; what the model leaves out (punctuation) has no gates.

        Raises:
            UsageError: If there are several models, or the model is no ON-LSTM.
        """
        from ordtool.parsing.onlstm.gates import Gates

        if len(self._models) != 1:
            raise UsageError(f"gates are of one model, and here are {len(self._models)}")
        model = _onlstm(self._models[0])
        words = self._prepare(as_sentence(sentence)).words
        [ids] = model.vocabulary.encode_words([words])
        found = model.gates(ids)
        return Gates(words, [forget for forget, _ in found], [written for _, written in found])

    def parse_from(self, sentences: Iterable[Sentence], start: int) -> Iterator[Parse]:
        """Parse a stream as `parse` does, and yield the results from the one numbered `start` on, from 0.

        What is computed together has an influence on the last digits. So a window of sentences, in which the first one
        wanted is, is parsed as a whole, and the results are to the bit those of a run from the beginning.
        """
        return self._parse(sentences, start)

    def _parse(self, sentences: Iterable[Sentence], start: int = 0) -> Iterator[Parse]:
        stream = (self._prepare(sentence) for sentence in sentences)
        largest = _read_ahead(self.config.batch_size)
        first = min(_FIRST_WINDOW, largest)
        for window in windows(stream, largest, _WINDOW_WORDS, lambda job: len(job.tokens), first):
            if len(window) > start:
                yield from islice(self._parse_window(window), start, None)
            start = max(0, start - len(window))
            self._progress.advance(len(window))

    def _prepare(self, sentence: Sentence) -> _Job:
        tokens = sentence.tokens
        if tokens is None:
            self._warn_of_script(sentence.text)
            if self._token_kind == "whitespace":
                tokens = tuple(whitespace_tokens(sentence.text))
            else:
                tokens = tuple(tokenize(sentence.text, self._token_kind))  # type: ignore[arg-type]
        if not self._drops_punctuation:
            dropped = [False] * len(tokens)
        elif sentence.punctuation is not None:
            dropped = list(sentence.punctuation)
        else:
            dropped = [is_punctuation(token.text) for token in tokens]
        words = [token.text for token, drop in zip(tokens, dropped, strict=True) if not drop]
        return _Job(sentence, tokens, dropped, words, self._punctuation(sentence, tokens, dropped))

    def _punctuation(self, sentence: Sentence, tokens: Sequence[Token], dropped: list[bool]) -> np.ndarray:
        """What stands between the words, if that is to count."""
        if not self.config.punctuation or not any(dropped):
            return np.zeros(len(dropped) - sum(dropped) + 1, dtype=np.uint16)
        # Tokens that were given have the offsets of a text made of them, which say nothing about what touches what.
        offsets = None if sentence.tokens else [(token.start, token.end) for token in tokens]
        return punctuation_between([token.text for token in tokens], dropped, sentence.tags, offsets)

    def _parse_window(self, window: list[_Job]) -> Iterator[Parse]:
        """Parse a window in batches of like lengths, and yield its results in order."""
        results: list[_Drawn] = [_Drawn(np.zeros(0), []) for _ in window]
        lengths = [len(job.words) for job in window]
        compiled = sum(lengths) >= self._compiled_from
        ids = [model.vocabulary.encode_words(job.words for job in window) for model in self._models]
        for batch in batches_by_length(lengths, tokens=_BATCH_WORDS, size=self.config.batch_size):
            jobs = [window[k] for k in batch]
            drawn = self._draw(jobs, [[table[k] for k in batch] for table in ids], compiled)
            for k, tree in zip(batch, drawn, strict=True):
                results[k] = tree
        for job, tree in zip(window, results, strict=True):
            yield _result(job, tree)

    def _draw(self, jobs: list[_Job], ids: list[list[list[int]]], compiled: bool) -> list[_Drawn]:
        """Return the trees of a batch, over its words."""
        if self._flat:
            return self._draw_flat(jobs, ids[0])
        soft = self.config.posteriors or (self.config.vote == "posteriors" and len(self._models) > 1)
        if soft and max(len(job.words) for job in jobs) <= SOFT_LIMIT:
            return self._draw_softly(jobs, ids, compiled)
        distances = self._measure(jobs, ids, compiled)
        trees = self._build(jobs, distances)
        return [
            _Drawn(mean_distances(by_model), spans) for by_model, spans in zip(distances, trees, strict=True)
        ]

    def _draw_flat(self, jobs: list[_Job], ids: list[list[int]]) -> list[_Drawn]:
        """As `_draw`, with labels, by a span scorer that leaves out what is less likely than not."""
        from ordtool.parsing.spans.inference import SpanParser

        [model] = self._models
        assert isinstance(model, SpanParser)
        punctuation = [job.punctuation for job in jobs]
        wanted = self.config.posteriors and max(len(job.words) for job in jobs) <= SOFT_LIMIT
        tables = model.posteriors(ids, punctuation) if wanted else [None] * len(jobs)
        return [
            _Drawn(tree.distances, tree.spans, table, tree.constituents, tree.tags)
            for tree, table in zip(model.trees(ids, punctuation), tables, strict=True)
        ]

    def _draw_softly(self, jobs: list[_Job], ids: list[list[list[int]]], compiled: bool) -> list[_Drawn]:
        """As `_draw`, with what each model thinks of every span."""
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
            _Drawn(mean_distances(own), spans, mean if self.config.posteriors else None)
            for own, spans, mean in drawn
        ]

    def _measure(
        self,
        jobs: list[_Job],
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
                measured = _onlstm(model).distances(sentences, depth, compiled=compiled, gate="input")
            else:
                measured = model.distances(sentences, depth, punctuation, compiled=compiled)
            for by_model, layers in zip(distances, measured, strict=True):
                by_model.append(mix_distances(layers, weights[:depth]))
        return distances

    def _build(self, jobs: list[_Job], distances: list[list[np.ndarray]]) -> list[list[Span]]:
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

    def _warn_of_script(self, text: str) -> None:
        """Say it once when Chinese text is to be cut at spaces, of which it has none."""
        if self._token_kind == "words" and not self._warned_of_script and is_chinese(text):
            name = self.config.models[0]
            self._progress.warn(
                f"Chinese text, and {name} reads words between spaces; -m chinese finds its words"
            )
            self._warned_of_script = True

    def _warn_of_length(self, jobs: list[_Job]) -> None:
        """Say it once when a sentence is too long to be put together from the best of all spans."""
        for job in jobs:
            if len(job.words) > CHART_LIMIT and not self._warned_of_length:
                where = f"{job.sentence.where}: " if job.sentence.where else ""
                self._progress.warn(
                    f"{where}a sentence of {len(job.words):,} words is too long for the chart ({CHART_LIMIT:,} at most);"
                    " such sentences get the tree of the mean distances"
                )
                self._warned_of_length = True


@dataclass(frozen=True, slots=True)
class _Job:
    """A sentence on its way: its tokens, which of them are left out, the words that are read, and what is between them."""

    sentence: Sentence
    tokens: tuple[Token, ...]
    dropped: list[bool]
    words: list[str]
    punctuation: np.ndarray


@dataclass(frozen=True, slots=True)
class _Drawn:
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


def _result(job: _Job, drawn: _Drawn) -> Parse:
    sentence, tokens = job.sentence, [token.text for token in job.tokens]
    rounded = iter(np.round(drawn.distances.astype(np.float64), 6).tolist())
    tags, constituents = sentence.tags, None
    if drawn.constituents is not None:
        constituents, own = label_tokens(drawn.constituents, drawn.tags, tokens, job.dropped)
        tags = sentence.tags or own
        wide = {(start, end) for _, start, end in constituents if end - start > 1}
        spans = sorted(wide, key=lambda span: (span[0], -span[1]))
    else:
        spans = attach_punctuation(drawn.spans, tokens, job.dropped)
    return Parse(
        text=sentence.text,
        tokens=tokens,
        offsets=[(token.start, token.end) for token in job.tokens],
        distances=[0.0 if drop else next(rounded) for drop in job.dropped],
        spans=spans,
        tags=tags,
        data=sentence.data,
        where=sentence.where,
        posteriors=None if drawn.posteriors is None else probable_spans(drawn.posteriors, job.dropped),
        constituents=constituents,
    )


def _read_ahead(batch_size: int) -> int:
    return 1 if batch_size == 1 else min(_LARGEST_WINDOW, 64 * batch_size)


def _load_models(config: ParseConfig, progress: Progress) -> list[TreeModel]:
    from ordtool.models.resolve import resolve_model

    folders = [resolve_model(name, progress, kind="parser") for name in config.models]
    from ordtool.runtime import importing, resolve_device, resolve_dtype

    with importing():
        import torch

        from ordtool.parsing.loading import load_parser

    device = resolve_device(config.device)
    dtype = resolve_dtype(config.dtype, device)
    matmul_dtype = None if dtype == torch.float32 else dtype
    return [load_parser(folder, device, matmul_dtype) for folder in folders]


def _tree_config(config: ParseConfig, model: TreeModel) -> TreeConfig:
    """Return how a model's distances make trees: as its configuration says, where `config` says nothing."""
    changes: dict[str, Any] = {}
    if config.layer is not None:
        changes["layer_weights"] = _layer_weights(config.layer, model.layers)
    if config.distance is not None:
        if config.distance == "input":
            _onlstm(model)
        changes["distance"] = config.distance
    if config.builder is not None:
        changes["builder"] = config.builder
    if config.right_branching_bias is not None:
        changes["right_branching_bias"] = config.right_branching_bias
    return replace(model.tree_config, **changes)


def _onlstm(model: TreeModel) -> DistanceModel:
    """Return a model that has master gates.

    Raises:
        UsageError: If it is of another kind.
    """
    from ordtool.parsing.onlstm.inference import DistanceModel
    from ordtool.parsing.spans.inference import SpanParser

    if not isinstance(model, DistanceModel):
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
