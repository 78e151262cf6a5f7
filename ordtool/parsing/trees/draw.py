"""Trees as text: upright above the words where they fit, sideways where they don't.

Lines are made of segments `(text, depth)`, where depth is that of the constituent a stroke belongs to (0 for the whole
sentence) and -1 for words, so that the caller colours them or not.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby

from ordtool.parsing.trees.chart import Span
from ordtool.parsing.trees.punctuation import is_punctuation
from ordtool.parsing.trees.treebank import write_brackets

Segment = tuple[str, int]
WORD, MARK = -1, -2

# Strokes by the sides that they reach: left, right, up, down.
_STROKES = {
    "lr": "─", "ud": "│", "rd": "┌", "ld": "┐", "ru": "└", "lu": "┘", "lrd": "┬", "lru": "┴", "rud": "├", "lud": "┤",
    "lrud": "┼", "l": "─", "r": "─", "u": "│", "d": "│",
}  # fmt: skip
# Cyan, blue, magenta, yellow, green of the terminal's own palette: it knows its background.
_COLOURS = (36, 34, 35, 33, 32)
_DIM = 2
_TALLEST = 14


@dataclass(slots=True)
class Node:
    """A constituent or a token of a tree that is drawn.

    Attributes:
        start: First token.
        end: Token behind the last.
        depth: 0 for the whole sentence.
        children: Constituents and tokens, in order; none for a token.
        height: 0 for a token, else one more than the highest child.
        centre: Where the stroke to the parent meets it, in columns or pixels; set by the layout.
    """

    start: int
    end: int
    depth: int
    children: list[Node] = field(default_factory=list)
    height: int = 0
    centre: float = 0


def build_nodes(spans: Sequence[Span], length: int) -> list[Node]:
    """Return the nodes of a tree, constituents and tokens, in pre-order: the first one is the root.

    Args:
        spans: Constituents wider than one token, in pre-order.
        length: Number of tokens, at least 1.
    """
    nodes: list[Node] = []
    path: list[Node] = []
    remaining = iter([*spans, (length, length)])
    start, end = next(remaining)
    for token in range(length):
        while path and path[-1].end <= token:
            path.pop()
        opened = []
        while start == token:
            opened.append((start, end))
            start, end = next(remaining)
        for span in [*opened, (token, token + 1)]:
            node = Node(*span, len(path))
            if path:
                path[-1].children.append(node)
            nodes.append(node)
            path.append(node)
    for node in reversed(nodes):
        node.height = 1 + max((child.height for child in node.children), default=-1)
    return nodes


def place_nodes(nodes: Sequence[Node], centres: Sequence[float]) -> None:
    """Centre every constituent over its children, and every token where `centres` says."""
    for node in reversed(nodes):
        node.centre = (
            (node.children[0].centre + node.children[-1].centre) / 2 if node.children else centres[node.start]
        )


def display_width(text: str) -> int:
    """Return the number of terminal columns of a text: two for wide characters, none for combining ones."""
    return len(text) if text.isascii() else sum(map(_character_width, text))


@lru_cache(maxsize=4096)
def _character_width(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def draw_tree(tokens: Sequence[str], spans: Sequence[Span], width: int = 80) -> list[list[Segment]]:
    """Draw a tree within `width` columns.

    Upright, with the words in one line under the tree, where that fits and isn't too tall to be read; else
    sideways, a word a line; and as wrapped brackets if the tree is deeper than the screen is wide.

    Args:
        tokens: All tokens.
        spans: Constituents wider than one token, in pre-order.
        width: Columns there are.

    Returns:
        Lines of segments.
    """
    tokens = [_printable(token) for token in tokens]
    if len(tokens) < 2:
        return [[(tokens[0], WORD)] if tokens else [("()", MARK)]]
    nodes = build_nodes(spans, len(tokens))
    longest = sum(map(display_width, tokens)) + len(tokens) - 1
    if longest <= width and nodes[0].height <= _TALLEST:
        return _draw_upright(tokens, nodes)
    depth = max(node.depth for node in nodes)
    widest = max(map(display_width, tokens)) + 1
    for step in (2, 1):
        if depth * step + min(widest, 16) <= width:
            return _draw_sideways(tokens, nodes, step)
    return _wrap(write_brackets(tokens, spans), width)


def _printable(token: str) -> str:
    """Take control characters out of a token: they would move the cursor or change colours."""
    return token if token.isprintable() else "".join(c if c.isprintable() else "�" for c in token)


def _word(token: str) -> Segment:
    return token, MARK if is_punctuation(token) else WORD


def _draw_upright(tokens: Sequence[str], nodes: list[Node]) -> list[list[Segment]]:
    centres, column = [], 0
    for token in tokens:
        centres.append(column + (display_width(token) - 1) // 2)
        column += display_width(token) + 1
    place_nodes(nodes, centres)
    top = nodes[0].height
    # For each row and column the sides that its stroke reaches, and the depth of its constituent.
    grid: list[dict[int, tuple[set[str], int]]] = [{} for _ in range(top)]

    def stroke(row: int, at: int, sides: str, depth: int) -> None:
        grid[row].setdefault(at, (set(), depth))[0].update(sides)

    for node in nodes:
        if not node.children:
            continue
        row, centre = top - node.height, int(node.centre)
        first, last = int(node.children[0].centre), int(node.children[-1].centre)
        for at in range(first, last + 1):
            stroke(row, at, ("l" if at > first else "") + ("r" if at < last else ""), node.depth)
        if node.depth:
            stroke(row, centre, "u", node.depth)
        for child in node.children:
            stroke(row, int(child.centre), "d", node.depth)
            for below in range(row + 1, top - child.height):
                stroke(below, int(child.centre), "ud", node.depth)
    lines = [_grid_line(row) for row in grid]
    words = [segment for token in tokens for segment in (_word(token), (" ", WORD))]
    return [*lines, words[:-1]]


def _grid_line(row: dict[int, tuple[set[str], int]]) -> list[Segment]:
    cells = [(" ", WORD)] * (max(row) + 1)
    for at, (sides, depth) in row.items():
        cells[at] = (_STROKES["".join(side for side in "lrud" if side in sides)], depth)
    return [
        ("".join(text for text, _ in run), depth) for depth, run in groupby(cells, key=lambda cell: cell[1])
    ]


def _draw_sideways(tokens: Sequence[str], nodes: list[Node], step: int) -> list[list[Segment]]:
    lines: list[list[Segment]] = []
    dash = "─" * (step - 1)
    path: list[tuple[Node, int]] = []  # constituents above the token, and which child comes next
    for node in nodes:
        while path and path[-1][0].end <= node.start:
            path.pop()
        if node.children:
            path.append((node, 0))
            continue
        segments: list[Segment] = []
        for above, _ in path:
            index = next(k for k, child in enumerate(above.children) if child.end > node.start)
            child, last = above.children[index], len(above.children) - 1
            if child.start == node.start:
                corner = "┬" if index == 0 else "└" if index == last else "├"
                segments.append((corner + dash, above.depth))
            else:
                segments.append(((" " if index == last else "│") + " " * (step - 1), above.depth))
        lines.append([*segments, (" ", WORD), _word(tokens[node.start])])
    return lines


def _wrap(text: str, width: int) -> list[list[Segment]]:
    lines, line = [], ""
    for piece in text.split(" "):
        if line and display_width(line) + 1 + display_width(piece) > width:
            lines.append(line)
            line = piece
        else:
            line = f"{line} {piece}" if line else piece
    return [[(line, WORD)] for line in [*lines, line]]


def to_ansi(lines: Iterable[Sequence[Segment]], colour: bool = True) -> str:
    """Join lines of segments into a text, with ANSI colours by depth if wanted."""
    return "\n".join(
        "".join(_paint(*segment) if colour else segment[0] for segment in line).rstrip() for line in lines
    )


def _paint(text: str, depth: int) -> str:
    if depth == WORD or not text.strip():
        return text
    return f"\x1b[{_DIM if depth == MARK else _COLOURS[depth % len(_COLOURS)]}m{text}\x1b[0m"
