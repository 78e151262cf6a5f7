"""Trees as SVG, one below the other."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from xml.sax.saxutils import escape

from ordtool.errors import OrdtoolError
from ordtool.parsing.trees.chart import Span
from ordtool.parsing.trees.draw import build_nodes, place_nodes
from ordtool.parsing.trees.punctuation import is_punctuation

FONT_SIZE = 16
_LEVEL = 26  # pixels a level
_GAP = 13  # between words
_MARGIN = 24
_BETWEEN = 34  # between trees
_CORNER = 7
_LARGEST = 32_767  # pixels, the limit of common drawing libraries
# Muted colours that stay apart for colour-blind readers (after Tol's bright scheme), by depth.
_COLOURS = ("#4477aa", "#228833", "#aa3377", "#cc6611", "#3399bb")
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Noto Sans', 'Noto Sans CJK SC', sans-serif"
# Widths of characters in a common sans-serif, in parts of the font size; no font is at hand to measure.
_NARROW, _LETTER, _CAPITAL, _BROAD, _WIDE = 0.30, 0.57, 0.68, 0.88, 1.0


def draw_svg(trees: Iterable[tuple[Sequence[str], Sequence[Span]]]) -> str:
    """Draw trees as an SVG document.

    Args:
        trees: Tokens and constituents wider than one token (in pre-order) of each sentence.

    Returns:
        A document that stands alone: white ground, text that can be selected, no scripts.

    Raises:
        OrdtoolError: As soon as it is larger than programs show pictures, which is some hundred sentences.
    """
    parts: list[str] = []
    width, top = 0.0, float(_MARGIN)
    for tokens, spans in trees:
        body, right, height = _draw_one([legal_text(token) for token in tokens], spans)
        parts.append(f'<g transform="translate({_MARGIN} {_number(top)})">\n{body}</g>\n')
        width = max(width, right)
        top += height + _BETWEEN
        if max(top, width) > _LARGEST:
            raise OrdtoolError(
                f"{len(parts):,} trees make a picture of more than {_LARGEST:,} pixels, which no program shows",
                "`output_format=html` writes a page of any length",
            )
    total_width = _number(width + 2 * _MARGIN)
    total_height = _number(max(top - _BETWEEN + _MARGIN, 2 * _MARGIN))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{total_width}" height="{total_height}"'
        f' viewBox="0 0 {total_width} {total_height}">\n'
        f"<style>text{{font:{FONT_SIZE}px {_FONT};fill:#1f2328;text-anchor:middle}}.mark{{fill:#8c959f}}"
        "path{fill:none;stroke-width:1.8;stroke-linecap:round;stroke-linejoin:round}</style>\n"
        f'<rect width="100%" height="100%" fill="#ffffff"/>\n{"".join(parts)}</svg>\n'
    )


def _draw_one(tokens: Sequence[str], spans: Sequence[Span]) -> tuple[str, float, float]:
    """Return the elements of one tree, its width and its height."""
    if not tokens:
        return '<text class="mark" x="10" y="16">()</text>\n', 20.0, float(FONT_SIZE)
    centres, column = [], 0.0
    for token in tokens:
        wide = text_width(token)
        centres.append(column + wide / 2)
        column += wide + _GAP
    nodes = build_nodes(spans, len(tokens))
    place_nodes(nodes, centres)
    foot = nodes[0].height * _LEVEL
    lines: list[str] = []
    for node in nodes:
        if node.children:
            ends = [
                (child.centre, foot - child.height * _LEVEL if child.children else foot + 2)
                for child in node.children
            ]
            colour = _COLOURS[node.depth % len(_COLOURS)]
            lines.append(f'<path stroke="{colour}" d="{_fork(foot - node.height * _LEVEL, ends)}"/>\n')
    words = [
        f'<text{_class(token)} x="{_number(centre)}" y="{foot + FONT_SIZE + 4}">{escape(token)}</text>\n'
        for token, centre in zip(tokens, centres, strict=True)
    ]
    return "".join([*lines, *words]), column - _GAP, float(foot + FONT_SIZE + 8)


def _class(token: str) -> str:
    return ' class="mark"' if is_punctuation(token) else ""


def _fork(y: float, ends: Sequence[tuple[float, float]]) -> str:
    """Draw a bar at height y with round corners at its ends, and a stroke from it down to every child."""
    (first, first_end), *inner, (last, last_end) = ends if len(ends) > 1 else [*ends, *ends]
    radius = min(_CORNER, (last - first) / 2, first_end - y, last_end - y)
    left, right, top = _number(first), _number(last), _number(y)
    turn = _number(y + radius)
    bar = (
        f"M{left} {_number(first_end)}V{turn}Q{left} {top} {_number(first + radius)} {top}"
        f"H{_number(last - radius)}Q{right} {top} {right} {turn}V{_number(last_end)}"
    )
    return bar + "".join(f"M{_number(x)} {top}V{_number(end)}" for x, end in inner)


def text_width(text: str) -> float:
    """Estimate the width of a text in pixels."""
    return FONT_SIZE * sum(map(_character_width, text))


def _character_width(character: str) -> float:
    if character in "iljI.,:;!|'’‘`()[]{}-/\\":
        return _NARROW
    if character in "mwMW@%—…":
        return _BROAD
    if unicodedata.combining(character):
        return 0.0
    if unicodedata.east_asian_width(character) in ("W", "F"):
        return _WIDE
    return _CAPITAL if character.isupper() else _LETTER


def legal_text(text: str) -> str:
    """Replace characters that XML and HTML do not allow, even escaped."""
    return "".join(_legal_characters(text))


def _legal_characters(text: str) -> Iterator[str]:
    for character in text:
        code = ord(character)
        bad = (
            (code < 0x20 and character not in "\t\n\r")
            or 0xD800 <= code <= 0xDFFF
            or code in (0xFFFE, 0xFFFF)
        )
        yield "�" if bad else character


def _number(value: float) -> str:
    """Write a coordinate with one decimal at most."""
    return f"{value:.1f}".removesuffix(".0")
