"""Where hard-wrapped text breaks a line inside a paragraph, and where a paragraph ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby, islice

from ordtool.io.text import Record
from ordtool.parsing.text.tokenize import join_lines

__all__ = ["blocks", "paragraphs"]

# The widest line of a hard-wrapped block; wider ones are paragraphs of a line each. Below the second number lines must begin
# in lower case too, so that lists and verse stay as they are.
_WIDTHS, _NARROW = range(20, 101), 40
# Lines on which a block is judged: what is held of text without blank lines.
_JUDGED = 200
# The shares of a wrapped block's inner lines that are full, and that end inside of a sentence.
_FULL, _OPEN = 0.7, 0.5
# The share of the last wrapped block's width from which a block, even of two lines, is taken to be of the same text.
_ALIKE = 0.8
# The share of the width by which a full line may be too short: books are wrapped by hand too, and edited.
_SLACK = 1 / 9
# A line that ends a sentence may be the last of a paragraph; one that ends so goes on.
_ENDS = tuple(".?!:。？！…\"”’')")
_GOES_ON = tuple(",;:-—")


def paragraphs(records: Iterable[Record]) -> Iterator[Record]:
    """Join the lines of hard-wrapped text to paragraphs, as they come.

    Each block between blank lines is judged alone, so that a poem in a novel keeps its lines. A block is hard-wrapped if
    its widest line has 20 to 100 characters (below 40, most of its lines must begin in lower case too), most of its lines
    but the last are full, which is that the next line's first word would have made them as wide as the widest, and at
    least half of them end inside of a sentence; behind a wrapped block, one that is about as wide may end its lines where
    it likes. Sentences a line aren't full, and end where sentences end. In a wrapped block a line that isn't full ends a
    paragraph where it ends a sentence, and where it is a heading: short, without a comma at its end. The lines of all
    other blocks are paragraphs.

    Args:
        records: Lines; those with data, which are no lines of a text, stay as they are.

    Yields:
        The paragraphs, each with the place of its first line. No more than 200 lines are held.
    """
    known = 0
    for block in _blocks(records):
        held = list(islice(block, _JUDGED))
        if held[0].data is not None:
            yield from chain(held, block)
            continue
        width = _wrapped_at([record.text.strip() for record in held], known)
        known = width or known
        yield from _joined(chain(held, block), width)


def blocks(records: Iterable[Record]) -> Iterator[Record]:
    """Join all lines between blank ones, whatever they look like; records with data stay as they are."""
    for block in _blocks(records):
        held = list(block)
        yield from held if held[0].data is not None else [_paragraph(held[0], [r.text.strip() for r in held])]


def _blocks(records: Iterable[Record]) -> Iterator[Iterator[Record]]:
    """Cut lines at blank ones, and where records with data begin or end."""
    for (plain, blank), block in groupby(records, key=lambda r: (r.data is None, not r.text.strip())):
        if not (plain and blank):
            yield block


def _joined(block: Iterable[Record], width: int) -> Iterator[Record]:
    """Yield the paragraphs of a block that is wrapped at a width; 0: it is not, and each line is one."""
    first: Record | None = None
    lines: list[str] = []
    for record in block:
        text = record.text.strip()
        if first is not None and not (width and _goes_on(lines[-1], text, width)):
            yield _paragraph(first, lines)
            first = None
        if first is None:
            first, lines = record, []
        lines.append(text)
    if first is not None:
        yield _paragraph(first, lines)


def _paragraph(first: Record, lines: Sequence[str]) -> Record:
    return Record(first.source, first.line, join_lines(lines))


def _wrapped_at(lines: Sequence[str], known: int) -> int:
    """Return the width at which lines are wrapped, 0 if they are not; `known` is the width of the wrapped block before."""
    width = max(map(len, lines))
    inner = len(lines) - 1
    if not inner or width not in _WIDTHS:
        return 0
    full = sum(_is_full(line, following, width) for line, following in zip(lines, lines[1:], strict=False))
    open_ended = sum(not line.endswith(_ENDS) for line in lines[:-1])
    if width < _NARROW and 2 * sum(line[0].islower() for line in lines[1:]) < inner:
        return 0
    alike = known and width >= _ALIKE * known
    return width if full >= _FULL * inner and (alike or open_ended >= _OPEN * inner) else 0


def _is_full(line: str, following: str, width: int) -> bool:
    """Whether the following line's first word would have made a line about as wide as the widest, or wider."""
    word = following.split(maxsplit=1)[0]
    return len(line) + 1 + len(word) > width * (1 - _SLACK)


def _goes_on(line: str, following: str, width: int) -> bool:
    if _is_full(line, following, width):
        return True
    return not line.endswith(_ENDS) and (2 * len(line) >= width or line.endswith(_GOES_ON))
