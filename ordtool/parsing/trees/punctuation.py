"""Punctuation: which tokens are, what it says about where phrases end, and where it hangs in a tree.

A parser's model reads words alone. `attach_punctuation` makes a tree over all tokens of the tree over the words, in which
punctuation hangs as treebanks hang it, and which gives the tree over the words again when the punctuation is taken out.

A language model without punctuation never sees a comma, but the text to parse has them, and phrases seldom run
across one (Seginer 2007; Spitkovsky et al. 2011; Ponvert et al. 2011). `punctuation_between` names what stands at each
boundary; `add_punctuation_bonus` raises distances there, and `ordtool.parsing.spans.model` reads the names as features.
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

PUNCTUATION_KINDS = ("comma", "colon", "open", "close", "dash", "hyphen", "quote", "stop", "other")
"""Kinds of punctuation. `hyphen` is a hyphen or slash that joins two words, `dash` the same sign between phrases; the comma
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
    **dict.fromkeys(("-", "–", "‐", "‑", "/", *_NAME_DOTS), "hyphen"),  # noqa: RUF001
    **dict.fromkeys(('"', "'", "`", "``", "''", "“", "”", "‘", "’", "„", "′"), "quote"),  # noqa: RUF001
}
_BITS = {kind: 1 << k for k, kind in enumerate(PUNCTUATION_KINDS)}
_HYPHEN_TAGS = frozenset({"HYPH", "SYM"})


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


def punctuation_kind(token: str, tag: str | None = None, *, joined: bool = False) -> str:
    """Return the kind of a punctuation token, one of `PUNCTUATION_KINDS`.

    Args:
        token: Its surface.
        tag: Its part-of-speech tag, where there is one: it tells a hyphen (`HYPH`, `SYM`) from a dash (`:`).
        joined: Whether it touches the words on both sides; tells the same where there is no tag.
    """
    kind = _KINDS.get(token, "other")
    if kind == "hyphen" and token not in _NAME_DOTS and not (tag in _HYPHEN_TAGS if tag else joined):
        return "dash"
    return kind


def punctuation_between(
    tokens: Sequence[str],
    punctuation: Sequence[bool],
    tags: Sequence[str] | None = None,
    offsets: Sequence[tuple[int, int]] | None = None,
) -> np.ndarray:
    """Return what punctuation stands at each boundary between words.

    Args:
        tokens: Words and punctuation of a sentence.
        punctuation: Which of them is punctuation.
        tags: Part-of-speech tags, where they are known.
        offsets: Character offsets, half-open, where they are known.

    Returns:
        `(words + 1,)` of uint16: bit k of number i is set if punctuation of kind `PUNCTUATION_KINDS[k]` stands between word
        i - 1 and word i; the first number is what stands before the first word, the last one what stands behind the last.
    """
    bits = [0]
    for k, (token, is_mark) in enumerate(zip(tokens, punctuation, strict=True)):
        if not is_mark:
            bits.append(0)
            continue
        kind = punctuation_kind(token, tags[k] if tags else None, joined=_touches_both(offsets, k))
        bits[-1] |= _BITS[kind]
    return np.array(bits, dtype=np.uint16)


def _touches_both(offsets: Sequence[tuple[int, int]] | None, k: int) -> bool:
    """Whether token k stands between two others without a space."""
    if offsets is None or not 0 < k < len(offsets) - 1:
        return False
    return offsets[k - 1][1] == offsets[k][0] and offsets[k][1] == offsets[k + 1][0]


def add_punctuation_bonus(
    distances: np.ndarray, punctuation: np.ndarray, weights: Mapping[str, float]
) -> np.ndarray:
    """Raise the boundaries at which punctuation stands.

        d_t + std(d) * sum over the kinds of punctuation before word t of their weights

    A kind of negative weight, such as a hyphen, holds its neighbours together.

    Args:
        distances: `(words,)`.
        punctuation: `(words + 1,)`, see `punctuation_between`.
        weights: Standard deviations of the sentence's distances, by kind; kinds that are missing count 0.

    Returns:
        `(words,)`.
    """
    inner = punctuation[1:-1]
    if not weights or not inner.any():
        return distances
    bonus = sum(weights[kind] * ((inner & _BITS[kind]) > 0) for kind in weights)
    raised = np.array(distances, dtype=np.float64)
    raised[1:] += np.std(distances) * bonus
    return raised


def crossing_potentials(punctuation: np.ndarray, weights: Mapping[str, float]) -> np.ndarray:
    """Return what each span loses for the punctuation that it crosses.

        potential[i, j] = - sum over the boundaries i < t < j of the weights of the punctuation before word t

    Args:
        punctuation: `(words + 1,)`, see `punctuation_between`.
        weights: By kind; kinds that are missing count 0.

    Returns:
        `(words, words + 1)`, float32; only spans of two words or more mean something.
    """
    length = len(punctuation) - 1
    inner = punctuation[1:-1]
    raised = np.zeros(length + 1, dtype=np.float32)
    for kind, weight in weights.items():
        raised[1:-1] += weight * ((inner & _BITS[kind]) > 0)
    # before[t]: all that is raised at the boundaries up to t.
    before = np.cumsum(raised)
    return before[:-1, None] - np.concatenate(([0.0], before[:-1])).astype(np.float32)[None, :]


