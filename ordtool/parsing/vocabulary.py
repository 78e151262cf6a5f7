"""Words to numbers: the word tokenizer of the language models.

A vocabulary holds normalised words (lowercased, digit runs as `N`) and shape classes. A word
that the vocabulary lacks becomes the class of its shape - capital, digits, hyphen, suffix - so
that `electroencephalographically` is still read as an adverb and `Okonkwo` as a name.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizer

from ordtool.errors import OrdtoolError
from ordtool.parsing.onlstm import OnlstmConfig

__all__ = ["EOS", "UNKNOWN", "OnlstmTokenizer", "build_vocabulary", "shape_classes"]

EOS = "<eos>"
UNKNOWN = "<unk>"
VOCABULARY_FILE = "vocab.txt"

# Longest first: `-tion` before `-ion`, `-ies` before `-es` before `-s`.
SUFFIXES = (
    "ation", "ically", "ments", "tions", "ness", "ment", "tion", "sion", "able", "ible", "less", "ings", "ists",
    "ally", "ious", "ance", "ence", "ing", "ies", "ity", "ive", "ous", "ful", "ism", "ist", "ish", "ers", "ors",
    "ate", "ize", "ise", "est", "ian", "ary", "ory", "ant", "ent", "ed", "ly", "er", "or", "al", "ic", "es", "en",
    "s", "y",
)  # fmt: skip

_DIGITS = re.compile(r"[0-9]+(?:[.,][0-9]+)*")
_CJK = re.compile(r"[㐀-鿿豈-﫿]")


def shape_classes(word: str) -> list[str]:
    """Name the shape of a word, from the finest class to the coarsest.

    The parts, as far as they are there: `N` digits, `Aa` capital, `AA` capitals throughout,
    `-` a hyphen, and a suffix (of a word of at least two letters more than it). The list ends with `<unk>`.

    Examples: `running` -> `<unk:ing>`, `<unk>`; `Nations` -> `<unk:Aa:tions>`, `<unk:Aa>`, `<unk>`;
    `B-52s` -> `<unk:N:->`, `<unk:N>`, `<unk>`.
    """
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
    return [f"<unk:{':'.join(parts[:n])}>" for n in range(len(parts), 0, -1)] + [UNKNOWN]


class OnlstmTokenizer(PreTrainedTokenizer):
    """Tokenizer of words that are already apart, saved as `vocab.txt` and `tokenizer_config.json`.

    `encode_words` is the fast way for lists of words; the usual Hugging Face calls work as well and
    first split their text with `ordtool.parsing.words.tokenize`.

    Args:
        vocab_file: Path of `vocab.txt`, a token a line; the line number is the id.
        lowercase: Look words up in lower case.
        digits: Write every run of digits (with its decimal points and thousands commas) as `N`.
        drop_punctuation: Punctuation isn't part of the model's language; `keeps` tells.
        token_kind: How raw text is split: `words`, `chars` or `jieba`.

    Raises:
        OrdtoolError: A vocabulary that is missing, empty, holds a token twice or lacks `<eos>` or `<unk>`.
    """

    vocab_files_names = {"vocab_file": VOCABULARY_FILE}
    model_input_names = ["input_ids"]

    def __init__(
        self,
        vocab_file: str | None = None,
        lowercase: bool = True,
        digits: bool = True,
        drop_punctuation: bool = True,
        token_kind: str = "words",
        **kwargs: Any,
    ) -> None:
        self.lowercase = lowercase
        self.digits = digits
        self.drop_punctuation = drop_punctuation
        self.token_kind = token_kind
        self._tokens = _read_vocabulary(vocab_file)
        self._ids = {token: k for k, token in enumerate(self._tokens)}
        # Words of running text repeat; each distinct surface is normalised and looked up once.
        self._cache: dict[str, int] = {}
        options = {"eos_token": EOS, "unk_token": UNKNOWN, "pad_token": EOS, "special_tokens_pattern": "none"}
        super().__init__(
            lowercase=lowercase,
            digits=digits,
            drop_punctuation=drop_punctuation,
            token_kind=token_kind,
            **(options | kwargs),
        )

    @classmethod
    def from_tokens(cls, tokens: Sequence[str], **options: Any) -> OnlstmTokenizer:
        """Make a tokenizer from the tokens of its vocabulary, in the order of their ids."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / VOCABULARY_FILE
            path.write_bytes("".join(f"{token}\n" for token in tokens).encode())
            return cls(str(path), **options)

    @property
    def vocab_size(self) -> int:
        """Number of words and classes."""
        return len(self._tokens)

    def get_vocab(self) -> dict[str, int]:
        """Token to id."""
        return dict(self._ids) | self._added_tokens_encoder

    def normalize(self, word: str) -> str:
        """The form under which a word is looked up."""
        word = word.replace("’", "'")  # books print n’t and ’s
        if self.lowercase:
            word = word.lower()
        return _DIGITS.sub("N", word) if self.digits else word

    def keeps(self, word: str) -> bool:
        """Whether the model reads this token (False: punctuation that it was trained without)."""
        if not self.drop_punctuation:
            return True
        from ordtool.parsing.words import is_punctuation

        return not is_punctuation(word)

    def word_id(self, word: str) -> int:
        """Id of one word, or of its finest known shape class."""
        found = self._cache.get(word)
        if found is None:
            found = self._ids.get(self.normalize(word), -1)
            if found < 0:
                found = next(self._ids[shape] for shape in shape_classes(word) if shape in self._ids)
            if len(self._cache) < 1_000_000:
                self._cache[word] = found
        return found

    def encode_words(self, sentences: Iterable[Sequence[str]]) -> list[list[int]]:
        """Ids of sentences given as lists of words; nothing is added or dropped."""
        cache, look_up = self._cache, self.word_id
        return [[cache[word] if word in cache else look_up(word) for word in words] for words in sentences]

    def is_unknown(self, token_id: int) -> bool:
        """Whether an id stands for a shape class rather than a word."""
        return self._tokens[token_id].startswith("<unk")

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        from ordtool.parsing.words import tokenize

        return [token.text for token in tokenize(text, self.token_kind) if self.keeps(token.text)]  # type: ignore[arg-type]

    def _convert_token_to_id(self, token: str) -> int:
        return self.word_id(token)

    def _convert_id_to_token(self, index: int) -> str:
        return self._tokens[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join words with spaces."""
        return " ".join(tokens)

    def build_inputs_with_special_tokens(self, token_ids_0: list[int], token_ids_1: list[int] | None = None) -> list[int]:
        """Put `<eos>` before and after the words, as in training."""
        eos = [self._ids[EOS]]
        return eos + token_ids_0 + eos + (token_ids_1 + eos if token_ids_1 else [])

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        """Write `vocab.txt`."""
        name = f"{filename_prefix}-{VOCABULARY_FILE}" if filename_prefix else VOCABULARY_FILE
        path = Path(save_directory) / name
        path.write_bytes("".join(f"{token}\n" for token in self._tokens).encode())
        return (str(path),)


def _read_vocabulary(vocab_file: str | None) -> list[str]:
    if vocab_file is None:
        return [EOS, UNKNOWN]
    try:
        tokens = Path(vocab_file).read_bytes().decode().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise OrdtoolError(f"{vocab_file}: can't read the vocabulary: {error}") from error
    if tokens and tokens[-1] == "":
        tokens.pop()
    missing = {EOS, UNKNOWN} - set(tokens)
    if missing:
        raise OrdtoolError(f"{vocab_file}: no {' and no '.join(sorted(missing))} in the vocabulary")
    if len(set(tokens)) != len(tokens):
        twice = next(token for token, count in Counter(tokens).items() if count > 1)
        raise OrdtoolError(f"{vocab_file}: {twice!r} is there twice")
    return tokens


def build_vocabulary(
    counts: Counter[str], size: int, *, lowercase: bool = True, digits: bool = True, minimum_class_count: int = 20
) -> list[str]:
    """Choose the tokens of a vocabulary from counts of surface words.

    The most frequent normalised words fill what `<eos>`, `<unk>` and the shape classes leave; a class
    is kept when the words outside the vocabulary use it often enough to be learned. Ties are broken by
    the alphabet, so the same text gives the same vocabulary.

    Args:
        counts: Occurrences of each surface word in the training text.
        size: Upper bound of the number of tokens.
        lowercase: As in `OnlstmTokenizer`.
        digits: As in `OnlstmTokenizer`.
        minimum_class_count: Occurrences that make a shape class worth a row.

    Raises:
        OrdtoolError: A size too small to hold a word.
    """
    if size < 3:
        raise OrdtoolError(f"a vocabulary of {size} holds no word", hint="use --vocab-size 1000 or more")
    reader = OnlstmTokenizer(lowercase=lowercase, digits=digits)
    normal = {word: reader.normalize(word) for word in counts}
    totals: Counter[str] = Counter()
    for word, count in counts.items():
        totals[normal[word]] += count
    reserved = {EOS, UNKNOWN}
    ranked = sorted((w for w in totals if w not in reserved and w and "\n" not in w), key=lambda w: (-totals[w], w))
    # A word seen once teaches its row nothing that its shape class doesn't.
    ranked = [word for word in ranked if totals[word] > 1] or ranked
    kept, classes = set(ranked[: size - 2]), []
    for _ in range(3):  # fewer words mean more unknown ones and so perhaps more classes: settle
        classes = _frequent_classes(counts, normal, kept, minimum_class_count)[: max(size - 3, 0)]
        kept = set(ranked[: size - 2 - len(classes)])
    return [EOS, UNKNOWN, *classes, *ranked[: size - 2 - len(classes)]]


def _frequent_classes(counts: Counter[str], normal: dict[str, str], kept: set[str], minimum: int) -> list[str]:
    used: Counter[str] = Counter()
    for word, count in counts.items():
        if normal[word] not in kept:
            used.update(dict.fromkeys(shape_classes(word)[:-1], count))
    return sorted(shape for shape, count in used.items() if count >= minimum)


AutoTokenizer.register(OnlstmConfig, slow_tokenizer_class=OnlstmTokenizer, exist_ok=True)
