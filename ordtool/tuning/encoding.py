"""Examples to token ids and targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ordtool.errors import OrdtoolError
from ordtool.models.long_texts import beginning_of
from ordtool.tuning.data import Example

NO_TARGET = -100
"""Stands where a token has nothing to be learnt."""


@dataclass(frozen=True, slots=True)
class Windows:
    """Contexts that questions are asked about, cut into windows.

    Attributes:
        of: The question of each window, `(windows,)`.
        places: Where each token of a window stands in its context, in characters, half-open: `(tokens, 2)`; 0 and 0 for
            those that are not of the context.
        contexts: Of the questions.
        answers: The right ones of each question; none where the context has none.
    """

    of: NDArray[np.int64]
    places: list[NDArray[np.int64]]
    contexts: list[str]
    answers: list[tuple[str, ...]]

    @property
    def unanswerable(self) -> bool:
        """Whether there is a question without an answer."""
        return not all(self.answers)


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of texts, with what is to be learnt of them.

    Attributes:
        ids: Of each text.
        types: Token types (0 the first text, 1 the second) where the tokenizer gives them.
        targets: Class indices or scores, `(texts,)`; None for tasks that have none a text.
        starts: For text tasks, the first token of each text that is predicted.
        sources: What an encoder reads for each text, where `ids` are for a decoder.
        token_targets: For tasks that label tokens, what each token of a text is, `NO_TARGET` where nothing.
        windows: For questions about a context, where the tokens stand in it.
    """

    ids: list[NDArray[np.int64]]
    types: list[NDArray[np.int64]] | None = None
    targets: NDArray[Any] | None = None
    starts: list[int] | None = None
    sources: list[NDArray[np.int64]] | None = None
    token_targets: list[NDArray[np.int64]] | None = None
    windows: Windows | None = None

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.ids)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The tokens of each text, those of its source among them."""
        return self.own_lengths + (0 if self.sources is None else _lengths(self.sources))

    @property
    def own_lengths(self) -> NDArray[np.int64]:
        """The tokens of each text without its source."""
        return _lengths(self.ids)

    def inputs(self, index: Sequence[int], pad: int) -> dict[str, Tensor]:
        """Return a batch as a model takes it, padded on the right.

        Returns:
            `input_ids`, `attention_mask`, perhaps `token_type_ids`. Of an encoder-decoder these are the source's, and
            `decoder_input_ids` and `decoder_attention_mask` the text's.
        """
        ids, mask = _padded(self.ids, index, pad)
        if self.sources is not None:
            source, source_mask = _padded(self.sources, index, pad)
            return {
                "input_ids": source,
                "attention_mask": source_mask,
                "decoder_input_ids": ids,
                "decoder_attention_mask": mask,
            }
        found = {"input_ids": ids, "attention_mask": mask}
        if self.types is not None:
            found["token_type_ids"] = _padded(self.types, index, 0)[0]
        return found

    @property
    def writes(self) -> bool:
        """Whether text is to be written, and nothing has a label."""
        return self.targets is None and self.token_targets is None

    def targets_of(self, index: Sequence[int]) -> Tensor:
        """Return a batch's classes or scores, `(batch,)`; of tokens `(batch, seq)`, `NO_TARGET` for padding."""
        if self.token_targets is not None:
            return _padded(self.token_targets, index, NO_TARGET)[0]
        assert self.targets is not None
        return torch.from_numpy(self.targets[list(index)])

    def counted(self, index: Sequence[int]) -> int:
        """Return what the mean loss of a batch is over: its texts, or the tokens that are predicted or have labels."""
        if self.token_targets is not None and self.windows is None:
            return sum(int((self.token_targets[i] != NO_TARGET).sum()) for i in index)
        if self.starts is None:
            return len(index)
        return sum(max(0, len(self.ids[i]) - max(1, self.starts[i])) for i in index)

    def labels(self, index: Sequence[int]) -> Tensor:
        """Return a text batch's next tokens, `(batch, seq)`: at each position the one after it, -100 where none counts."""
        assert self.starts is not None
        longest = max(len(self.ids[i]) for i in index)
        found = torch.full((len(index), longest), -100)
        for row, i in enumerate(index):
            begin = max(1, self.starts[i])
            found[row, begin - 1 : len(self.ids[i]) - 1] = torch.from_numpy(self.ids[i][begin:])
        return found


