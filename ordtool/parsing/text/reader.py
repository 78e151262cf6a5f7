"""The reader of text and trees: for parsing, a sentence a line and running text; for training, files of any layout.

Both take a file for bracketed trees by the same rule, `treebank.holds_trees`, and find the paragraphs of hard-wrapped text
by the same one, `paragraphs`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, cast

from ordtool.arguments import as_strings
from ordtool.errors import OnError, OrdtoolError, UsageError, close_match_hint
from ordtool.io import inputs
from ordtool.io.arrow import dataset_files, holds_arrow
from ordtool.io.conllu import ConlluSentence, conllu_sentences, holds_conllu
from ordtool.io.inputs import STDIN, Input, open_input, reads_once
from ordtool.io.text import Format, Record, read_records, records_of
from ordtool.parsing.text.paragraphs import blocks, paragraphs
from ordtool.parsing.text.tokenize import Sentence, Token, TokenKind, split_sentences, tokenize
from ordtool.parsing.text.vocabulary import UNKNOWN
from ordtool.parsing.trees.punctuation import is_punctuation
from ordtool.parsing.trees.treebank import PUNCTUATION_TAGS, Tree, holds_trees, tree_files, trees_of

FORMATS = ("auto", "text", "jsonl", "trees", "conllu", "arrow")

Layout = Literal["auto", "sentences", "paragraphs", "wrapped"]

# Marks of tokenised WikiText: a hyphen, comma or point inside a word; headings; a word it replaced.
_WIKITEXT_MARK = re.compile(r" @([-,.])@ ")
_WIKITEXT_HEADING = re.compile(r"\s*=( =)* .* =( =)*\s*")
_HIDDEN_WORD = "\ue000"
# Inside quotes a sentence splitter may see one sentence where several end with a full word and a stop. In English: where
# nouns have capitals or other abbreviations are used, it is more often wrong.
_INNER_STOP = re.compile(r"\b([a-z]{2,}[.!?][\"”’']*)\s+(?=[\"“‘']?[A-Z])")
# Underscores around words are italics in plain-text books.
_ITALICS = re.compile(r"(?<!\w)_+(?=\w)|(?<=\w)_+(?!\w)|(?<=[.,;:!?])_+(?!\w)")


@dataclass(frozen=True, slots=True)
class InputConfig:
    """How inputs are read.

    Attributes:
        format: `auto`, `text`, `jsonl`, `trees`, `conllu` or `arrow` (Parquet too).
        field: The key of a JSONL object that holds the text.
        split: The text is running text, to be split into sentences.
        language: Of the text, for its abbreviations.
    """

    format: str = "auto"
    field: str = "text"
    split: bool = False
    language: str = "en"


@dataclass(frozen=True, slots=True)
class TextConfig:
    """How training text is read.

    Attributes:
        tokens: `words` (Penn-style), `chars` or `jieba`.
        layout: `sentences` (one a line), `paragraphs` (a line holds several), `wrapped` (blank lines
            between paragraphs, line breaks inside), or `auto`: see `paragraphs`.
        punctuation: Keep punctuation.
        field: Key of the text in JSONL.
        language: For the sentence splitter.
    """

    tokens: TokenKind = "words"
    layout: Layout = "auto"
    punctuation: bool = False
    field: str = "text"
    language: str = "en"


def check_inputs(paths: Sequence[str], config: InputConfig) -> None:
    """Return what is wrong with the inputs before a model is loaded, and takes nothing out of a pipe.

    Raises:
        OrdtoolError: For a missing or unreadable file, or a folder without treebank files.
        UsageError: For an unknown format, trees that are to be split, or stdin at a keyboard.
    """
    if config.format not in FORMATS:
        raise UsageError(f"unknown input format {config.format!r}", close_match_hint(config.format, FORMATS))
    files = input_files(paths, config)
    inputs.check_inputs(files)
    if config.split:
        for file in files:
            if not reads_once(file):
                with open_input(file) as stream:
                    _refuse_sentences(_kind(stream, config), stream)


def input_files(paths: Sequence[str], config: InputConfig) -> list[str | Path]:
    """List the files that inputs stand for: a folder of trees its files, and `-` where there is no input."""
    return [file for path in paths or [STDIN] for file in _files(path, config)]


def _files(path: str, config: InputConfig) -> Iterator[str | Path]:
    """List the files of a folder of trees or of a dataset; an input that is told to be something else is no folder."""
    if config.format in ("auto", "arrow") and Path(path).is_dir() and (found := dataset_files(path)):
        yield from found
    else:
        yield from tree_files([path]) if config.format in ("auto", "trees") else [path]


def _refuse_sentences(kind: Format | Literal["trees"], stream: Input) -> None:
    if kind in ("trees", "conllu"):
        what = "trees" if kind == "trees" else "CoNLL-U"
        raise UsageError(f"{stream.source}: holds {what}, which is sentences already", "leave `split` out")


def read_inputs(
    paths: str | Path | Sequence[str | Path],
    config: InputConfig,
    *,
    on_error: OnError | None = None,
    on_read: Callable[[int], None] | None = None,
) -> Iterator[Sentence]:
    """Read sentences.

    Args:
        paths: Files, folders of bracketed trees or of text files, or `-`; none is stdin.
        config: How to read them. `auto` goes by a file's suffix, and where that says nothing, and in a pipe, by the
            beginning (see `treebank.begins_tree`, `ordtool.io.text.holds_jsonl`, `ordtool.io.conllu.holds_conllu`).
        on_error: Called with each bad record, which is then skipped; None raises it.
        on_read: Called before each sentence with the bytes of all inputs that were read so far.

    Yields:
        A sentence a line; empty lines too, so that line k of the output belongs to line k of the input. With `split`, a
        sentence each of the running text instead. Trees and CoNLL-U keep their tokens, and what their tags say of
            punctuation.

    Raises:
        OrdtoolError: With `file:line`, where `on_error` is None.
        UsageError: For trees that are to be split.
    """
    read = 0
    for path in as_strings(paths) or (STDIN,):
        for file in _files(path, config):
            with open_input(file) as stream:
                for sentence in sentences_of(stream, config, None, on_error):
                    if on_read is not None:
                        on_read(read + stream.consumed)
                    yield sentence
                read += stream.consumed


def is_lines(stream: Input, config: InputConfig) -> bool:
    """Whether an input, of which nothing was read yet, is text or JSON lines, each line a sentence for itself."""
    return not config.split and _kind(stream, config) in ("auto", "text", "jsonl")


# Lines that are looked at, to say what they are.
_GLANCE = 20


def holds_paragraphs(file: str | Path, config: InputConfig) -> bool:
    """Whether most of the first lines of a file, read as a sentence each, look like several English sentences.

    What can't be read, or but once, is not looked at.
    """
    if config.split or config.language != "en" or reads_once(file):
        return False
    with suppress(OrdtoolError), open_input(file) as stream:
        if is_lines(stream, config):
            found = [s.text for s in islice(sentences_of(stream, config, None, lambda _: None), _GLANCE)]
            return 2 * sum(_INNER_STOP.search(text) is not None for text in found) > len(found)
    return False


def sentences_of(
    stream: Input, config: InputConfig, lines: str | None, on_error: OnError | None
) -> Iterator[Sentence]:
    """Read the sentences of an input that is open, as `read_inputs` does.

    Args:
        stream: The input.
        config: How to read it.
        lines: `text` or `jsonl`, where it is known to be lines of that; None: as `config` says.
        on_error: Called with each bad record.
    """
    kind = _kind(stream, config) if lines is None else cast(Format, lines)
    if config.split:
        _refuse_sentences(kind, stream)
    if kind == "trees":
        yield from map(tree_sentence, trees_of(stream, on_error=on_error))
    elif kind == "conllu":
        for found in conllu_sentences(stream, on_error):
            yield _conllu_sentence(found, stream.source)
    else:
        records = records_of(stream, config.field, format=kind, on_error=on_error)
        if config.split:
            yield from _split(records, config)
        else:
            for record in records:
                yield Sentence(record.text, data=record.data, where=record.where)


def _conllu_sentence(found: ConlluSentence, source: str) -> Sentence:
    tokens = tuple(Token(word, *place) for word, place in zip(found.words, found.offsets, strict=True))
    tags = found.tags if any(found.tags) else None
    return Sentence(found.text, tokens, _conllu_punctuation(found), tags, where=f"{source}:{found.line}")


def _conllu_punctuation(found: ConlluSentence) -> tuple[bool, ...]:
    marked = zip(found.words, found.tags, found.punctuation, strict=True)
    return tuple(mark or tag in PUNCTUATION_TAGS or is_punctuation(word) for word, tag, mark in marked)


def tree_sentence(tree: Tree) -> Sentence:
    """Return a sentence of a treebank's tree: its tokens joined by spaces."""
    tokens, position = [], 0
    for token in tree.tokens:
        tokens.append(Token(token, position, position + len(token)))
        position += len(token) + 1
    tags = tree.tags if any(tree.tags) else None
    return Sentence(" ".join(tree.tokens), tuple(tokens), tuple(tree.punctuation), tags, where=tree.where)


