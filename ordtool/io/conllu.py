"""CoNLL-U in: the texts, words and tags of treebanks of Universal Dependencies (https://universaldependencies.org/format.html)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ordtool.errors import OnError, OrdtoolError, reject
from ordtool.io.inputs import Input, data_suffix, decode_line, read_lines

SUFFIX = ".conllu"
_COLUMNS = 10
_EMPTY = "_"
_COMMENT = re.compile(rb"# ?(newdoc|newpar|sent_id|text|global\.columns)\b")
_WORD = re.compile(rb"1(-\d+)?\t[^\t]+(\t[^\t]*){8}\s*")
_ID = re.compile(r"(\d+)(?:-(\d+)|\.\d+)?")
_TEXT = re.compile(r"# ?text ?= ?(.*)")


@dataclass(frozen=True, slots=True)
class ConlluSentence:
    """A sentence of a CoNLL-U file.

    Attributes:
        line: Its first line in the file.
        text: What `# text` says; without it, or where the words are others, the words with the spaces that the file gives.
        words: The words, each a piece of the text. A multiword token (`don't`, `du`) is its words if they spell it
            (`do`, `n't`), else one word.
        offsets: Where each word stands in the text, in characters, half-open.
        tags: Treebank tags of the words (XPOS) where there are any, else universal ones; several joined by `+`.
        universal: Universal tags of the words (UPOS), joined in the same way.
    """

    line: int
    text: str
    words: tuple[str, ...]
    offsets: tuple[tuple[int, int], ...]
    tags: tuple[str, ...]
    universal: tuple[str, ...]

    @property
    def punctuation(self) -> tuple[bool, ...]:
        """Whether the universal tag of each word is PUNCT."""
        return tuple(tag == "PUNCT" for tag in self.universal)


@dataclass(slots=True)
class _Unit:
    """What stands between two spaces or touches its neighbour: a word, or a multiword token with the words in it."""

    form: str
    space: bool
    last: int
    words: list[list[str]]

    def pieces(self) -> Iterator[tuple[str, str, str]]:
        """Yield forms, universal tags and treebank tags, without spaces in the forms."""
        if self.form == "".join(word[1] for word in self.words):
            found = [(word[1], word[3], word[4]) for word in self.words]
        else:
            found = [(self.form, "+".join(w[3] for w in self.words), "+".join(w[4] for w in self.words))]
        for form, universal, own in found:
            for piece in form.split():
                yield piece, universal, own


def holds_conllu(stream: Input) -> bool:
    """Whether an input, of which nothing was read yet, is CoNLL-U: by its name, or by its first line."""
    if data_suffix(stream.path) == SUFFIX:
        return True
    line = stream.first_line()
    return _COMMENT.match(line) is not None or _WORD.fullmatch(line) is not None


def conllu_sentences(stream: Input, on_error: OnError | None = None) -> Iterator[ConlluSentence]:
    """Read the sentences of CoNLL-U.

    Args:
        stream: An input that is open.
        on_error: Called with each bad sentence, which is then skipped; None raises it.

    Raises:
        OrdtoolError: With `file:line`, for a line that is none of CoNLL-U, or invalid UTF-8.
    """
    block: list[tuple[int, bytes]] = []
    for number, raw in enumerate(read_lines(stream, stream.source), start=1):
        if raw.strip():
            block.append((number, raw))
        else:
            yield from _sentence(block, stream.source, on_error)
            block = []
    yield from _sentence(block, stream.source, on_error)


def _sentence(
    block: list[tuple[int, bytes]], source: str, on_error: OnError | None
) -> Iterator[ConlluSentence]:
    try:
        text, units = _read(block, source)
    except OrdtoolError as error:
        reject(error, on_error)
        return
    if not units:
        return
    places = _find(text, units)
    if places is None:
        text = "".join(unit.form + " " * unit.space for unit in units).strip()
        places = _find(text, units) or []
    pieces = [piece for unit in units for piece in unit.pieces()]
    own = any(tag.strip("_+") for _, _, tag in pieces)
    tags = (treebank if own else universal for _, universal, treebank in pieces)
    yield ConlluSentence(
        block[0][0],
        text,
        tuple(form for form, _, _ in pieces),
        tuple(places),
        tuple("" if tag == _EMPTY else tag for tag in tags),
        tuple("" if tag == _EMPTY else tag for _, tag, _ in pieces),
    )


def _read(block: list[tuple[int, bytes]], source: str) -> tuple[str, list[_Unit]]:
    text, units = "", list[_Unit]()
    for number, raw in block:
        line = decode_line(raw, source, number)
        if line.startswith("#"):
            found = _TEXT.fullmatch(line)
            text = found[1].strip() if found else text
            continue
        columns = line.split("\t")
        place = _ID.fullmatch(columns[0])
        if len(columns) != _COLUMNS or place is None or not columns[1].strip():
            raise OrdtoolError(
                f"{source}:{number}: no line of CoNLL-U ({len(columns)} columns, the first is {columns[0][:20]!r})",
                "a word has ten columns between tabs: ID, FORM, LEMMA, UPOS, XPOS, FEATS, HEAD, DEPREL, DEPS, MISC",
            )
        if "." in place[0]:  # an empty node, which no text has
            continue
        space = "SpaceAfter=No" not in columns[9].split("|")
        if place[2] is not None:
            units.append(_Unit(columns[1], space, int(place[2]), []))
        elif units and units[-1].last >= int(place[1]):
            units[-1].words.append(columns)
        else:
            units.append(_Unit(columns[1], space, int(place[1]), [columns]))
    return text, units


def _find(text: str, units: list[_Unit]) -> list[tuple[int, int]] | None:
    """Find the words in the text, one behind the other; None if they are not what it holds."""
    places, position = [], 0
    for unit in units:
        for piece, _, _ in unit.pieces():
            while position < len(text) and text[position].isspace():
                position += 1
            if not text.startswith(piece, position):
                return None
            places.append((position, position + len(piece)))
            position += len(piece)
    return None if text[position:].strip() else places
