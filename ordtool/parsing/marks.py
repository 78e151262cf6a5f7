"""Punctuation between words, as a hint about where phrases end.

A language model without punctuation never sees a comma, but the text to parse has them, and phrases seldom run
across one (Seginer 2007; Spitkovsky et al. 2011; Ponvert et al. 2011). `marks_between` names what stands at each
boundary; `raise_marked` raises distances there, and `ordtool.parsing.span_model` reads the names as features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

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
