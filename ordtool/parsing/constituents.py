"""Trees over a person's own tokens: punctuation put back, brackets written.

The parser's model reads words alone. Here the tree over the words becomes a tree over all tokens, in which punctuation hangs
as treebanks hang it, and which gives the tree over the words again when the punctuation is taken out.
"""

from __future__ import annotations

from collections.abc import Sequence

from ordtool.parsing.tree import Span
from ordtool.parsing.treebank import escape_token

PAIRS = {
    "(": ")", "[": "]", "{": "}", "-LRB-": "-RRB-", "-LSB-": "-RSB-", "-LCB-": "-RCB-", "“": "”", "‘": "’", "„": "“",
    "``": "''", '"': '"', "''": "''", "«": "»", "‹": "›", "「": "」", "『": "』", "《": "》", "〈": "〉", "（": "）",
    "【": "】", "［": "］", "〔": "〕",
}  # fmt: skip
"""Marks that open, with what closes them; a straight quote closes itself."""


def attach_punctuation(
    words: Sequence[Span], tokens: Sequence[str], punctuation: Sequence[bool]
) -> list[Span]:
    """Makes a tree over all tokens of a tree over the words alone.

    A mark between two words becomes a child of the smallest constituent that holds both, a mark at the edge of the
    sentence a child of the whole; brackets and quotes around exactly one constituent, or around a single word, are joined to
    it: `(-LRB- IOP -RRB-)`. Taking the punctuation out again gives the tree over the words.

    Args:
        words: Spans over the words (tokens that are not punctuation) wider than one word, in pre-order.
        tokens: All tokens.
        punctuation: Whether each token is punctuation.

    Returns:
        Spans over all tokens wider than one token, in pre-order, the whole sentence first.
    """
    if not any(punctuation):
        return list(words)
    places = [place for place, mark in enumerate(punctuation) if not mark]
    nodes = {span: _Node(places[span[0]], places[span[1] - 1] + 1) for span in words}
    for word, parent in enumerate(_link(nodes, len(places))):
        nodes[word, word + 1] = _Node(places[word], places[word] + 1, parent)
    before = _counts(punctuation)
    bare: list[Span] = []
    for opening, closing in _matching_marks(tokens, punctuation):
        if before[opening] == before[closing]:
            bare.append((opening, closing + 1))
        elif (before[opening], before[closing]) in nodes:
            nodes[before[opening], before[closing]].widen(opening, closing + 1)
    nodes.pop((0, len(places)), None)
    spans = {(0, len(tokens)), *bare, *((node.start, node.end) for node in nodes.values())}
    return sorted((span for span in spans if span[1] - span[0] > 1), key=lambda span: (span[0], -span[1]))


class _Node:
    """A constituent's place among the tokens."""

    __slots__ = ("end", "parent", "start")

    def __init__(self, start: int, end: int, parent: _Node | None = None) -> None:
        self.start, self.end, self.parent = start, end, parent

    def widen(self, start: int, end: int) -> None:
        """Takes in tokens at the edges, here and in every constituent above that ends at the same edge."""
        node: _Node | None = self
        while node is not None and (node.start > start or node.end < end):
            node.start, node.end = min(node.start, start), max(node.end, end)
            node = node.parent


def _link(nodes: dict[Span, _Node], length: int) -> list[_Node | None]:
    """Gives every node, in pre-order, its parent, and every word the smallest node that holds it."""
    path: list[tuple[int, _Node]] = []  # where each open node ends
    smallest: list[_Node | None] = []
    todo = iter([*nodes.items(), ((length, length), None)])
    (start, end), node = next(todo)
    for word in range(length):
        while path and path[-1][0] <= word:
            path.pop()
        while start == word and node is not None:
            node.parent = path[-1][1] if path else None
            path.append((end, node))
            (start, end), node = next(todo)
        smallest.append(path[-1][1] if path else None)
    return smallest


def _counts(punctuation: Sequence[bool]) -> list[int]:
    """Counts the words before each token."""
    counts, words = [], 0
    for mark in punctuation:
        counts.append(words)
        words += not mark
    return counts


def _matching_marks(tokens: Sequence[str], punctuation: Sequence[bool]) -> list[tuple[int, int]]:
    """Pairs brackets and quotes, inner pairs first; what has no partner is left out."""
    pairs: list[tuple[int, int]] = []
    waiting: list[tuple[str, int]] = []  # what would close, and where it was opened
    for place, token in enumerate(tokens):
        if not punctuation[place]:
            continue
        depth = next(
            (k for k in range(len(waiting) - 1, max(len(waiting) - 9, -1), -1) if waiting[k][0] == token),
            None,
        )
        if depth is not None:
            pairs.append((waiting[depth][1], place))
            del waiting[depth:]
        elif token in PAIRS:
            waiting.append((PAIRS[token], place))
    return pairs


def write_brackets(tokens: Sequence[str], spans: Sequence[Span]) -> str:
    """Writes a tree as brackets without labels: `((The cat) (sat down) .)`.

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


def write_penn(tokens: Sequence[str], spans: Sequence[Span], tags: Sequence[str] | None = None) -> str:
    """Writes a tree as Penn brackets, for programs that expect labels: `(X (X (X The) (X cat)) ...)`.

    Args:
        tokens: All tokens.
        spans: Constituents wider than one token.
        tags: A tag a token where they are known; X otherwise.
    """
    opening, closing = _edges(spans, len(tokens))
    tags = tags or ["X"] * len(tokens)
    return (
        " ".join(
            "(X " * opening[k] + f"({tags[k] or 'X'} {escape_token(token)})" + ")" * closing[k + 1]
            for k, token in enumerate(tokens)
        )
        or "(X)"
    )


def _edges(spans: Sequence[Span], length: int) -> tuple[list[int], list[int]]:
    """Counts the constituents that begin and end at each place."""
    opening, closing = [0] * (length + 1), [0] * (length + 1)
    for start, end in spans if length > 1 else [(0, length)]:
        opening[start] += 1
        closing[end] += 1
    return opening, closing
