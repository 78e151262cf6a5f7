"""Penn-style bracketed trees: a streaming reader for files and folders.

A treebank file holds trees such as `(S (NP (DT The) (NN cat)) (VP (VBD sat)) (. .))`, on one line or many. The
reader is iterative, holds one tree at a time, drops traces and function tags, and names `file:line` for a
bracket that never closes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from ordtool.arguments import as_many
from ordtool.errors import OnError, OrdtoolError, reject
from ordtool.io.inputs import STDIN, Input, data_suffix, decode_line, open_input, read_lines
from ordtool.io.jsonl import has_jsonl_suffix
from ordtool.parsing.trees.chart import Span
from ordtool.parsing.trees.punctuation import BRACKET_NAMES, is_punctuation
from ordtool.parsing.trees.recognition import ATOM, begins_tree, is_labelled

TREE_SUFFIXES = frozenset(
    {".tree", ".trees", ".ptb", ".penn", ".mrg", ".prd", ".bracket", ".brackets", ".parse", ".txt"}
)
"""What is read of a folder, with or without `.gz`; a file named on its own may end as it likes."""

PUNCTUATION_TAGS = frozenset(
    ", . : `` '' \" -LRB- -RRB- -LSB- -RSB- -LCB- -RCB- PU PUNCT $, $. $(".split()  # Penn, Chinese, universal, Negra
)
"""Tags of tokens that are no words, in the Penn Treebank and in those made after it."""

_LABELS = {True: "with labels", False: "without labels"}
_PLAIN_SUFFIX = ".txt"
_UNLABELLED_SUFFIXES = (".brackets", ".bracket")
# Trees that are held until one says whether they have labels.
_UNDECIDED = 1000
_TRACE = "-NONE-"
_ESCAPES = {**BRACKET_NAMES, "\\/": "/", "\\*": "*"}
_ROOTS = frozenset({"", "ROOT", "TOP", "S1"})


class Constituent(NamedTuple):
    """A labelled span of tokens, half-open."""

    label: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Tree:
    """A sentence of a treebank with its constituents.

    Attributes:
        tokens: Leaves as they stand in text (`-LRB-` is `(`), without traces.
        tags: A part-of-speech tag for each token; empty where a leaf stands without one.
        constituents: Every node above the tags, in order of their start, wider first (parents before children).
        where: `file:line` where the tree begins.
    """

    tokens: tuple[str, ...]
    tags: tuple[str, ...]
    constituents: tuple[Constituent, ...]
    where: str = ""

    @property
    def punctuation(self) -> list[bool]:
        """Whether each token is punctuation, by its tag or by its surface."""
        return [
            tag in PUNCTUATION_TAGS or is_punctuation(token)
            for token, tag in zip(self.tokens, self.tags, strict=True)
        ]


def escape_token(token: str) -> str:
    """Write a token so that it can stand in a bracketed tree, where parentheses have a meaning."""
    if "\\" in token:  # a backslash before one of these is taken away by who reads the tree
        token = token.replace("\\/", "\\\\/").replace("\\*", "\\\\*")
    return token.replace("(", "-LRB-").replace(")", "-RRB-") if "(" in token or ")" in token else token


@lru_cache(maxsize=1 << 16)
def unescape_token(token: str) -> str:
    r"""Gives the text that a leaf stands for: `-LRB-` is `(`, `1\/2` is `1/2`."""
    if token in BRACKET_NAMES:
        return BRACKET_NAMES[token]
    if "\\" in token or "-LRB-" in token or "-RRB-" in token:
        for escaped, plain in (("\\/", "/"), ("\\*", "*"), ("-LRB-", "("), ("-RRB-", ")")):
            token = token.replace(escaped, plain)
    return token


@lru_cache(maxsize=1 << 12)
def strip_function(label: str) -> str:
    """Strip function tags and indices from a label: `NP-SBJ-1` and `NP=2` are `NP`, `-LRB-` stays."""
    if label.startswith("-"):
        return label
    return re.split(r"[-=|]", label, maxsplit=1)[0]


def read_trees(
    paths: str | Path | Sequence[str | Path],
    *,
    on_error: OnError | None = None,
) -> Iterator[Tree]:
    """Read trees from files and folders, Penn-style ones and ones without labels.

    Args:
        paths: Files, folders (their treebank files, sorted, subfolders too) or `-`; none is stdin.
        on_error: Called with each bad tree, which is then skipped; None raises it. After a bracket that never
            closes, reading goes on at the next line that begins with a bracket.

    Yields:
        A tree for each top-level bracket, trees without words included (`()`, or nothing but traces).

    Raises:
        OrdtoolError: For a missing file, a folder without treebank files, invalid UTF-8, a bracket that never
            opens or closes, text outside of brackets, or trees with labels beside trees without in one file, with
            `file:line`.
    """
    for path in tree_files(paths):
        with open_input(path) as stream:
            yield from trees_of(stream, on_error=on_error)


def trees_of(stream: Input, *, on_error: OnError | None = None) -> Iterator[Tree]:
    """Read trees from an input that is open, as `read_trees` does."""
    for atoms, where, labelled in decided_brackets(stream, on_error):
        yield to_tree(atoms, where) if labelled else to_unlabelled_tree(atoms, where)


def decided_brackets(stream: Input, on_error: OnError | None = None) -> Iterator[tuple[list[str], str, bool]]:
    """Read brackets and decide whether they have labels, which is one thing for all trees of an input.

    The first tree of which it is certain decides (see `is_labelled`), and where there is none, the suffix: `.brackets` has
    none.

    Yields:
        The atoms of each tree, `file:line` where it begins, and whether it has labels.
    """
    labelled: bool | None = None
    undecided: list[tuple[list[str], str]] = []
    decided = ""
    for atoms, where in read_brackets(read_lines(stream, stream.source), stream.source, on_error):
        found = is_labelled(atoms)
        if labelled is None:
            undecided.append((atoms, where))
            if found is None and len(undecided) < _UNDECIDED:
                continue
            labelled, decided = _by_suffix(stream) if found is None else found, where
            yield from ((*tree, labelled) for tree in undecided)
        elif found is None or found == labelled:
            yield atoms, where, labelled
        else:
            error = OrdtoolError(
                f"{where}: a tree {_LABELS[found]}, and the tree of {decided} is one {_LABELS[labelled]}",
                "put trees with labels and trees without into files of their own",
            )
            reject(error, on_error)
    if labelled is None:
        yield from ((*tree, _by_suffix(stream)) for tree in undecided)


def _by_suffix(stream: Input) -> bool:
    """Whether trees have labels, as far as the name of their file tells."""
    return data_suffix(stream.path) not in _UNLABELLED_SUFFIXES


def holds_trees(stream: Input) -> bool:
    """Whether an input, of which nothing was read yet, is bracketed trees: by its suffix, or by its first line."""
    suffix = data_suffix(stream.path)
    if suffix in TREE_SUFFIXES and suffix != _PLAIN_SUFFIX:
        return True
    if has_jsonl_suffix(stream.path):
        return False
    return begins_tree(stream.first_line().decode("utf-8", "replace"))


def tree_files(paths: str | Path | Sequence[str | Path]) -> Iterator[str | Path]:
    """List the files that `paths` stand for: a folder is its treebank files, sorted, with those of subfolders.

    Raises:
        OrdtoolError: For a folder without treebank files.
    """
    for path in tuple(as_many(paths)) or (STDIN,):
        if str(path) == STDIN or not Path(path).is_dir():
            yield path
            continue
        files = sorted(file for file in Path(path).rglob("*") if _is_tree_file(file))
        if not files:
            endings = " ".join(sorted(f"*{suffix}" for suffix in TREE_SUFFIXES))
            raise OrdtoolError(f"{path}: a folder without treebank files", f"looked for {endings}")
        yield from files


def _is_tree_file(file: Path) -> bool:
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    return (
        bool(suffixes) and suffixes[-1] in TREE_SUFFIXES and not file.name.startswith(".") and file.is_file()
    )


def read_brackets(
    lines: Iterator[bytes], source: str, on_error: OnError | None = None
) -> Iterator[tuple[list[str], str]]:
    """Split a stream into its top-level brackets.

    Args:
        lines: Lines as bytes, without line ends.
        source: Name of the stream, for messages.
        on_error: As in `read_trees`.

    Yields:
        The atoms of each tree, brackets included, and `file:line` where it begins.
    """
    numbered = enumerate(lines, start=1)
    again: list[tuple[int, bytes]] = []
    told: set[str] = set()
    while True:
        reader = _BracketReader(source)
        try:
            for number, raw in chain(again, numbered):
                yield from reader.read(number, raw)
            reader.end()
            return
        except OrdtoolError as error:
            if on_error is None:
                raise
            if error.message not in told:  # a bad line is met again when an earlier tree never closed
                on_error(error)
            told.add(error.message)
            # Some lines of the bad tree may be good trees: an indented line belongs to the tree above it.
            rest = reader.lines[1:]
            begin = next((k for k, (_, raw) in enumerate(rest) if raw.startswith(b"(")), len(rest))
            again = rest[begin:] + [line for line in again if line[0] > reader.lines[-1][0]]


class _BracketReader:
    """Collect lines until the brackets balance."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.lines: list[tuple[int, bytes]] = []
        self.atoms: list[str] = []
        self.depth = 0

    def read(self, number: int, raw: bytes) -> Iterator[tuple[list[str], str]]:
        """Take a line; yields the trees that end on it."""
        self.lines.append((number, raw))
        for atom in ATOM.findall(decode_line(raw, self.source, number)):
            if atom == "(":
                self.depth += 1
            elif self.depth == 0:
                self._refuse(atom, number)
            elif atom == ")":
                self.depth -= 1
            self.atoms.append(atom)
            if self.depth == 0:
                done, self.atoms = self.atoms, []
                yield done, f"{self.source}:{self.lines[0][0]}"
                self.lines = [(number, raw)]
        if self.depth == 0:
            self.lines = []

    def _refuse(self, atom: str, number: int) -> None:
        if atom == ")":
            raise OrdtoolError(
                f"{self.source}:{number}: a bracket closes that was never opened",
                "count the brackets of this tree",
            )
        shown = atom if len(atom) <= 30 else atom[:30] + "…"
        raise OrdtoolError(
            f"{self.source}:{number}: expected a tree in brackets, found {shown!r}",
            "a tree looks like (S (NP (DT The) (NN cat)) (VP (VBD sat)))",
        )

    def end(self) -> None:
        """End the stream."""
        if self.depth:
            raise OrdtoolError(
                f"{self.source}:{self.lines[0][0]}: the bracket that opens here never closes"
                f" ({self.depth} open at the end of the file)",
                "add the missing ')', or leave bad trees out with `on_error=skip`",
            )


