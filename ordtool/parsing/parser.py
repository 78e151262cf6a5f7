"""Text to trees: the engine of `ordtool parse`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Protocol, Unpack, overload

import numpy as np

from ordtool.arguments import as_many, is_one
from ordtool.batching import batches_by_length, windows
from ordtool.errors import UsageError
from ordtool.parsing.config import ParseConfig, ParseOptions
from ordtool.parsing.drawing import DrawnTree, PreparedSentence, TreeDrawer, as_onlstm
from ordtool.parsing.result import Parse
from ordtool.parsing.text.chinese import is_chinese
from ordtool.parsing.text.tokenize import Sentence, Token, tokenize, whitespace_tokens
from ordtool.parsing.trees.labels import label_tokens
from ordtool.parsing.trees.punctuation import attach_punctuation, is_punctuation, punctuation_between
from ordtool.parsing.voting import probable_spans
from ordtool.progress import SILENT, Progress

if TYPE_CHECKING:
    from ordtool.parsing.loading import TreeModel
    from ordtool.parsing.onlstm.gates import Gates

__all__ = ["Parser", "parse"]

# Sentences read ahead to be sorted by length: few at first, so that the first tree comes soon.
_FIRST_WINDOW, _LARGEST_WINDOW = 32, 4096
# Words of a window, at most: what bounds memory when sentences are long.
_WINDOW_WORDS = 1 << 18
# Padded words of a batch, at most.
_BATCH_WORDS = 1 << 13


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
    """

    def __init__(self, config: ParseConfig | None = None, progress: Progress = SILENT) -> None:
        self.config = config or ParseConfig()
        self._progress = progress
        self._models = _load_models(self.config, progress)
        from ordtool.parsing.onlstm.inference import COMPILED_FROM  # torch is loaded by now

        self._compiled_from = COMPILED_FROM
        self._drawer = TreeDrawer(self.config, self._models, progress)
        self._check_vocabularies()
        vocabulary = self._models[0].vocabulary
        self._drops_punctuation = vocabulary.drop_punctuation
        self._token_kind = self.config.tokens or vocabulary.token_kind
        self._warned_of_script = False

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
        model = as_onlstm(self._models[0])
        words = self._prepare(as_sentence(sentence)).words
        [ids] = model.vocabulary.encode_words([words])
        found = model.gates(ids)
        tables = [forget for forget, _ in found], [written for _, written in found]
        return Gates(words, *tables, backward=model.backward_layers)

    def parse_together(self, sentences: Sequence[Sentence], *, compiled: bool = False) -> list[Parse]:
        """Parse sentences as one window, so that nothing but them has an influence on the last digits.

        Args:
            sentences: They, and their results, are held at a time.
            compiled: Take compiled loops, where there are any; else where the words make up for their loading.

        Returns:
            A result a sentence, in order.
        """
        parses = list(self._parse_window([self._prepare(sentence) for sentence in sentences], compiled))
        self._progress.advance(len(sentences))
        return parses

    def _parse(self, sentences: Iterable[Sentence]) -> Iterator[Parse]:
        stream = (self._prepare(sentence) for sentence in sentences)
        largest = _read_ahead(self.config.batch_size)
        first = min(_FIRST_WINDOW, largest)
        for window in windows(stream, largest, _WINDOW_WORDS, lambda job: len(job.tokens), first):
            yield from self._parse_window(window)
            self._progress.advance(len(window))

    def _prepare(self, sentence: Sentence) -> PreparedSentence:
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
        return PreparedSentence(
            sentence, tokens, dropped, words, self._punctuation(sentence, tokens, dropped)
        )

    def _punctuation(self, sentence: Sentence, tokens: Sequence[Token], dropped: list[bool]) -> np.ndarray:
        """What stands between the words, if that is to count."""
        if not self.config.punctuation or not any(dropped):
            return np.zeros(len(dropped) - sum(dropped) + 1, dtype=np.uint16)
        return punctuation_between(
            [token.text for token in tokens], dropped, sentence.tags, _known_offsets(sentence, tokens)
        )

    def _parse_window(self, window: list[PreparedSentence], compiled: bool = False) -> Iterator[Parse]:
        """Parse a window in batches of like lengths, and yield its results in order."""
        results: list[DrawnTree] = [DrawnTree(np.zeros(0), []) for _ in window]
        lengths = [len(job.words) for job in window]
        compiled = compiled or sum(lengths) >= self._compiled_from
        ids = [model.vocabulary.encode_words(job.words for job in window) for model in self._models]
        for batch in batches_by_length(lengths, tokens=_BATCH_WORDS, size=self.config.batch_size):
            jobs = [window[k] for k in batch]
            drawn = self._drawer.draw(jobs, [[table[k] for k in batch] for table in ids], compiled)
            for k, tree in zip(batch, drawn, strict=True):
                results[k] = tree
        for job, tree in zip(window, results, strict=True):
            yield _result(job, tree)

    def _warn_of_script(self, text: str) -> None:
        """Say it once when Chinese text is to be cut at spaces, of which it has none."""
        if self._token_kind == "words" and not self._warned_of_script and is_chinese(text):
            name = self.config.models[0]
            self._progress.warn(
                f"Chinese text, and {name} reads words between spaces; -m chinese finds its words"
            )
            self._warned_of_script = True


def _known_offsets(sentence: Sentence, tokens: Sequence[Token]) -> list[tuple[int, int]] | None:
    """Return where tokens stand; None for tokens that were given: their offsets don't say what touches what."""
    return None if sentence.tokens else [(token.start, token.end) for token in tokens]


def _result(job: PreparedSentence, drawn: DrawnTree) -> Parse:
    sentence, tokens = job.sentence, [token.text for token in job.tokens]
    offsets = _known_offsets(sentence, job.tokens)
    rounded = iter(np.round(drawn.distances.astype(np.float64), 6).tolist())
    tags, constituents = sentence.tags, None
    if drawn.constituents is not None:
        constituents, own = label_tokens(drawn.constituents, drawn.tags, tokens, job.dropped, offsets)
        tags = sentence.tags or own
        wide = {(start, end) for _, start, end in constituents if end - start > 1}
        spans = sorted(wide, key=lambda span: (span[0], -span[1]))
    else:
        spans = attach_punctuation(drawn.spans, tokens, job.dropped, offsets)
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