def check_punctuation_bonus(weights: Mapping[str, object]) -> dict[str, float]:
    """Return the bonus of each kind of punctuation that a configuration names, as numbers.

    Raises:
        ValueError: For a kind that there isn't, or a weight that is no number.
    """
    unknown = set(weights) - set(PUNCTUATION_KINDS)
    if unknown:
        raise ValueError(
            f"parse_punctuation_bonus names {', '.join(sorted(unknown))}: choices are {', '.join(PUNCTUATION_KINDS)}"
        )
    try:
        return {kind: float(weight) for kind, weight in weights.items()}  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ValueError(f"parse_punctuation_bonus has a weight that is no number: {dict(weights)}") from None


def attach_punctuation(
    words: Sequence[Span],
    tokens: Sequence[str],
    punctuation: Sequence[bool],
    offsets: Sequence[tuple[int, int]] | None = None,
) -> list[Span]:
    """Return a tree over all tokens, made of a tree over the words alone.

    A mark between two words becomes a child of the smallest constituent that holds both, a mark at the edge of the
    sentence a child of the whole; brackets and quotes around exactly one constituent, or around a single word, are joined to
    it: `(-LRB- IOP -RRB-)`. Where one mark of a pair stands inside a constituent and the other one at its edge, both are its
    children. Taking the punctuation out again gives the tree over the words.

    Args:
        words: Spans over the words (tokens that are not punctuation) wider than one word, in pre-order.
        tokens: All tokens.
        punctuation: Whether each token is punctuation.
        offsets: Character offsets, half-open, where they are known: they tell an opening `'` from a closing one.

    Returns:
        Spans over all tokens wider than one token, in pre-order, the whole sentence first.
    """
    if not any(punctuation):
        return list(words)
    pairs = matching_pairs(tokens, punctuation, offsets)
    placed, _, bare = place_constituents(words, punctuation, pairs)
    placed.pop((0, len(punctuation) - sum(punctuation)), None)
    spans = {(0, len(tokens)), *bare, *placed.values()}
    return sorted((span for span in spans if span[1] - span[0] > 1), key=lambda span: (span[0], -span[1]))


def place_constituents(
    words: Sequence[Span], punctuation: Sequence[bool], pairs: Sequence[tuple[int, int]]
) -> tuple[dict[Span, Span], dict[Span, Span], list[Span]]:
    """Find where the constituents over words stand among all tokens, see `attach_punctuation`.

    Args:
        words: Spans over the words wider than one word, in pre-order.
        punctuation: Whether each token is punctuation.
        pairs: See `matching_pairs`.

    Returns:
        For each span over words, single words too, the tokens from its first to its last with the brackets and quotes around
        it; the same without those around itself; and pairs of brackets or quotes around no word at all.
    """
    positions = [k for k, is_mark in enumerate(punctuation) if not is_mark]
    nodes = {span: _Node(positions[span[0]], positions[span[1] - 1] + 1) for span in words}
    smallest = _link(nodes, len(positions))
    for word, parent in enumerate(smallest):
        nodes[word, word + 1] = _Node(positions[word], positions[word] + 1, parent)
    before = _count_words_before(punctuation)
    bare: list[Span] = []
    for opening, closing in pairs:
        start, end = before[opening], before[closing]
        if start == end:
            bare.append((opening, closing + 1))
        elif (start, end) in nodes:
            nodes[start, end].surround(opening, closing + 1)
        else:
            # One mark stands inside a constituent, the other one at its edge: it is taken in.
            holder = _climb(smallest[start], positions[start - 1], positions[start]) if start else None
            if holder is not None and positions[end - 1] < holder.end <= closing:
                holder.widen(holder.start, closing + 1)
            holder = (
                _climb(smallest[end - 1], positions[end - 1], positions[end])
                if end < len(positions)
                else None
            )
            if holder is not None and opening < holder.start <= positions[start]:
                holder.widen(opening, holder.end)
    placed = {span: (node.start, node.end) for span, node in nodes.items()}
    return placed, {span: node.inside for span, node in nodes.items()}, bare


_TAGS = {
    "comma": ",",
    "colon": ":",
    "open": "-LRB-",
    "close": "-RRB-",
    "dash": ":",
    "hyphen": "HYPH",
    "stop": ".",
}
_OPENING_QUOTES = frozenset(("``", "`", "“", "‘", "„", "«", "‹", "「", "『"))