def to_tree(atoms: Sequence[str], where: str = "") -> Tree:
    """Return a tree of the atoms of one top-level bracket, read as Penn brackets.

    The first atom of a bracket is its label, every other one a leaf; a bracket around a single leaf is its tag.
    Traces (`-NONE-`) and nodes over nothing else are dropped, and so is a root without a label or named ROOT,
    TOP or S1 that only wraps another node, and a node inside that has no label.

    Args:
        atoms: Brackets, labels and leaves of one balanced bracket.
        where: `file:line`.
    """
    tokens: list[str] = []
    tags: list[str] = []
    nodes: list[Constituent | None] = []  # in pre-order; None while a node is open
    stack: list[_Open] = []
    previous = ""
    for atom in atoms:
        if atom == "(":
            stack.append(_Open(len(tokens), len(nodes)))
            nodes.append(None)
        elif atom == ")":
            _close(stack.pop(), tokens, tags, nodes)
        elif previous == "(":
            stack[-1].label = atom
        else:
            stack[-1].leaves += 1
            tokens.append(unescape_token(atom))
            tags.append("")
        previous = atom
    constituents = tuple(node for node in nodes if node is not None)
    if (
        len(constituents) > 1
        and constituents[0].label in _ROOTS
        and constituents[0][1:] == constituents[1][1:]
    ):
        constituents = constituents[1:]
    return Tree(tuple(tokens), tuple(tags), constituents, where)


