"""Words to numbers without a framework: what the word tokenizer and the parser both look words up in.

A vocabulary holds normalised words (lowercased, digit runs as `N`) and shape classes. A word
that the vocabulary lacks becomes the class of its shape - capital, digits, hyphen, suffix - so
that `electroencephalographically` is still read as an adverb and `Okonkwo` as a name.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ordtool.errors import OrdtoolError
from ordtool.parsing.text.chinese import is_han, simplify
from ordtool.parsing.text.tokenize import check_token_kind
from ordtool.parsing.trees.punctuation import is_punctuation

EOS = "<eos>"
UNKNOWN = "<unk>"
VOCABULARY_FILE = "vocab.txt"
OPTIONS_FILE = "tokenizer_config.json"
# Distinct words whose ids are remembered: with the first ones of a text most of the words that follow are known.
CACHED_WORDS = 1 << 16

# Longest first: `-tion` before `-ion`, `-ies` before `-es` before `-s`.
SUFFIXES = (
    "ation", "ically", "ments", "tions", "ness", "ment", "tion", "sion", "able", "ible", "less", "ings", "ists",
    "ally", "ious", "ance", "ence", "ing", "ies", "ity", "ive", "ous", "ful", "ism", "ist", "ish", "ers", "ors",
    "ate", "ize", "ise", "est", "ian", "ary", "ory", "ant", "ent", "ed", "ly", "er", "or", "al", "ic", "es", "en",
    "s", "y",
)  # fmt: skip

_DIGITS = re.compile(r"[0-9]+(?:[.,][0-9]+)*")


def shape_classes(word: str) -> list[str]:
    """Return the shape of a word, from the finest class to the coarsest.

    The parts, as far as they are there: `N` digits, `Aa` capital, `AA` capitals throughout,
    `-` a hyphen, and a suffix (of a word of at least two letters more than it). A Chinese word is `Han` and, if it is longer
    than a character, its last one, which is its head more often than not. The list ends with `<unk>`.

    Examples: `running` -> `<unk:ing>`, `<unk>`; `Nations` -> `<unk:Aa:tions>`, `<unk:Aa>`, `<unk>`;
    `B-52s` -> `<unk:N:->`, `<unk:N>`, `<unk>`; `北京市` -> `<unk:Han:市>`, `<unk:Han>`, `<unk>`.
    """
    parts = _latin_parts(word) if word.isascii() or not is_han(word[-1]) else ["Han", *word[1:][-1:]]
    return [f"<unk:{':'.join(parts[:n])}>" for n in range(len(parts), 0, -1)] + [UNKNOWN]


def _latin_parts(word: str) -> list[str]:
    parts = []
    if any(character.isdigit() for character in word):
        parts.append("N")
    elif word[:1].isupper():
        parts.append("AA" if len(word) > 1 and word.isupper() else "Aa")
    if "-" in word[1:-1]:
        parts.append("-")
    lower = word.lower()
    if "N" not in parts and "AA" not in parts and lower[-1:].isalpha():
        suffix = next((s for s in SUFFIXES if lower.endswith(s) and len(lower) >= len(s) + 2), None)
        if suffix:
            parts.append(suffix)
    return parts


class Vocabulary:
    """A vocabulary and the rules by which words are found in it.

    Args:
        tokens: The vocabulary in the order of its ids, `<eos>` and `<unk>` among them.
        lowercase: Look words up in lower case.
        digits: Write every run of digits (with its decimal points and thousands commas) as `N`.
        drop_punctuation: Punctuation isn't part of the model's language; `keeps` tells.
        token_kind: How raw text is split: `words`, `chars` or `jieba`.
        simplified: Look words up in simplified Chinese characters.

    Raises:
        OrdtoolError: A vocabulary that holds a token twice or lacks `<eos>` or `<unk>`; an unknown kind of tokens.
    """

    def __init__(
        self,
        tokens: Sequence[str],
        *,
        lowercase: bool = True,
        digits: bool = True,
        drop_punctuation: bool = True,
        token_kind: str = "words",
        simplified: bool = False,
        source: str = "vocabulary",
    ) -> None:
        self.tokens = list(tokens)
        self.ids = {token: k for k, token in enumerate(self.tokens)}
        missing = {EOS, UNKNOWN} - self.ids.keys()
        if missing:
            raise OrdtoolError(f"{source}: no {' and no '.join(sorted(missing))} in the vocabulary")
        if len(self.ids) != len(self.tokens):
            twice = next(token for token, count in Counter(self.tokens).items() if count > 1)
            raise OrdtoolError(f"{source}: {twice!r} is there twice")
        check_token_kind(token_kind, source)
        self.lowercase = lowercase
        self.digits = digits
        self.drop_punctuation = drop_punctuation
        self.token_kind = token_kind
        self.simplified = simplified
        # Words of running text repeat; each distinct surface is normalised and looked up once.
        self._cache: dict[str, int] = {}

    @classmethod
    def from_folder(cls, folder: str | Path) -> Vocabulary:
        """Read the tokenizer of a model folder, without transformers.

        Raises:
            OrdtoolError: For a missing or malformed file.
        """
        options = read_json(Path(folder) / OPTIONS_FILE)
        names = ("lowercase", "digits", "drop_punctuation", "token_kind", "simplified")
        path = Path(folder) / VOCABULARY_FILE
        return cls(
            read_vocabulary(path),
            source=str(path),
            **{name: options[name] for name in names if name in options},
        )

    def normalize(self, word: str) -> str:
        """The form under which a word is looked up."""
        word = self.fold(word).replace("’", "'")  # books print n’t and ’s
        if self.lowercase:
            word = word.lower()
        return _DIGITS.sub("N", word) if self.digits else word

    def fold(self, word: str) -> str:
        """The word in the characters of the vocabulary."""
        return simplify(word) if self.simplified else word

    def keeps(self, word: str) -> bool:
        """Whether the model reads this token (False: punctuation that it was trained without)."""
        return not (self.drop_punctuation and is_punctuation(word))

    def word_id(self, word: str) -> int:
        """Return the id of one word, or of its finest known shape class."""
        token_id = self._cache.get(word)
        if token_id is None:
            token_id = self._find(word)
            if len(self._cache) < CACHED_WORDS:
                self._cache[word] = token_id
        return token_id

    def token_of(self, word: str) -> str:
        """Return the token that stands for a word: itself as it is looked up, or its finest known shape class."""
        normal = self.normalize(word)
        if normal in self.ids:
            return normal
        return next(shape for shape in shape_classes(self.fold(word)) if shape in self.ids)

    def _find(self, word: str) -> int:
        return self.ids[self.token_of(word)]

    def encode_words(self, sentences: Iterable[Sequence[str]]) -> list[list[int]]:
        """Return the ids of sentences given as lists of words; nothing is added or dropped."""
        cache, look_up = self._cache, self.word_id
        return [[cache[word] if word in cache else look_up(word) for word in words] for words in sentences]


def build_vocabulary(
    counts: Counter[str],
    size: int,
    *,
    lowercase: bool = True,
    digits: bool = True,
    simplified: bool = False,
    minimum_class_count: int = 20,
) -> list[str]:
    """Choose the tokens of a vocabulary from counts of surface words.

    The most frequent normalised words fill what `<eos>`, `<unk>` and the shape classes leave; a class
    is kept when the words outside the vocabulary use it often enough to be learned. Ties are broken by
    the alphabet, so the same text gives the same vocabulary.

    Args:
        counts: Occurrences of each surface word in the training text.
        size: Upper bound of the number of tokens.
        lowercase: As in `Vocabulary`.
        digits: As in `Vocabulary`.
        simplified: As in `Vocabulary`.
        minimum_class_count: Occurrences that make a shape class worth a row.

    Raises:
        OrdtoolError: A size too small to hold a word.
    """
    if size < 3:
        raise OrdtoolError(f"a vocabulary of {size} holds no word", hint="use `vocab_size=1000` or more")
    plain = Vocabulary([EOS, UNKNOWN], lowercase=lowercase, digits=digits)
    if simplified:
        counts = _folded(counts)
    normal = {word: plain.normalize(word) for word in counts}
    totals: Counter[str] = Counter()
    for word, count in counts.items():
        totals[normal[word]] += count
    reserved = {EOS, UNKNOWN}
    ranked = sorted(
        (w for w in totals if w not in reserved and w and "\n" not in w), key=lambda w: (-totals[w], w)
    )
    # A word seen once teaches its row nothing that its shape class doesn't.
    ranked = [word for word in ranked if totals[word] > 1] or ranked
    kept, classes = set(ranked[: size - 2]), []
    for _ in range(3):  # fewer words mean more unknown ones and so perhaps more classes: settle
        classes = _frequent_classes(counts, normal, kept, minimum_class_count, limit=size // 4)
        kept = set(ranked[: size - 2 - len(classes)])
    return [EOS, UNKNOWN, *classes, *ranked[: size - 2 - len(classes)]]


def _folded(counts: Counter[str]) -> Counter[str]:
    """Counts of words in simplified characters."""
    folded: Counter[str] = Counter()
    for word, count in counts.items():
        folded[simplify(word)] += count
    return folded


def _frequent_classes(
    counts: Counter[str], normal: dict[str, str], kept: set[str], minimum: int, limit: int
) -> list[str]:
    used: Counter[str] = Counter()
    for word, count in counts.items():
        if normal[word] not in kept:
            used.update(dict.fromkeys(shape_classes(word)[:-1], count))
    ranked = sorted((shape for shape, count in used.items() if count >= minimum), key=lambda s: (-used[s], s))
    return sorted(ranked[:limit])


def read_vocabulary(path: str | Path) -> list[str]:
    """Read `vocab.txt`, a token a line.

    Raises:
        OrdtoolError: If it can't be read.
    """
    try:
        tokens = Path(path).read_bytes().decode().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise OrdtoolError(f"{path}: can't read the vocabulary: {error}") from error
    if tokens and tokens[-1] == "":
        tokens.pop()
    return tokens


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a model folder.

    Raises:
        OrdtoolError: If it is missing or malformed.
    """
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise OrdtoolError(
            f"{path}: can't be read: {error.strerror or error}",
            "a parser's folder is what ordtool train parser writes",
        ) from None
    except (ValueError, RecursionError) as error:
        raise OrdtoolError(
            f"{path}: malformed JSON ({error})", "was the copy or download cut short?"
        ) from None
    if not isinstance(data, dict):
        raise OrdtoolError(f"{path}: expected a JSON object, found {type(data).__name__}")
    return data
