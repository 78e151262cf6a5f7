"""Where a text ends: stop strings, cut exactly, also while it is being written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Decode = Callable[[Sequence[int], Sequence[int]], str]
"""(ids before, ids) -> the text of ids, with the space that it has after what is before."""

REPLACEMENT = "�"


def find_stop(text: str, stops: Sequence[str]) -> int | None:
    """Return where the first stop string begins in `text`, or None.

    Args:
        text: What was written so far.
        stops: Non-empty strings.
    """
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return min(places) if places else None


def held_back(text: str, stops: Sequence[str]) -> int:
    """Count the characters at the end of `text` that may be the beginning of a stop string."""
    longest = 0
    for stop in stops:
        for size in range(min(len(stop) - 1, len(text)), longest, -1):
            if text.endswith(stop[:size]):
                longest = size
                break
    return longest


def tokens_until(ids: Sequence[int], characters: int, decode: Callable[[Sequence[int]], str]) -> int:
    """Count the tokens that the first `characters` characters are written with.

    Args:
        ids: The tokens of a continuation.
        characters: A length in the text of `ids`.
        decode: Gives the text of the first tokens.
    """
    low, high = 0, len(ids)
    while low < high:  # the text of a prefix grows with the prefix
        middle = (low + high) // 2
        if len(decode(ids[:middle])) >= characters:
            high = middle
        else:
            low = middle + 1
    return low


class StopStrings:
    """A stopping criterion of transformers: a row ends when a stop string is in its text.

    Args:
        stops: The strings.
        befores: For each prompt the last tokens of the prompt, which decide on spaces.
        columns: How many columns of a sequence are prompt (or decoder start), padding included.
        decode: See `Decode`.
    """

    def __init__(
        self, stops: Sequence[str], befores: Sequence[Sequence[int]], columns: int, decode: Decode
    ) -> None:
        self.stops = tuple(stops)
        self.befores = befores
        self.columns = columns
        self.decode = decode

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Return which rows of `input_ids` (rows, length) have ended."""
        import torch

        rows = input_ids[:, self.columns :].tolist()
        # Beam search offers several candidates for each prompt, in the prompts' order.
        per_prompt = len(rows) // len(self.befores)
        texts = [self.decode(self.befores[index // per_prompt], row) for index, row in enumerate(rows)]
        # A character not yet complete shows as U+FFFD, for the moment.
        ended = [find_stop(text.rstrip(REPLACEMENT), self.stops) is not None for text in texts]
        return torch.tensor(ended, dtype=torch.bool, device=input_ids.device)


class TextStream:
    """Hands on text while it is written: a streamer of transformers, for one sequence.

    What could still turn out to be the beginning of a stop string, or is a character
    not yet complete, is held back; the pieces together are exactly the final text.

    Args:
        before: The prompt's last tokens.
        stops: The stop strings.
        decode: See `Decode`.
        write: Called with each piece.
        skip: How many calls of `put` bring the prompt.
    """

    def __init__(
        self,
        before: Sequence[int],
        stops: Sequence[str],
        decode: Decode,
        write: Callable[[str], None],
        skip: int = 1,
    ) -> None:
        self.before = before
        self.stops = tuple(stops)
        self.decode = decode
        self.write = write
        self._skip = skip
        self._ids: list[int] = []
        self._written = ""

    def put(self, value: torch.Tensor) -> None:
        """Take the next token(s)."""
        if self._skip:
            self._skip -= 1
            return
        self._ids.extend(int(token) for token in value.flatten().tolist())
        text = self.decode(self.before, self._ids)
        stop = find_stop(text, self.stops)
        if stop is None:
            text = text.rstrip(REPLACEMENT)
            text = text[: len(text) - held_back(text, self.stops)]
        self._emit(text if stop is None else text[:stop])

    def finish(self, text: str) -> None:
        """Write what is missing of the final text."""
        self._emit(text)

    def end(self) -> None:
        """Transformers calls this at the end; `finish` does the work."""

    def _emit(self, text: str) -> None:
        # A tokenizer may change its mind about earlier characters; then wait for the end.
        if text.startswith(self._written) and len(text) > len(self._written):
            self.write(text[len(self._written) :])
            self._written = text