def punctuation_tag(token: str, *, joined: bool = True, opens: bool = False) -> str:
    """Return the tag that treebanks give a punctuation token, by its surface: `.`, `,`, `:`, `-LRB-`, quotes, `HYPH`.

    Args:
        token: Its surface.
        joined: Whether a hyphen touches the words on both sides; else it is a dash.
        opens: Whether a straight quote opens.
    """
    kind = punctuation_kind(token, joined=joined)
    if kind == "quote":
        return "``" if opens or token in _OPENING_QUOTES else "''"
    if kind == "stop" and token not in (".", "!", "?", "。", "！", "？"):
        return ":"
    return _TAGS.get(kind, "NFP")


def punctuation_tags(
    tokens: Sequence[str],
    punctuation: Sequence[bool],
    pairs: Sequence[tuple[int, int]],
    offsets: Sequence[tuple[int, int]] | None = None,
) -> list[str | None]:
    """Return the tag of each punctuation token, see `punctuation_tag`, and None for each word.

    Args:
        tokens: All tokens.
        punctuation: Whether each is punctuation.
        pairs: See `matching_pairs`.
        offsets: Character offsets, half-open; None: not known, and every hyphen counts as one that joins words.
    """
    opening = {start for start, _ in pairs}
    return [
        punctuation_tag(token, joined=offsets is None or _touches_both(offsets, k), opens=k in opening)
        if is_mark
        else None
        for k, (token, is_mark) in enumerate(zip(tokens, punctuation, strict=True))
    ]


class _Node:
    """Where a constituent begins and ends among the tokens; `inside` is the same without the pair of marks around it."""

    __slots__ = ("end", "inside", "parent", "start")

    def __init__(self, start: int, end: int, parent: _Node | None = None) -> None:
        self.start, self.end, self.parent = start, end, parent
        self.inside = (start, end)

    def surround(self, start: int, end: int) -> None:
        """Take in a pair of marks, here and in every constituent above that ends at the same edge."""
        self.start, self.end = min(self.start, start), max(self.end, end)
        if self.parent is not None:
            self.parent.widen(start, end)

    def widen(self, start: int, end: int) -> None:
        """Take in tokens at the edges as children, here and in every constituent above that ends at the same edge."""
        node: _Node | None = self
        while node is not None and (node.start > start or node.end < end):
            node.start, node.end = min(node.start, start), max(node.end, end)
            node.inside = (node.start, node.end)
            node = node.parent


def _climb(node: _Node | None, first: int, last: int) -> _Node | None:
    """Return the smallest constituent from a node upwards that holds two tokens."""
    while node is not None and not (node.start <= first and last < node.end):
        node = node.parent
    return node


def _link(nodes: dict[Span, _Node], length: int) -> list[_Node | None]:
    """Link every node, in pre-order, to its parent; return the smallest node that holds each word."""
    path: list[tuple[int, _Node]] = []  # where each open node ends
    smallest: list[_Node | None] = []
    remaining = iter([*nodes.items(), ((length, length), None)])
    (start, end), node = next(remaining)
    for word in range(length):
        while path and path[-1][0] <= word:
            path.pop()
        while start == word and node is not None:
            node.parent = path[-1][1] if path else None
            path.append((end, node))
            (start, end), node = next(remaining)
        smallest.append(path[-1][1] if path else None)
    return smallest


def _count_words_before(punctuation: Sequence[bool]) -> list[int]:
    """Return the number of words before each token."""
    counts, words = [], 0
    for is_mark in punctuation:
        counts.append(words)
        words += not is_mark
    return counts


def matching_pairs(
    tokens: Sequence[str],
    punctuation: Sequence[bool],
    offsets: Sequence[tuple[int, int]] | None = None,
) -> list[tuple[int, int]]:
    """Return pairs of brackets and quotes, inner pairs first; what has no partner is left out.

    Args:
        tokens: All tokens.
        punctuation: Whether each is punctuation.
        offsets: Character offsets, half-open; None: not known, and a straight `'` is no quote.
    """
    pairs: list[tuple[int, int]] = []
    waiting: list[tuple[str, int]] = []  # what would close, and where it was opened
    for k, token in enumerate(tokens):
        if not punctuation[k]:
            continue
        single = token == "'"
        depth = next(
            (d for d in range(len(waiting) - 1, max(len(waiting) - 9, -1), -1) if waiting[d][0] == token),
            None,
        )
        if depth is not None and not (single and offsets and _begins_word(offsets, k)):
            pairs.append((waiting[depth][1], k))
            del waiting[depth:]
        elif single:
            if offsets and _begins_word(offsets, k):
                waiting.append((token, k))
        elif token in PAIRS:
            waiting.append((PAIRS[token], k))
    return pairs


def _begins_word(offsets: Sequence[tuple[int, int]], k: int) -> bool:
    """Whether token k touches the next one, and not the one before."""
    apart = k == 0 or offsets[k - 1][1] < offsets[k][0]
    return apart and k + 1 < len(offsets) and offsets[k][1] == offsets[k + 1][0]