def _kind(stream: Input, config: InputConfig) -> Format | Literal["trees"]:
    """What an input holds: as told, or as it looks."""
    if config.format == "arrow":
        return "auto"
    if config.format != "auto":
        return cast(Format, config.format)
    if holds_arrow(stream):
        return "auto"
    return "trees" if holds_trees(stream) else "conllu" if holds_conllu(stream) else "auto"


def _split(records: Iterator[Record], config: InputConfig) -> Iterator[Sentence]:
    """Split running text into sentences: each JSONL text alone, plain lines a paragraph at a time."""
    for record in paragraphs(records):
        for sentence in split_sentences(record.text, config.language):
            yield Sentence(
                _one_line(sentence.text),
                data=_with_text(record, config.field, sentence.text),
                where=record.where,
            )


def _one_line(text: str) -> str:
    """Return line breaks spaces, one for one, so that a text of several lines stays one line of output."""
    return text.replace("\n", " ").replace("\r", " ")


def _with_text(record: Record, field: str, text: str) -> dict[str, object] | None:
    """The keys of the record that a sentence was cut from, with the sentence for the text."""
    return None if record.data is None else {**record.data, field: _one_line(text)}


def read_sentences(
    paths: str | Path | Sequence[str | Path], config: TextConfig | None = None
) -> Iterator[list[str]]:
    """Read sentences of words from text, JSONL and bracketed trees (files, gz, or folders of them).

    Sentences without a word are left out.

    Raises:
        OrdtoolError: A missing file, an empty folder, invalid UTF-8 or a broken bracket, with `file:line`.
    """
    config = config or TextConfig()
    for path in as_strings(paths):
        for file in text_files(path):
            with open_input(file) as stream:
                known = _kind(stream, InputConfig()) in ("trees", "conllu")
            sentences = _read_tokens(file) if known else _read_text(file, config)
            for words in sentences:
                if not config.punctuation:
                    words = [word for word in words if not is_punctuation(word)]
                if words:
                    yield words


