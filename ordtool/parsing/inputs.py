"""What `ordtool parse` reads: lines of text, JSONL, running text, and bracketed trees."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from ordtool.arguments import as_strings
from ordtool.errors import OrdtoolError, UsageError, close_match_hint
from ordtool.io import inputs
from ordtool.io.inputs import STDIN, Input, open_input, reads_once
from ordtool.io.text import Format, Record, has_jsonl_suffix, records_of
from ordtool.parsing.parser import Sentence
from ordtool.parsing.text.tokenize import Token, join_lines, split_sentences
from ordtool.parsing.trees.treebank import TREE_SUFFIXES, Tree, tree_files, trees_of

FORMATS = ("auto", "text", "jsonl", "trees")
_PLAIN_SUFFIX = ".txt"
# The first line of a treebank: "( (S ...", "(ROOT" alone, or a label and a tagged word: "(S (NP (DT The".
_TREE_LINE = re.compile(
    r"\s*\((\s*\(\s*[A-Z]|\s*[A-Z][A-Z0-9]*\s*$|[A-Z][A-Z0-9=-]*\s+\(.*\([A-Z.,:$`'#-]+ [^\s()]+\))"
)
_ATOM = re.compile(r"[()]|[^\s()]+")
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
    """Finds what is wrong with the inputs before a model is loaded, and takes nothing out of a pipe.

    Raises:
        OrdtoolError: For a missing or unreadable file, or a folder without treebank files.
        UsageError: For an unknown format, trees that are to be split, or stdin at a keyboard.
    """
    if config.format not in FORMATS:
        raise UsageError(f"unknown input format {config.format!r}", close_match_hint(config.format, FORMATS))
    files = [file for path in paths or [STDIN] for file in _files(path, config)]
    inputs.check_inputs(files)
    if config.split:
        for file in files:
            if not reads_once(file):
                with open_input(file) as stream:
                    _refuse_trees(_holds_trees(stream, config), stream)


def _files(path: str, config: InputConfig) -> Iterator[str | Path]:
    """Lists the files of a folder of trees; an input that is told to be something else is no folder."""
    yield from tree_files([path]) if config.format in ("auto", "trees") else [path]


def _refuse_trees(trees: bool, stream: Input) -> None:
    if trees:
        raise UsageError(f"{stream.source}: holds trees, which are sentences already", "leave --split out")


def read_inputs(
    paths: str | Path | Sequence[str | Path],
    config: InputConfig,
    *,
    on_error: Callable[[OrdtoolError], None] | None = None,
) -> Iterator[Sentence]:
    """Reads sentences.

    Args:
        paths: Files, folders of bracketed trees, or `-`; none is stdin.
        config: How to read them. `auto` goes by a file's suffix; a pipe and a file whose suffix says nothing are
            trees if their first line is (see `begins_tree`).
        on_error: Called with each bad record, which is then skipped; None raises it.

    Yields:
        A sentence a line; empty lines too, so that line k of the output belongs to line k of the input. With `split`, a
        sentence each of the running text instead. Trees keep their tokens and what their tags say of punctuation.

    Raises:
        OrdtoolError: With `file:line`, where `on_error` is None.
        UsageError: For trees that are to be split.
    """
    for path in as_strings(paths) or (STDIN,):
        folder = path != STDIN and Path(path).is_dir()
        for file in _files(path, config):
            with open_input(file) as stream:
                trees = (folder and config.format == "auto") or _holds_trees(stream, config)
                if config.split:
                    _refuse_trees(trees, stream)
                yield from _sentences(stream, config, trees, on_error)


def _sentences(
    stream: Input, config: InputConfig, trees: bool, on_error: Callable[[OrdtoolError], None] | None
) -> Iterator[Sentence]:
    if trees:
        yield from map(tree_sentence, trees_of(stream, on_error=on_error))
        return
    format: Format = "jsonl" if config.format == "jsonl" else "text" if config.format == "text" else "auto"
    records = records_of(stream, config.field, format=format, on_error=on_error)
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


def _holds_trees(stream: Input, config: InputConfig) -> bool:
    """Says whether an input is bracketed trees: as told, by its suffix, or by its first line."""
    if config.format != "auto":
        return config.format == "trees"
    suffix = Path(stream.path.removesuffix(".gz")).suffix.lower()
    if suffix in TREE_SUFFIXES and suffix != _PLAIN_SUFFIX:
        return True
    if has_jsonl_suffix(stream.path):
        return False
    return begins_tree(stream.first_line().decode("utf-8", "replace"), pipe=stream.once)


def begins_tree(line: str, *, pipe: bool = False) -> bool:
    """Says whether a first line is that of a treebank.

    It is if it looks like `( (S ...`, `(ROOT` alone, or a label and a tagged word, `(S (NP (DT The`. A pipe has no
    suffix that could say `.brackets`; there it is enough that the line is one tree of nested pairs, as
    `(The (cat (sat down)))`, which prose in brackets is not.
    """
    return _TREE_LINE.match(line) is not None or (pipe and _is_binary(line))


def _is_binary(line: str) -> bool:
    """Says whether a line is one bracket in which every bracket holds two things, at least one of them a bracket."""
    held = [0]  # by the line itself, then by each open bracket
    nested = False
    for atom in _ATOM.findall(line):
        if atom == ")":
            if len(held) == 1 or held.pop() != 2:
                return False
            continue
        held[-1] += 1
        if atom == "(":
            nested = nested or len(held) > 1
            held.append(0)
        elif len(held) == 1:
            return False
    return held == [1] and nested


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
