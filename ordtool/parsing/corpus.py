"""Training text: files of any kind to sentences of words, and sentences to streams of numbers.

Text may be a sentence a line, a paragraph a line, a hard-wrapped book, JSONL or bracketed trees
(whose leaves are taken). Sentences are joined into one stream with `<eos>` between them, shuffled anew
for each epoch, and cut into parallel streams for truncated back-propagation.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ordtool.arguments import as_strings
from ordtool.errors import OrdtoolError
from ordtool.io.inputs import open_input, read_lines
from ordtool.io.text import read_records
from ordtool.parsing.text.tokenize import (
    TokenKind,
    join_lines,
    split_sentences,
    tokenize,
)
from ordtool.parsing.text.vocabulary import UNKNOWN, Vocabulary
from ordtool.parsing.trees.punctuation import is_punctuation
from ordtool.parsing.trees.treebank import TREE_SUFFIXES, read_trees, tree_files
from ordtool.progress import SILENT, Progress

if TYPE_CHECKING:
    from ordtool.parsing.onlstm.tokenizer import OnlstmTokenizer

__all__ = ["Layout", "Streams", "TextOptions", "count_words", "encode_sentences", "read_sentences", "streams"]

Layout = Literal["auto", "sentences", "paragraphs", "wrapped"]
LAYOUTS: tuple[str, ...] = ("auto", "sentences", "paragraphs", "wrapped")

_PROBE_LINES = 3000
# A hard-wrapped text has short lines; the widest customs wrap at 80 columns.
_WRAP_WIDTH = 84
# Marks of tokenised WikiText: a hyphen, comma or point inside a word; headings; a word it replaced.
_WIKITEXT_MARK = re.compile(r" @([-,.])@ ")
_WIKITEXT_HEADING = re.compile(r"\s*=( =)* .* =( =)*\s*")
# Two labels in a row, or one that ends its line: `(S (NP`, `( (TOP (S`, `(ROOT`.
_TREE_START = re.compile(rb"\s*\(\s*\(?\s*[A-Z][A-Z0-9=|-]*\s*(\(\s*[A-Z(]|$)")
_HIDDEN_WORD = "\ue000"
# Underscores around words are italics in plain-text books.
# Inside quotes a sentence splitter may see one sentence where several end with a full word and a stop.
_INNER_STOP = re.compile(r"\b([a-z]{2,}[.!?][\"”’']*)\s+(?=[\"“‘']?[A-Z])")
_ITALICS = re.compile(r"(?<!\w)_+(?=\w)|(?<=\w)_+(?!\w)|(?<=[.,;:!?])_+(?!\w)")


@dataclass(frozen=True)
class TextOptions:
    """How training text is read.

    Attributes:
        tokens: `words` (Penn-style), `chars` or `jieba`.
        layout: `sentences` (one a line), `paragraphs` (a line holds several), `wrapped` (blank lines
            between paragraphs, line breaks inside), or `auto` (wrapped where a file looks so, else paragraphs).
        punctuation: Keep punctuation.
        field: Key of the text in JSONL.
        language: For the sentence splitter.
    """

    tokens: TokenKind = "words"
    layout: Layout = "auto"
    punctuation: bool = False
    field: str = "text"
    language: str = "en"


def read_sentences(
    paths: str | Path | Sequence[str | Path], options: TextOptions = TextOptions()
) -> Iterator[list[str]]:
    """Read sentences of words from text, JSONL and bracketed trees (files, gz, or folders of them).

    Sentences without a word are left out.

    Raises:
        OrdtoolError: A missing file, an empty folder, invalid UTF-8 or a broken bracket, with `file:line`.
    """
    for path in as_strings(paths):
        for file in text_files(path):
            sentences = _read_trees(file) if _holds_trees(file) else _read_text(file, options)
            for words in sentences:
                if not options.punctuation:
                    words = [word for word in words if not is_punctuation(word)]
                if words:
                    yield words


def text_files(path: str | Path) -> Iterator[str]:
    """The files that a path stands for: itself, or the tree files of a folder."""
    if not Path(path).is_dir():
        yield str(path)
        return
    yield from (str(file) for file in tree_files([path]))


def _holds_trees(path: str) -> bool:
    """Whether a file is bracketed trees: by its suffix, or by a text that begins like one."""
    suffix = Path(path.removesuffix(".gz")).suffix.lower()
    if suffix in TREE_SUFFIXES - {".txt"}:
        return True
    with open_input(path) as stream:
        first = next((line for line in islice(read_lines(stream, path), 50) if line.strip()), b"")
    return _TREE_START.match(first) is not None


def _read_trees(path: str) -> Iterator[list[str]]:
    for tree in read_trees([path]):
        # Tags know better than surfaces what is punctuation (a hyphen between words, a quote).
        marks = tree.punctuation
        yield [
            token
            for token, mark in zip(tree.tokens, marks, strict=True)
            if not mark or not is_punctuation(token)
        ]


def _read_text(path: str, options: TextOptions) -> Iterator[list[str]]:
    layout = options.layout
    if layout == "auto":
        layout = "wrapped" if _looks_wrapped(path, options) else "paragraphs"
    lines = (record.text for record in read_records([path], options.field))
    blocks = _paragraphs(lines) if layout == "wrapped" else lines
    for block in blocks:
        text = _clean(block)
        if not text:
            continue
        for piece in [text] if layout == "sentences" else _sentences(text, options.language):
            words = [token.text for token in tokenize(piece, options.tokens)]
            yield [UNKNOWN if word == _HIDDEN_WORD else word for word in words]


def _sentences(text: str, language: str) -> Iterator[str]:
    for sentence in split_sentences(text, language):
        yield from _INNER_STOP.sub(r"\1\n", sentence.text).split("\n")


def _paragraphs(lines: Iterator[str]) -> Iterator[str]:
    block: list[str] = []
    for line in lines:
        if line.strip():
            block.append(line.strip())
        elif block:
            yield join_lines(block)
            block = []
    if block:
        yield join_lines(block)


def _looks_wrapped(path: str, options: TextOptions) -> bool:
    """Whether lines break inside sentences: short lines, blank lines between blocks, few ends of sentences."""
    lines = [r.text.strip() for r in islice(read_records([path], options.field), _PROBE_LINES)]
    full = [line for line in lines if line]
    if len(lines) < 20 or len(full) == len(lines) or not full:
        return False
    inner = [a for a, b in zip(lines, lines[1:], strict=False) if a and b]
    open_ended = sum(line[-1] not in ".?!:\"”’'" for line in inner)
    widest = sorted(map(len, full))[int(len(full) * 0.98) - 1]
    return widest <= _WRAP_WIDTH and len(inner) > 0.4 * len(full) and open_ended > 0.5 * len(inner)


def _clean(text: str) -> str:
    """Undo marks of well-known plain-text formats: WikiText's, and italics between underscores."""
    if "=" in text and _WIKITEXT_HEADING.fullmatch(text):
        return ""
    if "@" in text:
        # A hyphenated word comes apart as in today's treebanks; numbers come together.
        text = _WIKITEXT_MARK.sub(lambda m: " - " if m[1] == "-" else m[1], text)
    if "<unk>" in text:
        text = text.replace("<unk>", _HIDDEN_WORD)
    if "_" in text:
        text = _ITALICS.sub("", text)
    return text.strip()