def text_files(path: str | Path) -> Iterator[str]:
    """Return the files that a path stands for: itself, or the tree files of a folder."""
    if not Path(path).is_dir():
        yield str(path)
        return
    yield from (str(file) for file in tree_files([path]))


def _read_tokens(path: str) -> Iterator[list[str]]:
    """Read the tokens of trees and CoNLL-U."""
    for sentence in read_inputs(path, InputConfig()):
        # Tags know better than surfaces what is punctuation (a hyphen between words, a quote).
        tokens = zip(sentence.tokens or (), sentence.punctuation or (), strict=True)
        yield [token.text for token, is_mark in tokens if not is_mark or not is_punctuation(token.text)]


def _read_text(path: str, config: TextConfig) -> Iterator[list[str]]:
    records = read_records([path], config.field)
    if config.layout == "auto":
        records = paragraphs(records)
    elif config.layout == "wrapped":
        records = blocks(records)
    for record in records:
        text = _clean(record.text)
        if not text:
            continue
        whole = config.layout == "sentences"
        for piece in [text] if whole else _training_sentences(text, config.language):
            words = [token.text for token in tokenize(piece, config.tokens)]
            yield [UNKNOWN if word == _HIDDEN_WORD else word for word in words]


def _training_sentences(text: str, language: str) -> Iterator[str]:
    for sentence in split_sentences(text, language):
        yield from (
            _INNER_STOP.sub(r"\1\n", sentence.text).split("\n") if language == "en" else [sentence.text]
        )


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
