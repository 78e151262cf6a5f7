"""Between text and tokens: prompts in, continuations out, spaces as they stand."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

from ordtool.errors import OrdtoolError
from ordtool.generation.config import Token
from ordtool.generation.prompts import PromptStyle
from ordtool.io.text import Record
from ordtool.models.long_texts import beginning_of

BEFORE = 4
"""Tokens of the prompt that decide on the space before a continuation."""

# As the names of their letters begin in Unicode.
_SCRIPTS_WITHOUT_SPACES = frozenset(
    "BALINESE BOPOMOFO CJK FULLWIDTH HALFWIDTH HIRAGANA JAVANESE KATAKANA KHMER LAO MYANMAR TAI THAI TIBETAN YI".split()
)


def begins_a_spaced_word(text: str) -> bool:
    """Return whether a text begins with a letter or digit of a script that has spaces between words."""
    if not text[0].isalnum():
        return False
    return unicodedata.name(text[0], "").split(" ")[0] not in _SCRIPTS_WITHOUT_SPACES


class PromptCodec:
    """A tokenizer, as generation needs it.

    Args:
        tokenizer: A tokenizer of transformers.
        stops: The tokens that end a text.
        continues: Whether the model continues the prompt (a causal LM) or answers it from
            nothing (an encoder-decoder).
        stands_alone: What is written is plain tokens and the one that ends, without special ones
            that the tokenizer puts before a text (`[CLS]`).
    """

    def __init__(
        self, tokenizer: Any, stops: Sequence[int], *, continues: bool, stands_alone: bool = False
    ) -> None:
        self.tokenizer = tokenizer
        self.stops = frozenset(stops)
        self.continues = continues
        self.stands_alone = stands_alone

    def encode(self, record: Record, style: PromptStyle, limit: int | None = None) -> tuple[int, ...]:
        """Turn a record into the tokens of its prompt.

        Args:
            record: The record.
            style: What its prompt is made of.
            limit: Tokens that the model reads; of a text that is far longer, one more may be given in place of all.

        Raises:
            OrdtoolError: If it is empty or lacks a field.
        """
        if style.uses_chat(bool(getattr(self.tokenizer, "chat_template", None))):
            return self._ids(self._chat(record, style), limit, add_special_tokens=False)
        ids = self._ids(style.text(record), limit)
        if self.continues and len(ids) > 1 and ids[-1] in self.stops:
            ids = ids[:-1]  # a tokenizer that ends every text would end the prompt
        if not ids:
            raise OrdtoolError(
                f"{record.where}: empty prompt (no token of it is known)", "write something to continue"
            )
        return ids

    def _ids(self, text: str, limit: int | None, **options: Any) -> tuple[int, ...]:
        beginning = beginning_of(text, limit)
        ids = tuple(self.tokenizer(beginning, verbose=False, **options)["input_ids"])
        if limit is None or len(beginning) == len(text):
            return ids
        if len(ids) > limit:
            return ids[: limit + 1]
        return tuple(self.tokenizer(text, verbose=False, **options)["input_ids"])

    def _chat(self, record: Record, style: PromptStyle) -> str:
        from jinja2 import TemplateError

        messages = style.messages(record)
        try:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise OrdtoolError(
                f"{record.where}: the chat template refuses the prompt: {error}", "try `chat=False`"
            ) from error
        return str(text)

    def decode(self, before: Sequence[int], ids: Sequence[int]) -> str:
        """Return the text of `ids` as it stands after `before`, special tokens left out."""
        context = list(before)
        head = self._plain(context)
        whole = self._plain(context + list(ids))
        return whole[len(head) :] if whole.startswith(head) else self._plain(list(ids))

    def _plain(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def before(self, prompt: Sequence[int]) -> list[int]:
        """Return the prompt's last tokens; none if the prompt isn't continued."""
        return list(prompt[-BEFORE:]) if self.continues else []

    def spelled(
        self, before: Sequence[int], ids: Sequence[int], values: Sequence[float]
    ) -> tuple[Token, ...]:
        """Pair every token's text with its log-probability."""
        tokens = []
        for place, (token, value) in enumerate(zip(ids, values, strict=True)):
            text = self.decode([*before, *ids[:place]][-BEFORE:], [token])
            if not text:  # a special token, such as the one that ends the text
                text = str(self.tokenizer.decode([token]))
            tokens.append(Token(text, value))
        return tuple(tokens)

    def answer(self, prompt: Sequence[int], choice: str) -> list[int]:
        """Turn a given answer into the tokens that would follow the prompt.

        Raises:
            OrdtoolError: If the tokenizer knows none of it.
        """
        text = choice
        if self.continues:
            last = self._plain(list(prompt[-1:]))
            # After `Sentiment:` an English model expects ` positive`; after a chat's turn, none.
            if last and not last[-1].isspace() and begins_a_spaced_word(choice):
                text = " " + choice
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if self.stands_alone and ids:
            ids = [*ids, *sorted(self.stops)[:1]]
        elif not self.continues:
            ids = [token for token in self.tokenizer(text_target=choice)["input_ids"]]
        if not ids:
            raise OrdtoolError(
                f"the choice {choice!r} has no token that the model knows", "choose another word"
            )
        return [int(token) for token in ids]