def _lengths(rows: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.array([len(row) for row in rows], dtype=np.int64)


def _padded(rows: Sequence[NDArray[np.int64]], index: Sequence[int], pad: int) -> tuple[Tensor, Tensor]:
    """Return some rows, padded on the right, and their mask, each `(batch, longest)`."""
    longest = max(len(rows[i]) for i in index)
    found = torch.full((len(index), longest), pad)
    mask = torch.zeros(len(index), longest, dtype=torch.long)
    for place, i in enumerate(index):
        found[place, : len(rows[i])] = torch.from_numpy(rows[i])
        mask[place, : len(rows[i])] = 1
    return found, mask


def encode_texts(
    tokenizer: Any, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]] | None]:
    """Tokenize texts, or pairs of texts of which the longer is cut first.

    Returns:
        Token ids and, where the tokenizer tells texts apart by them, token types.
    """
    given = (list(texts),) if pairs is None else (list(texts), list(pairs))
    beginnings = tuple([beginning_of(text, max_length) for text in side] for side in given)
    if getattr(tokenizer, "truncation_side", "right") != "right":
        beginnings = given
    found = tokenizer(*beginnings, truncation="longest_first", max_length=max_length)
    if beginnings != given and any(len(row) < max_length for row in found["input_ids"]):
        found = tokenizer(*given, truncation="longest_first", max_length=max_length)
    ids = [np.array(row, dtype=np.int64) for row in found["input_ids"]]
    if any(not len(row) for row in ids):
        # GPT-2's kind gives nothing for an empty text, and attention needs a token.
        ids = [row if len(row) else np.array([filler(tokenizer)], dtype=np.int64) for row in ids]
    types = found.get("token_type_ids") if pairs is not None else None
    return ids, None if types is None else [np.array(row, dtype=np.int64) for row in types]


def filler(tokenizer: Any) -> int:
    """Return a token to read where a text has none."""
    return next(t for t in (tokenizer.bos_token_id, tokenizer.eos_token_id, 0) if t is not None)


def check_offsets(tokenizer: Any) -> None:
    """Raise an OrdtoolError for a tokenizer that doesn't say where its tokens stand in a text."""
    if not getattr(tokenizer, "is_fast", False):
        raise OrdtoolError(
            f"{type(tokenizer).__name__} doesn't say where its tokens stand in a text, so words can't be labelled with it",
            "a model with a tokenizer.json can be used",
        )


def encode_labelled(
    tokenizer: Any, examples: Sequence[Example], targets: Sequence[float], max_length: int
) -> Encoded:
    """Encode texts or pairs with classes (integers) or scores."""
    pairs = None if examples[0].pair is None else [example.pair or "" for example in examples]
    ids, types = encode_texts(tokenizer, [example.text for example in examples], pairs, max_length)
    dtype = np.int64 if all(isinstance(target, int) for target in targets) else np.float32
    return Encoded(ids, types, np.array(targets, dtype=dtype))


def encode_blocks(tokenizer: Any, documents: Sequence[str], length: int) -> Encoded:
    """Cut documents, joined by the end token, into blocks of `length` tokens; the rest of the last is kept if long.

    Raises:
        OrdtoolError: If there are fewer than two tokens.
    """
    tokens: list[int] = []
    for document in documents:
        tokens += tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"]
        if tokenizer.eos_token_id is not None:
            tokens.append(tokenizer.eos_token_id)
    blocks = [
        np.array(tokens[start : start + length], dtype=np.int64) for start in range(0, len(tokens), length)
    ]
    blocks = [block for block in blocks if len(block) >= min(length, 2)]
    if not blocks or len(blocks[0]) < 2:
        raise OrdtoolError("the text has fewer than two tokens: there is nothing to predict")
    return Encoded(blocks, starts=[1] * len(blocks))


def encode_pairs(tokenizer: Any, examples: Sequence[Example], max_length: int) -> Encoded:
    """Encode sources and the texts to write after them, as a causal model reads them: source, newline, target, end.

    Raises:
        OrdtoolError: If a source leaves no room for a token of its target.
    """
    ids, starts = [], []
    end = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    for example in examples:
        source = prompt_ids(tokenizer, example.text)
        target = tokenizer(example.label, add_special_tokens=False)["input_ids"] + end
        if len(source) >= max_length:
            raise OrdtoolError(
                f"{example.where}: the source has {len(source)} tokens, and `max_length` is {max_length}",
                "a longer `max_length` leaves room for the target",
            )
        ids.append(np.array((source + target)[:max_length], dtype=np.int64))
        starts.append(len(source))
    return Encoded(ids, starts=starts)


def encode_sources(tokenizer: Any, examples: Sequence[Example], max_length: int, start: int) -> Encoded:
    """Encode sources for an encoder and targets for its decoder: the start token, the target, the end.

    Either is cut after `max_length` tokens.
    """
    sources, _ = encode_texts(tokenizer, [example.text for example in examples], None, max_length)
    ids = []
    for example in examples:
        target = list(tokenizer(text_target=example.label, verbose=False)["input_ids"])
        end = tokenizer.eos_token_id
        if end is not None and target[-1:] != [end]:
            target.append(end)
        ids.append(np.array([start, *target][:max_length], dtype=np.int64))
    return Encoded(ids, starts=[1] * len(ids), sources=sources)


def prompt_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a source as `encode_pairs` and a prompt ending in a newline have them."""
    found: list[int] = tokenizer(text + "\n")["input_ids"]
    if found and found[-1] == tokenizer.eos_token_id:
        found = found[:-1]
    return found