@dataclass(slots=True)
class _Open:
    """A bracket that is open: where its tokens and nodes begin, and how many leaves stand in it without a tag."""

    start: int
    place: int
    label: str = ""
    leaves: int = 0


def _close(node: _Open, tokens: list[str], tags: list[str], nodes: list[Constituent | None]) -> None:
    if node.leaves == 1 and len(tokens) == node.start + 1 and len(nodes) == node.place + 1:
        nodes.pop()
        if node.label == _TRACE:
            tokens.pop()
            tags.pop()
        else:
            tags[-1] = strip_function(node.label)
    elif len(tokens) == node.start:
        del nodes[node.place :]
    elif not node.label and node.place:
        del nodes[node.place]
    else:
        nodes[node.place] = Constituent(strip_function(node.label), node.start, len(tokens))


def to_unlabelled_tree(atoms: Sequence[str], where: str = "") -> Tree:
    """Return a tree of brackets without labels and tags, as `((The cat) (sat down))`: every atom is a leaf."""
    tokens: list[str] = []
    nodes: list[Constituent] = []
    stack: list[tuple[int, int]] = []
    for atom in atoms:
        if atom == "(":
            stack.append((len(tokens), len(nodes)))
            nodes.append(Constituent("", len(tokens), len(tokens)))
        elif atom == ")":
            start, place = stack.pop()
            nodes[place] = Constituent("", start, len(tokens))
        else:
            tokens.append(unescape_token(atom))
    kept = tuple(node for node in nodes if node.end > node.start)
    return Tree(tuple(tokens), ("",) * len(tokens), kept, where)


