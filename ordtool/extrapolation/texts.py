"""Long texts, and the windows cut from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from ordtool.errors import OrdtoolError
from ordtool.io.text import Record

Encode = Callable[[str], list[int]]
_CHARACTERS = 6  # a token, about; more are taken where that is too few


@dataclass(frozen=True, slots=True)
class Text:
    """A text that windows are cut from, and where it is from."""

    name: str
    text: str


def gather_texts(records: Iterable[Record]) -> list[Text]:
    """Make texts of records: a file is one text, and so is a line of JSONL.

    Args:
        records: As `ordtool.io.text.read_records` gives them.

    Raises:
        OrdtoolError: If there is nothing to read.
    """
    texts: list[Text] = []
    lines: dict[str, list[str]] = {}
    for record in records:
        if record.data is not None:
            texts.append(Text(record.where, record.text))
        else:
            lines.setdefault(record.source, []).append(record.text)
    texts += [Text(source, "\n".join(parts)) for source, parts in lines.items()]
    texts = [text for text in texts if text.text.strip()]
    if not texts:
        raise OrdtoolError("no text in the input", "a long one is needed: a book, an article, a log")
    return texts


def cut_windows(texts: Sequence[Text], encode: Encode, length: int, count: int) -> torch.Tensor:
    """Cut windows of `length` tokens, one after the other, from the start of each text on.

    Args:
        texts: Where from; texts that are too short are passed over.
        encode: From text to tokens, without special ones.
        length: Tokens a window.
        count: Windows at most.

    Returns:
        `(windows, length)`, as many as there are, at least one.

    Raises:
        OrdtoolError: If no text is long enough; it says how much is missing.
    """
    windows: list[list[int]] = []
    longest, name = 0, texts[0].name
    for text in texts:
        tokens = _first_tokens(text.text, encode, (count - len(windows)) * length)
        if len(tokens) > longest:
            longest, name = len(tokens), text.name
        starts = range(0, len(tokens) - length + 1, length)
        windows += [tokens[start : start + length] for start in starts]
        if len(windows) >= count:
            break
    if not windows:
        several = "" if len(texts) == 1 else f", the longest of {len(texts)} texts,"
        raise OrdtoolError(
            f"{name}{several} has {longest:,} tokens, and {length:,} are needed: {length - longest:,} are missing",
            "give a longer text, or ask for shorter lengths",
        )
    return torch.tensor(windows[:count])


def longest_text(texts: Sequence[Text], encode: Encode, enough: int) -> int:
    """Return the tokens of the longest text, at most `enough`: longer ones aren't counted to their end."""
    longest = 0
    for text in texts:
        longest = max(longest, len(_first_tokens(text.text, encode, enough)))
        if longest == enough:
            break
    return longest


def _first_tokens(text: str, encode: Encode, count: int) -> list[int]:
    """Encode no more of a text than is needed."""
    size = _CHARACTERS * count
    while size < len(text):
        tokens = encode(text[:size])
        if len(tokens) > count + 16:  # the last ones may depend on what was cut off
            return tokens[:count]
        size *= 2
    return encode(text)[:count]


def repeat_windows(windows: torch.Tensor, period: int) -> torch.Tensor:
    """Make each window repeat its last `period` tokens, ending as it did.

    What is at distance `period` then tells the next token, so that far memory shows.

    Args:
        windows: `(windows, length)`.
        period: Tokens before the text comes again, at most the length.

    Returns:
        `(windows, length)`.
    """
    length = windows.shape[1]
    times = -(-length // period)
    return windows[:, -period:].repeat(1, times)[:, -length:]
