"""Texts to token ids, with the number of texts that were cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ordtool.models.long_texts import beginning_of


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids of a window.

    Attributes:
        ids: A list of ids a text.
        cut: Which texts were longer than the limit; None: none.
    """

    ids: list[list[int]]
    cut: list[bool] | None = None

    @property
    def truncated(self) -> int:
        """How many texts were cut."""
        return sum(self.cut or ())

    def take(self, indices: Sequence[int]) -> Tokens:
        """Return the tokens of some texts."""
        if len(indices) == len(self.ids):
            return self
        cut = None if self.cut is None else [self.cut[index] for index in indices]
        return Tokens([self.ids[index] for index in indices], cut)


class _Encoded(NamedTuple):
    ids: list[list[int]]
    cut: list[bool]


class TextTokenizer:
    """The model's own tokenizer, special tokens and truncation included.

    Args:
        folder: The Hugging Face folder.
        max_length: Tokens a text at most, special tokens counted; None: no limit.
        lower_case: Put texts in lower case first.
    """

    def __init__(self, folder: Path, max_length: int | None, *, lower_case: bool = False) -> None:
        from ordtool.models.loading import load_tokenizer
        from ordtool.models.wordpiece import read_wordpiece

        self._folder = folder
        self._tokenizer: Any = read_wordpiece(folder) or load_tokenizer(folder)
        self._lower_case = lower_case
        self.max_length = max_length
        self._fast: Any = getattr(self._tokenizer, "backend_tokenizer", None)
        if self._fast is not None:
            self._fast.no_padding()
            self._set_truncation()

    @property
    def model_max_length(self) -> int | None:
        """Tokens that the tokenizer says the model takes; None where it doesn't."""
        from ordtool.models.limits import tokenizer_limit

        return tokenizer_limit(self._tokenizer)

    def check_vocabulary(self, model: Any) -> None:
        """Refuse a model without vectors for all tokens; see `models.loading.check_vocabulary`."""
        from ordtool.models.loading import check_vocabulary

        check_vocabulary(self._folder, self._tokenizer, model)

    def limit(self, max_length: int | None) -> None:
        """Set how many tokens of a text are read."""
        self.max_length = max_length
        if self._fast is not None:
            self._set_truncation()

    def _set_truncation(self) -> None:
        if self.max_length is None:
            self._fast.no_truncation()
        else:
            self._fast.enable_truncation(self.max_length)

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """Tokenize a window of texts."""
        batch = [text.lower() for text in texts] if self._lower_case else list(texts)
        if self._fast is None:
            return self._slow(batch)
        beginnings = [beginning_of(text, self.max_length) for text in batch]
        found = self._encode(beginnings)
        for index, (text, beginning) in enumerate(zip(batch, beginnings, strict=True)):
            if len(beginning) < len(text) and not found.cut[index]:  # few tokens for so many characters
                ((ids,), (cut,)) = self._encode([text])
                found.ids[index], found.cut[index] = ids, cut
        return Tokens(*found)

    def _encode(self, texts: list[str]) -> _Encoded:
        encodings = self._fast.encode_batch_fast(texts)
        return _Encoded([e.ids for e in encodings], [bool(e.overflowing) for e in encodings])

    def _slow(self, texts: list[str]) -> Tokens:
        ids: list[list[int]] = self._tokenizer(texts, truncation=False).input_ids
        if self.max_length is None:
            return Tokens(ids)
        cut = [len(text) > self.max_length for text in ids]
        for index in np.flatnonzero(cut).tolist():
            ids[index] = self._tokenizer(texts[index], truncation=True, max_length=self.max_length).input_ids
        return Tokens(ids, cut)

    def prompt_length(self, prompt: str) -> int:
        """Count the tokens that a prompt puts before a text, a start token included."""
        ids = self([prompt]).ids[0]
        end = {self._tokenizer.sep_token_id, self._tokenizer.eos_token_id}
        return len(ids) - (1 if ids and ids[-1] in end else 0)
