"""Traditional characters as simplified ones, one for one.

Users write both, treebanks too. A model that reads Chinese looks words up in simplified characters, and jieba, whose
dictionary is a simplified one, finds words in them. Tokens keep the characters that were typed: a fold is as long as its
text, so every offset stays.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

__all__ = ["CHINESE_KINDS", "is_chinese", "is_han", "simplify"]

CHINESE_KINDS = frozenset({"chars", "jieba"})
"""Kinds of tokens that are Chinese ones: models of them look words up in simplified characters."""

# 著 stays in 著名, 著作, 显著 ...; everywhere else it is the aspect marker 着.
_ASPECT = re.compile(r"(?<![显顯原名巨编編合论論专專土])著(?![名作称稱述书書录錄者])")
# Characters from which a text is long enough to tell its language.
_SHORTEST = 5
_FULL_WIDTH = {0xFF01 + k: 0x21 + k for k in range(94) if chr(0x21 + k).isalnum()}


@cache
def _table() -> dict[int, int]:
    """The first choice of OpenCC's table TSCharacters (Apache-2.0) for each character, and full-width letters and digits."""
    path = Path(__file__).with_name("chinese.txt")
    traditional, simplified = path.read_text(encoding="utf-8").split("\n")[:2]
    pairs = zip(map(ord, traditional), map(ord, simplified), strict=True)
    return _FULL_WIDTH | dict(pairs)


def simplify(text: str) -> str:
    """Write traditional characters as simplified ones, and full-width letters and digits as plain ones.

    Args:
        text: Any text; what is neither stays.

    Returns:
        As many characters. A character that stands for several (乾, 著) gets the likelier one, so this is a form to look up,
        not a conversion to print.
    """
    if text.isascii():
        return text
    return _ASPECT.sub("着", text).translate(_table())


def is_chinese(text: str) -> bool:
    """Whether a text of some length is mostly Chinese characters: one that has no spaces to find words by."""
    if text.isascii() or len(text) < _SHORTEST:
        return False
    return 2 * sum(map(is_han, text)) > len(text)


def is_han(character: str) -> bool:
    """Whether a character is a Chinese one."""
    code = ord(character)
    return (
        0x4E00 <= code <= 0x9FFF or 0x3400 <= code <= 0x4DBF or 0x20000 <= code <= 0x323AF or code == 0x3007
    )
