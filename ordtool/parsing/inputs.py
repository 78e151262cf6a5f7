"""What `ordtool parse` reads: lines of text, JSONL, running text, and bracketed trees."""

from __future__ import annotations

import re
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from ordtool.errors import OrdtoolError, UsageError, close_match_hint
from ordtool.io.text import GZIP_MAGIC, STDIN, Record, has_jsonl_suffix, open_binary, open_input, read_records
from ordtool.parsing.parser import Sentence
from ordtool.parsing.text.tokenize import Token, join_lines, split_sentences
from ordtool.parsing.trees.treebank import (
    TREE_SUFFIXES,
    Tree,
    read_trees,
    tree_files,
)

FORMATS = ("auto", "text", "jsonl", "trees")
_PLAIN_SUFFIX = ".txt"
# The first line of a treebank: "( (S ...", "(ROOT" alone, or a label and a tagged word: "(S (NP (DT The".
_TREE_LINE = re.compile(
    r"\s*\((\s*\(\s*[A-Z]|\s*[A-Z][A-Z0-9]*\s*$|[A-Z][A-Z0-9=-]*\s+\(.*\([A-Z.,:$`'#-]+ [^\s()]+\))"
)
# A line that a hard-wrapped text may break inside a sentence.
_WRAPPED = range(40, 101)
_ENDS = tuple(".?!。？！…”\"’')")


@dataclass(frozen=True, slots=True)
class InputConfig:
    """How inputs are read.

    Attributes:
        format: `auto`, `text`, `jsonl` or `trees`.
        field: The key of a JSONL object that holds the text.
        split: The text is running text, to be split into sentences.
        language: Of the text, for its abbreviations.
    """

    format: str = "auto"
    field: str = "text"
    split: bool = False
    language: str = "en"


def check_inputs(paths: Sequence[str], config: InputConfig) -> None:
    """Finds what is wrong with the inputs before a model is loaded.

    Raises:
        OrdtoolError: For a missing or unreadable file, or a folder without treebank files.
        UsageError: For an unknown format, trees that are to be split, or stdin at a keyboard.
    """
    if config.format not in FORMATS:
        raise UsageError(f"unknown input format {config.format!r}", close_match_hint(config.format, FORMATS))
    for path in paths or [STDIN]:
        for file in tree_files([path]):
            _check_input(str(file))
        if config.split and _holds_trees(path, config):
            raise UsageError(f"{path}: holds trees, which are sentences already", "leave --split out")


def _check_input(path: str) -> None:
    if path != STDIN:
        with open_input(path):
            return
    if sys.stdin is None or sys.stdin.isatty():
        open_binary(path)  # which says how to use a pipe; a pipe itself is left untouched


def read_inputs(
    paths: Sequence[str], config: InputConfig, *, on_error: Callable[[OrdtoolError], None] | None = None
) -> Iterator[Sentence]:
    """Reads sentences.

    Args:
        paths: Files, folders of bracketed trees, or `-`; none is stdin.
        config: How to read them.
        on_error: Called with each bad record, which is then skipped; None raises it.

    Yields:
        A sentence a line; empty lines too, so that line k of the output belongs to line k of the input. With `split`, a
        sentence each of the running text instead. Trees keep their tokens and what their tags say of punctuation.

    Raises:
        OrdtoolError: With `file:line`, where `on_error` is None.
    """
    for path in paths or [STDIN]:
        if _holds_trees(path, config):
            for tree in read_trees([path], on_error=on_error):
                yield tree_sentence(tree)
            continue
        jsonl = config.format == "jsonl"
        records = read_records(
            [path],
            config.field,
            format="jsonl" if jsonl else "text" if config.format == "text" else "auto",
            on_error=on_error,
        )
        if config.split:
            yield from _split(records, config)
        else:
            for record in records:
                yield Sentence(record.text, data=record.data, where=record.where)


def tree_sentence(tree: Tree) -> Sentence:
    """Makes a sentence of a treebank's tree: its tokens joined by spaces."""
    tokens, position = [], 0
    for token in tree.tokens:
        tokens.append(Token(token, position, position + len(token)))
        position += len(token) + 1
    tags = tree.tags if any(tree.tags) else None
    return Sentence(" ".join(tree.tokens), tuple(tokens), tuple(tree.punctuation), tags, where=tree.where)


def _holds_trees(path: str, config: InputConfig) -> bool:
    """Says whether an input is bracketed trees: as told, a folder, by its suffix, or by its first line."""
    if config.format != "auto":
        return config.format == "trees"
    if path != STDIN and Path(path).is_dir():
        return True
    suffix = Path(path.removesuffix(".gz")).suffix.lower()
    if suffix in TREE_SUFFIXES and suffix != _PLAIN_SUFFIX:
        return True
    if has_jsonl_suffix(path):
        return False
    return any(_TREE_LINE.match(line) for line in _first_lines(path)[:1])


def _first_lines(path: str) -> list[str]:
    """Looks at the beginning of an input, as far as that takes nothing away from who reads it next."""
    if path != STDIN:
        with open_input(path) as stream:
            try:
                head = stream.read(1 << 16)
            except (OSError, EOFError, zlib.error):
                return []  # who reads it all says what is wrong with it
    else:
        peek = getattr(getattr(sys.stdin, "buffer", None), "peek", None)
        head = peek(1 << 12) if peek is not None else b""
        if head.startswith(GZIP_MAGIC):
            return []
    return [line for line in head.decode("utf-8", "replace").split("\n") if line.strip()]


def _split(records: Iterator[Record], config: InputConfig) -> Iterator[Sentence]:
    """Splits running text into sentences: each JSONL text alone, plain lines a paragraph at a time."""
    for plain, group in groupby(records, key=lambda record: record.data is None):
        for record in _paragraphs(group) if plain else group:
            for sentence in split_sentences(record.text, config.language):
                yield Sentence(
                    _one_line(sentence.text),
                    data=_with_text(record, config.field, sentence.text),
                    where=record.where,
                )


def _one_line(text: str) -> str:
    """Makes line breaks spaces, one for one, so that a text of several lines stays one line of output."""
    return text.replace("\n", " ").replace("\r", " ")


def _with_text(record: Record, field: str, text: str) -> dict[str, object] | None:
    """The keys of the record that a sentence was cut from, with the sentence for the text."""
    return None if record.data is None else {**record.data, field: _one_line(text)}


def _paragraphs(records: Iterator[Record]) -> Iterator[Record]:
    """Joins the lines of hard-wrapped text; a blank line, a long line or a short one ends a paragraph."""
    lines: list[str] = []
    first: Record | None = None
    for record in records:
        text = record.text.strip()
        if first is not None and not (text and _continues(lines[-1])):
            yield Record(first.source, first.line, join_lines(lines))
            lines, first = [], None
        if text:
            first = first or record
            lines.append(text)
    if first is not None:
        yield Record(first.source, first.line, join_lines(lines))


def _continues(line: str) -> bool:
    """Says whether a line may be one of a hard-wrapped paragraph, which goes on in the next line."""
    return len(line) in _WRAPPED or (
        len(line) < _WRAPPED.start and not line.endswith(_ENDS) and line[-1:] in ",;:-—"
    )
