"""Text for a span scorer that has a teacher: sentences without trees, as arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol

import numpy as np

from ordtool.errors import OrdtoolError
from ordtool.parallel import end_with_parent, thread_count
from ordtool.parsing.spans.data import LONGEST
from ordtool.parsing.text.reader import InputConfig, read_inputs
from ordtool.parsing.text.tokenize import tokenize, whitespace_tokens
from ordtool.parsing.trees.punctuation import is_punctuation, punctuation_between
from ordtool.progress import Progress

__all__ = ["Text", "read_text"]

_CHUNK = 4096
# From so many chunks on, several processes save more time than their start takes.
_MANY = 8


class _Encodes(Protocol):
    def encode_words(self, sentences: Iterable[Sequence[str]]) -> list[list[int]]: ...


@dataclass(frozen=True, slots=True)
class Text:
    """Sentences as the words of one long array.

    Attributes:
        surfaces: Every distinct word.
        words: Places in `surfaces`, sentence after sentence, `(words,)`.
        punctuation: What stands at the boundaries, see `punctuation_between`, `(words + sentences,)`.
        starts: Where each sentence begins in `words`, and where the last one ends, `(sentences + 1,)`.
    """

    surfaces: list[str]
    words: np.ndarray
    punctuation: np.ndarray
    starts: np.ndarray

    def encode(self, vocabulary: _Encodes) -> list[np.ndarray]:
        """Look the words up: an array of int64 a sentence."""
        (numbers,) = vocabulary.encode_words([self.surfaces])
        return np.split(np.array(numbers, dtype=np.int64)[self.words], self.starts[1:-1])

    def boundaries(self) -> list[np.ndarray]:
        """The punctuation of each sentence, `(words + 1,)`."""
        return np.split(self.punctuation, self.starts[1:-1] + np.arange(1, len(self.starts) - 1))


def read_text(paths: Sequence[str | Path], token_kind: str, progress: Progress) -> Text:
    """Read sentences, one a line; those of less than three words or more than 200 are left out.

    Args:
        paths: Text or JSONL, as `ordtool parse` reads it.
        token_kind: `words`, `chars`, `jieba`, or `whitespace`: the tokens between spaces.
        progress: Told of sentences.

    Raises:
        OrdtoolError: For what can't be read, or if nothing is left.
    """
    sentences = (sentence.text for path in paths for sentence in read_inputs([str(path)], InputConfig()))
    chunks = iter(lambda: list(islice(sentences, _CHUNK)), [])
    progress.start("reading", None, "sentences")
    ids: dict[str, int] = {}
    words: list[np.ndarray] = []
    punctuation: list[np.ndarray] = []
    lengths: list[np.ndarray] = []
    for surfaces, chunk_words, bits, sizes in _map(chunks, token_kind):
        table = np.array([ids.setdefault(word, len(ids)) for word in surfaces], dtype=np.int32)
        words.append(table[chunk_words])
        punctuation.append(bits)
        lengths.append(sizes)
        progress.advance(len(sizes))
    if not ids:
        raise OrdtoolError(f"{', '.join(map(str, paths))}: no sentence of three words or more")
    starts = np.concatenate(([0], np.cumsum(np.concatenate(lengths))))
    return Text(list(ids), np.concatenate(words), np.concatenate(punctuation), starts)


_Chunk = tuple[list[str], np.ndarray, np.ndarray, np.ndarray]


def _map(chunks: Iterator[list[str]], token_kind: str) -> Iterator[_Chunk]:
    """Prepare chunks, a core each where there are many."""
    first = list(islice(chunks, _MANY))
    cores = thread_count()
    if len(first) < _MANY or cores < 2:
        for chunk in chain(first, chunks):
            yield _prepare(chunk, token_kind)
        return
    with ProcessPoolExecutor(min(cores, 16), get_context("spawn"), end_with_parent) as pool:
        whole = chain(first, chunks)
        while group := list(islice(whole, 4 * cores)):
            yield from pool.map(_prepare, group, [token_kind] * len(group))


def _prepare(texts: list[str], token_kind: str) -> _Chunk:
    """Return the distinct words of sentences, their places among them, punctuation, and the number of words of each."""
    ids: dict[str, int] = {}
    words: list[int] = []
    punctuation: list[np.ndarray] = []
    lengths: list[int] = []
    for text in texts:
        between = token_kind == "whitespace"
        found = whitespace_tokens(text) if between else tokenize(text, token_kind)  # type: ignore[arg-type]
        tokens = [token.text for token in found]
        dropped = [is_punctuation(token) for token in tokens]
        length = len(tokens) - sum(dropped)
        if not 3 <= length <= LONGEST:
            continue
        words += [ids.setdefault(t, len(ids)) for t, drop in zip(tokens, dropped, strict=True) if not drop]
        offsets = None if between else [(token.start, token.end) for token in found]
        punctuation.append(punctuation_between(tokens, dropped, None, offsets))
        lengths.append(length)
    bits = np.concatenate(punctuation) if punctuation else np.zeros(0, dtype=np.uint16)
    return list(ids), np.array(words, dtype=np.int32), bits, np.array(lengths, dtype=np.int64)
