"""Words to numbers: the word tokenizer of the language models.

A vocabulary holds normalised words (lowercased, digit runs as `N`) and shape classes. A word
that the vocabulary lacks becomes the class of its shape - capital, digits, hyphen, suffix - so
that `electroencephalographically` is still read as an adverb and `Okonkwo` as a name.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizer

from ordtool.parsing.onlstm.model import OnlstmConfig
from ordtool.parsing.text.vocabulary import (
    EOS,
    UNKNOWN,
    VOCABULARY_FILE,
    Vocabulary,
    read_vocabulary,
)

__all__ = ["OnlstmTokenizer"]


class OnlstmTokenizer(PreTrainedTokenizer):
    """Tokenizer of words that are already apart, saved as `vocab.txt` and `tokenizer_config.json`.

    `encode_words` is the fast way for lists of words; the usual Hugging Face calls work as well and
    first split their text with `ordtool.parsing.text.tokenize.tokenize`.

    Args:
        vocab_file: Path of `vocab.txt`, a token a line; the line number is the id.
        lowercase: Look words up in lower case.
        digits: Write every run of digits (with its decimal points and thousands commas) as `N`.
        drop_punctuation: Punctuation isn't part of the model's language; `keeps` tells.
        token_kind: How raw text is split: `words`, `chars` or `jieba`.
        simplified: Look words up in simplified Chinese characters.

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
        simplified: bool = False,
        **kwargs: Any,
    ) -> None:
        self.vocabulary = Vocabulary(
            [EOS, UNKNOWN] if vocab_file is None else read_vocabulary(vocab_file),
            lowercase=lowercase,
            digits=digits,
            drop_punctuation=drop_punctuation,
            token_kind=token_kind,
            simplified=simplified,
            source=str(vocab_file),
        )
        self.lowercase = lowercase
        self.digits = digits
        self.drop_punctuation = drop_punctuation
        self.token_kind = token_kind
        self.simplified = simplified
        self._tokens, self._ids = self.vocabulary.tokens, self.vocabulary.ids
        options = {"eos_token": EOS, "unk_token": UNKNOWN, "pad_token": EOS, "special_tokens_pattern": "none"}
        super().__init__(
            lowercase=lowercase,
            digits=digits,
            drop_punctuation=drop_punctuation,
            token_kind=token_kind,
            simplified=simplified,
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
        return dict(self._ids) | self.added_tokens_encoder

    def normalize(self, word: str) -> str:
        """The form under which a word is looked up."""
        return self.vocabulary.normalize(word)

    def keeps(self, word: str) -> bool:
        """Whether the model reads this token (False: punctuation that it was trained without)."""
        return self.vocabulary.keeps(word)

    def word_id(self, word: str) -> int:
        """Return the id of one word, or of its finest known shape class."""
        return self.vocabulary.word_id(word)

    def encode_words(self, sentences: Iterable[Sequence[str]]) -> list[list[int]]:
        """Return the ids of sentences given as lists of words; nothing is added or dropped."""
        return self.vocabulary.encode_words(sentences)

    def is_unknown(self, token_id: int) -> bool:
        """Whether an id stands for a shape class rather than a word."""
        return self._tokens[token_id].startswith("<unk")

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        from ordtool.parsing.text.tokenize import tokenize

        return [token.text for token in tokenize(text, self.token_kind) if self.keeps(token.text)]  # type: ignore[arg-type]

    def _convert_token_to_id(self, token: str) -> int:
        return self.word_id(token)

    def _convert_id_to_token(self, index: int) -> str:
        return self._tokens[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join words with spaces."""
        return " ".join(tokens)

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Put `<eos>` before and after the words, as in training."""
        eos = [self._ids[EOS]]
        return eos + token_ids_0 + eos + (token_ids_1 + eos if token_ids_1 else [])

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        """Write `vocab.txt`."""
        name = f"{filename_prefix}-{VOCABULARY_FILE}" if filename_prefix else VOCABULARY_FILE
        path = Path(save_directory) / name
        path.write_bytes("".join(f"{token}\n" for token in self._tokens).encode())
        return (str(path),)


AutoTokenizer.register(OnlstmConfig, slow_tokenizer_class=OnlstmTokenizer, exist_ok=True)