def write_brackets(tokens: Sequence[str], spans: Sequence[Span]) -> str:
    """Write a tree as brackets without labels: `((The cat) (sat down) .)`.

    Parentheses among the tokens are written -LRB- and -RRB-. A sentence of one token is `(Yes)`, one without tokens `()`.

    Args:
        tokens: All tokens.
        spans: Constituents wider than one token.
    """
    opening, closing = _edges(spans, len(tokens))
    return (
        " ".join(
            "(" * opening[k] + escape_token(token) + ")" * closing[k + 1] for k, token in enumerate(tokens)
        )
        or "()"
    )


def write_penn(
    tokens: Sequence[str],
    spans: Sequence[Span],
    tags: Sequence[str] | None = None,
    constituents: Sequence[Constituent] | None = None,
) -> str:
    """Write a tree as Penn brackets: `(S (NP (DT The) (NN cat)) (VP (VBD sat)))`.

    Args:
        tokens: All tokens.
        spans: Constituents wider than one token, which are written with the label X where there are no others.
        tags: A tag a token where they are known; X otherwise.
        constituents: All nodes with their labels, parents before children, instead of `spans`.
    """
    opening: list[str] = [""] * (len(tokens) + 1)
    closing = [0] * (len(tokens) + 1)
    plain = [Constituent("X", *span) for span in (spans if len(tokens) > 1 else [(0, len(tokens))])]
    for label, start, end in constituents or plain:
        opening[start] += f"({label or 'X'} "
        closing[end] += 1
    tags = tags or ["X"] * len(tokens)
    return (
        " ".join(
            f"{opening[k]}({tags[k] or 'X'} {escape_token(token)})" + ")" * closing[k + 1]
            for k, token in enumerate(tokens)
        )
        or "(X)"
    )


def _edges(spans: Sequence[Span], length: int) -> tuple[list[int], list[int]]:
    """Return the number of constituents that begin and end at each place."""
    opening, closing = [0] * (length + 1), [0] * (length + 1)
    for start, end in spans if length > 1 else [(0, length)]:
        opening[start] += 1
        closing[end] += 1
    return opening, closing