def count_words(sentences: Sequence[Sequence[str]]) -> Counter[str]:
    """Occurrences of each surface word, words hidden as `<unk>` left out."""
    counts: Counter[str] = Counter()
    for words in sentences:
        counts.update(words)
    del counts[UNKNOWN]
    return counts


@dataclass(frozen=True)
class Encoded:
    """Sentences as numbers: `ids[starts[k]:starts[k + 1]]` is sentence k without `<eos>`.

    Attributes:
        ids: All sentences one after the other, int32.
        starts: Offsets, one more than there are sentences, int64.
    """

    ids: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        """Number of sentences."""
        return len(self.starts) - 1

    @property
    def tokens(self) -> int:
        """Number of predictions: words, and one `<eos>` a sentence."""
        return len(self.ids) + len(self)


def encode_sentences(sentences: Sequence[Sequence[str]], tokenizer: Vocabulary | OnlstmTokenizer) -> Encoded:
    """Turn sentences into numbers."""
    lengths = np.fromiter((len(words) for words in sentences), np.int64, len(sentences))
    starts = np.concatenate(([0], np.cumsum(lengths)))
    ids = np.empty(int(starts[-1]), np.int32)
    position = 0
    for chunk in range(0, len(sentences), 4096):
        for numbers in tokenizer.encode_words(sentences[chunk : chunk + 4096]):
            ids[position : position + len(numbers)] = numbers
            position += len(numbers)
    return Encoded(ids, starts)


