"""Words as numbers for a span scorer: one number a word, in which all that its network looks up is packed.

Two kinds. `AffixVocabulary` packs a word's id and, beside it, how it is written and hashes of its last and first letters, so
that a word that was never seen is still an adverb in -ly or a name. `PieceVocabulary` packs the pieces that an encoder's
tokenizer cuts a word into.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

from ordtool.parsing.text.vocabulary import CACHED_WORDS, UNKNOWN, Vocabulary

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "AFFIXES",
    "AffixVocabulary",
    "PieceVocabulary",
    "hide_words",
    "unpack_affixes",
    "unpack_pieces",
    "word_shape",
]

_WORD_BITS, _SHAPE_BITS, _HASH_BITS = 20, 4, 12
SHAPES = 1 << _SHAPE_BITS
AFFIXES = ("suffix of two letters", "suffix of three letters", "prefix of three letters")
# What fits into a signed number of 64 bits.
_ALL_BITS = 63


def word_shape(word: str) -> int:
    """Return how a word is written, as a number below 16: its capitals (none, the first, all, others), digits, hyphens."""
    if word.islower() or not word[:1]:
        capitals = 0
    elif len(word) > 1 and word.isupper():
        capitals = 2
    elif word[0].isupper():
        capitals = 1
    else:
        capitals = 3 if any(character.isupper() for character in word) else 0
    digits = any(character.isdigit() for character in word)
    return capitals | digits << 2 | ("-" in word[1:-1]) << 3


class AffixVocabulary(Vocabulary):
    """A vocabulary whose ids carry the shape and the affixes of the word as it stands; `unpack_affixes` takes them apart."""

    rows = 1 << _HASH_BITS
    """Rows of the table that affixes are looked up in; they share it by their hashes."""

    def _find(self, word: str) -> int:
        normal = self.normalize(word)
        packed = super()._find(word) | word_shape(self.fold(word)) << _WORD_BITS
        shift = _WORD_BITS + _SHAPE_BITS
        for kind, affix in enumerate((normal[-2:], normal[-3:], normal[:3])):
            packed |= (crc32(f"{kind}{affix}".encode()) % self.rows) << shift
            shift += _HASH_BITS
        return packed


def hide_words(vocabulary: Vocabulary | PieceVocabulary, words: Tensor, hidden: Tensor) -> Tensor:
    """Return numbers of words some of which are unknown ones; their shapes and affixes, if they have any, remain.

    Args:
        vocabulary: Whose numbers they are.
        words: The numbers.
        hidden: Which are to be unknown.
    """
    if isinstance(vocabulary, PieceVocabulary):
        return words.masked_fill(hidden, vocabulary.unknown)
    unknown = vocabulary.ids[UNKNOWN]
    if not isinstance(vocabulary, AffixVocabulary):
        return words.masked_fill(hidden, unknown)
    return words.where(~hidden, (words >> _WORD_BITS << _WORD_BITS) | unknown)


def unpack_affixes(words: Tensor) -> tuple[Tensor, Tensor]:
    """Take the numbers of an `AffixVocabulary` apart.

    Returns:
        Ids of the words, of the shape of `words`; and rows of a table of shapes and affixes, `(..., 1 + len(AFFIXES))`: the
        first `SHAPES` rows are shapes, the others hashes.
    """
    import torch

    ids = words & ((1 << _WORD_BITS) - 1)
    rows = [(words >> _WORD_BITS) & (SHAPES - 1)]
    for kind in range(len(AFFIXES)):
        shift = _WORD_BITS + _SHAPE_BITS + kind * _HASH_BITS
        rows.append(SHAPES + ((words >> shift) & ((1 << _HASH_BITS) - 1)))
    return ids, torch.stack(rows, dim=-1)


class PieceVocabulary:
    """Words as the pieces of an encoder's tokenizer; it has those attributes of a `Vocabulary` that a parser looks at.

    Of a word of more pieces than fit into a number, the first ones and the last are kept.

    Args:
        tokenizer: Of the tokenizers library.
        token_kind: How raw text is split: `words`, `chars` or `jieba`.

    Attributes:
        bits: Of a piece.
        start: Number of the piece that begins a text.
        end: Number of the piece that ends one.
        unknown: Number of the piece for what can't be cut into pieces.
        marks: Pieces that stand for each kind of punctuation.
    """

    drop_punctuation = True

    def __init__(self, tokenizer: Any, token_kind: str = "words") -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self.token_kind = token_kind
        self.bits = int(tokenizer.get_vocab_size()).bit_length()
        self.per_word = _ALL_BITS // self.bits
        around = tokenizer.encode("").ids or [0]
        self.start, self.end = around[0] + 1, around[-1] + 1
        self.unknown = self._pieces("\N{SNOWMAN}\N{CLOUD}")[0]
        self.marks = [self._pieces(mark)[0] for mark in (",", ";", "(", ")", "-", "-", '"', ".", "*")]
        self._cache: dict[str, int] = {}

    def save(self, path: Path) -> None:
        """Write the tokenizer."""
        self._tokenizer.save(str(path))

    def _pieces(self, word: str) -> list[int]:
        """The numbers of a word's pieces, each one more than in the tokenizer: 0 is no piece."""
        ids = self._tokenizer.encode([word], is_pretokenized=True, add_special_tokens=False).ids
        return [piece + 1 for piece in ids] or [self.start]

    def word_id(self, word: str) -> int:
        """Return the packed pieces of a word."""
        packed = self._cache.get(word)
        if packed is None:
            pieces = self._pieces(word)
            if len(pieces) > self.per_word:
                pieces = [*pieces[: self.per_word - 1], pieces[-1]]
            packed = sum(piece << self.bits * k for k, piece in enumerate(pieces))
            if len(self._cache) < CACHED_WORDS:
                self._cache[word] = packed
        return packed

    def encode_words(self, sentences: Iterable[Sequence[str]]) -> list[list[int]]:
        """Return the packed pieces of sentences given as lists of words."""
        cache, look_up = self._cache, self.word_id
        return [[cache[word] if word in cache else look_up(word) for word in words] for words in sentences]


def unpack_pieces(words: Tensor, bits: int) -> Tensor:
    """Take the numbers of a `PieceVocabulary` apart.

    Returns:
        `(..., pieces)`, each one more than the tokenizer's id; 0 is no piece.
    """
    import torch

    per_word = _ALL_BITS // bits
    return torch.stack([(words >> bits * k) & ((1 << bits) - 1) for k in range(per_word)], dim=-1)
