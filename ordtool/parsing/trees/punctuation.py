"""Punctuation: which tokens are, what it says about where phrases end, and where it hangs in a tree.

A parser's model reads words alone. `attach_punctuation` makes a tree over all tokens of the tree over the words, in which
punctuation hangs as treebanks hang it, and which gives the tree over the words again when the punctuation is taken out.

A language model without punctuation never sees a comma, but the text to parse has them, and phrases seldom run
across one (Seginer 2007; Spitkovsky et al. 2011; Ponvert et al. 2011). `marks_between` names what stands at each
boundary; `raise_marked` raises distances there, and `ordtool.parsing.spans.model` reads the names as features.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from ordtool.parsing.trees.chart import Span

BRACKET_NAMES = {"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-LCB-": "{", "-RCB-": "}"}
"""How treebanks write brackets inside bracketed trees, and what stands for them in text."""

# Unicode calls these punctuation, the Penn Treebank tags them as words or symbols (10 %, AT&T, C #).
_WORD_SYMBOLS = frozenset("%&#@*‰§¶†‡")

PAIRS = {
    "(": ")", "[": "]", "{": "}", "-LRB-": "-RRB-", "-LSB-": "-RSB-", "-LCB-": "-RCB-", "“": "”", "‘": "’", "„": "“",
    "``": "''", '"': '"', "''": "''", "«": "»", "‹": "›", "「": "」", "『": "』", "《": "》", "〈": "〉", "（": "）",
    "【": "】", "［": "］", "〔": "〕",
}  # fmt: skip
"""Marks that open, with what closes them; a straight quote closes itself."""

MARKS = ("comma", "colon", "open", "close", "dash", "joint", "quote", "stop", "other")
"""Kinds of punctuation. `joint` is a hyphen or slash that joins two words, `dash` the same sign between phrases; the comma
of Chinese enumerations, which stands inside phrases, is among the `other` ones."""

# Between the parts of a foreign name in Chinese: never a dash.
_NAME_DOTS = ("·", "‧", "・")
_KINDS = {
    **dict.fromkeys(",،，", "comma"),
    **dict.fromkeys(";:；：", "colon"),
    **dict.fromkeys("([{（［【《〈「『<", "open"),
    **dict.fromkeys(")]}）］】》〉」』>", "close"),
    **dict.fromkeys((".", "!", "?", "。", "！", "？", "...", "…", "……", ".."), "stop"),
    **dict.fromkeys(("--", "---", "—", "——", "―", "─", "──"), "dash"),
    **dict.fromkeys(("-", "–", "‐", "‑", "/", *_NAME_DOTS), "joint"),  # noqa: RUF001
    **dict.fromkeys(('"', "'", "`", "``", "''", "“", "”", "‘", "’", "„", "′"), "quote"),  # noqa: RUF001
}
_BITS = {kind: 1 << place for place, kind in enumerate(MARKS)}
_JOINT_TAGS = frozenset({"HYPH", "SYM"})


@lru_cache(maxsize=1 << 16)
def is_punctuation(token: str) -> bool:
    """Return whether a token is punctuation, judged by its surface: no treebank tag is needed.

    A token is punctuation when every character is (Unicode categories P*, and the backquote of ``); `-LRB-` and
    the other bracket names count as the brackets they stand for. Signs that treebanks tag as words or symbols
    (`%`, `&`, `#`, `@`, `*`, currency) are not punctuation.
    """
    if token in BRACKET_NAMES:
        return True
    return bool(token) and all(
        character not in _WORD_SYMBOLS
        and (character == "`" or unicodedata.category(character).startswith("P"))
        for character in token
    )


def mark_kind(token: str, tag: str | None = None, *, joined: bool = False) -> str:
    """Name the kind of a punctuation token, one of `MARKS`.

    Args:
        token: Its surface.
        tag: Its part-of-speech tag, where there is one: it tells a hyphen (`HYPH`, `SYM`) from a dash (`:`).
        joined: Whether it touches the words on both sides; tells the same where there is no tag.
    """
    kind = _KINDS.get(token, "other")
    if kind == "joint" and token not in _NAME_DOTS and not (tag in _JOINT_TAGS if tag else joined):
        return "dash"
    return kind


def marks_between(
    tokens: Sequence[str],
    punctuation: Sequence[bool],
    tags: Sequence[str] | None = None,
    offsets: Sequence[tuple[int, int]] | None = None,
) -> np.ndarray:
    """Say what punctuation stands at each boundary between words.

    Args:
        tokens: Words and punctuation of a sentence.
        punctuation: Which of them is punctuation.
        tags: Part-of-speech tags, where they are known.
        offsets: Character offsets, half-open, where they are known.

    Returns:
        `(words + 1,)` of uint16: bit k of number i is set if a mark of kind `MARKS[k]` stands between word i - 1 and
        word i; the first number is what stands before the first word, the last one what stands behind the last.
    """
    found = [0]
    for place, (token, mark) in enumerate(zip(tokens, punctuation, strict=True)):
        if not mark:
            found.append(0)
            continue
        kind = mark_kind(token, tags[place] if tags else None, joined=_touches(offsets, place))
        found[-1] |= _BITS[kind]
    return np.array(found, dtype=np.uint16)


def _touches(offsets: Sequence[tuple[int, int]] | None, place: int) -> bool:
    if offsets is None or not 0 < place < len(offsets) - 1:
        return False
    return offsets[place - 1][1] == offsets[place][0] and offsets[place][1] == offsets[place + 1][0]


def raise_marked(distances: np.ndarray, marks: np.ndarray, weights: Mapping[str, float]) -> np.ndarray:
    """Raise the boundaries at which punctuation stands.

        d_t + std(d) * sum over the kinds of marks before word t of their weights

    A kind of negative weight, such as a hyphen, holds its neighbours together.

    Args:
        distances: `(words,)`.
        marks: `(words + 1,)`, see `marks_between`.
        weights: Standard deviations of the sentence's distances, by kind; kinds that are missing count 0.

    Returns:
        `(words,)`.
    """
    if not weights or not marks[1:-1].any():
        return distances
    bonus = sum(weights[kind] * ((marks[1:-1] & _BITS[kind]) > 0) for kind in weights)
    raised = np.array(distances, dtype=np.float64)
    raised[1:] += np.std(distances) * bonus
    return raised


def check_weights(weights: Mapping[str, object]) -> dict[str, float]:
    """Read weights of marks from a configuration.

    Raises:
        ValueError: For a kind that there isn't, or a weight that is no number.
    """
    unknown = set(weights) - set(MARKS)
    if unknown:
        raise ValueError(f"parse_marks names {', '.join(sorted(unknown))}: choices are {', '.join(MARKS)}")
    try:
        return {kind: float(weight) for kind, weight in weights.items()}  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ValueError(f"parse_marks has a weight that is no number: {dict(weights)}") from None


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