@dataclass(frozen=True)
class Streams:
    """Parallel streams of one epoch.

    Attributes:
        tokens: `(batch, steps + 1)` int64: inputs are all but the last column, targets all but the first.
    """

    tokens: np.ndarray

    @property
    def steps(self) -> int:
        """Predictions in each stream."""
        return self.tokens.shape[1] - 1


def streams(encoded: Encoded, batch: int, eos: int, order: np.ndarray | None = None) -> Streams:
    """Lay sentences out as `<eos> s1 <eos> s2 <eos> ...` in `batch` parallel streams.

    The last tokens that don't fill a column are left out; with a new order each epoch they are
    others each time.

    Args:
        encoded: The sentences.
        batch: Number of streams.
        eos: Id of `<eos>`.
        order: Permutation of the sentences; None keeps them as they are.

    Raises:
        OrdtoolError: Fewer tokens than streams.
    """
    order = np.arange(len(encoded)) if order is None else order
    lengths = np.diff(encoded.starts)[order]
    ends = np.cumsum(lengths + 1)
    flat = np.full(int(ends[-1]) + 1 if len(order) else 1, eos, np.int64)
    for start, length, sentence in zip(ends - lengths, lengths, order, strict=True):
        begin = encoded.starts[sentence]
        flat[start : start + length] = encoded.ids[begin : begin + length]
    steps = (len(flat) - 1) // batch
    if steps < 1:
        raise OrdtoolError(
            f"{len(flat) - 1} tokens are too few for {batch} streams",
            hint="use more text or a smaller --batch-size",
        )
    # Neighbouring streams share a token: the last target of one is the first input of the next.
    starts = np.arange(batch) * steps
    return Streams(np.stack([flat[s : s + steps + 1] for s in starts]))


def load_sentences(
    paths: Sequence[str | Path], options: TextOptions, progress: Progress = SILENT
) -> list[list[str]]:
    """Read all sentences into memory, with one line about each source.

    Raises:
        OrdtoolError: As `read_sentences`, and when there is no word in all of it.
    """
    sentences: list[list[str]] = []
    # Equal words share one string object, which makes a large text fit.
    shared: dict[str, str] = {}
    progress.start("reading text", None, "sentences")
    for path in paths:
        before, words = len(sentences), 0
        for sentence in read_sentences([path], options):
            sentences.append([shared.setdefault(word, word) for word in sentence])
            words += len(sentence)
            progress.advance(1)
        if len(sentences) == before:
            progress.warn(f"{path}: no words in it")
        else:
            progress.note(f"{path}: {len(sentences) - before:,} sentences, {words:,} words")
    progress.close()
    if not sentences:
        raise OrdtoolError(
            "no words in the text", hint="give files with text, a sentence or paragraph a line"
        )
    return sentences
