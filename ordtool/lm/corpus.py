"""Text to blocks of tokens: a BPE vocabulary, and what each objective is shown of a block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ordtool.errors import OrdtoolError
from ordtool.progress import SILENT, Progress

PAD, EOS, MASK = "<pad>", "<eos>", "<mask>"
# Of the tokens of a block (Devlin et al. 2019, section 3.1): hidden ones, and what becomes of those.
HIDDEN, TO_MASK, TO_ANOTHER = 0.15, 0.8, 0.1


def train_tokenizer(documents: Iterable[str], vocab_size: int, *, masks: bool = False) -> Any:
    """Train byte-level BPE (Sennrich et al. 2016) on text.

    Args:
        documents: The texts.
        vocab_size: Pieces at most, the 256 bytes and two special tokens among them.
        masks: Have a `<mask>` too, one special token more.

    Returns:
        A fast tokenizer of transformers, with `<pad>` and `<eos>`; every text round-trips.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, EOS, *([MASK] if masks else [])],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_lines(documents), trainer)
    more = {"mask_token": MASK} if masks else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
        **more,
    )


def _lines(documents: Iterable[str]) -> Iterator[str]:
    for document in documents:
        yield from document.splitlines(keepends=True)


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    """Gather documents to at least a million characters, or a single long one."""
    batch, size = [], 0
    for document in documents:
        batch.append(document)
        size += len(document) + 1
        if size >= 1_000_000:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def tokenize(documents: Iterable[str], tokenizer: Any, progress: Progress = SILENT) -> tuple[np.ndarray, int]:
    """Turn documents into one row of tokens, each document ended by `eos`.

    Args:
        documents: The texts.
        tokenizer: With an `eos_token_id`.
        progress: Told of documents.

    Returns:
        Tokens `(n,)` int32, and the size of the text in bytes.

    Raises:
        OrdtoolError: If there is no text, or the tokenizer has no token that ends it.
    """
    if tokenizer.eos_token_id is None:
        raise OrdtoolError("the tokenizer has no eos token, so documents can't be told apart")
    rows, size = [], 0
    progress.start("tokenizing", None, "documents")
    for batch in _batches(documents):  # a fast tokenizer shares a batch among the cores
        for ids in tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]:
            rows.append(np.array([*ids, tokenizer.eos_token_id], dtype=np.int32))
        size += sum(len(document.encode("utf-8", "surrogatepass")) for document in batch)
        progress.advance(len(batch))
    progress.close()
    if not size:
        raise OrdtoolError("no text to train on", "give files with text in them")
    return np.concatenate(rows), size


@dataclass(frozen=True, slots=True)
class Masking:
    """What stands in the place of hidden tokens.

    Attributes:
        mask: The mask token.
        ordinary: All tokens that are text, `(n,)`: the others are never hidden, and never put in another's place.
    """

    mask: int
    ordinary: NDArray[np.int64]

    @classmethod
    def of(cls, tokenizer: Any) -> Masking:
        """Read a tokenizer.

        Raises:
            OrdtoolError: If it has no mask token.
        """
        if tokenizer.mask_token_id is None:
            raise OrdtoolError(
                "the tokenizer has no mask token, which `objective` masked needs",
                "leave `tokenizer` out, or take that of a RoBERTa",
            )
        ordinary = np.setdiff1d(np.arange(len(tokenizer)), tokenizer.all_special_ids)
        return cls(int(tokenizer.mask_token_id), ordinary)

    def hide(self, ids: Tensor, draw: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Hide 15% of a block's tokens: 80% of them become the mask, 10% another token, 10% stay.

        Args:
            ids: `(n,)`.
            draw: Says which.

        Returns:
            What the model reads, and the labels: the token that is hidden, -100 where none is.
        """
        read, labels = ids.numpy().copy(), np.full(len(ids), -100)
        candidates = np.flatnonzero(np.isin(read, self.ordinary))
        if len(candidates):
            places = draw.choice(candidates, max(1, round(HIDDEN * len(candidates))), replace=False)
            labels[places] = read[places]
            fate = draw.random(len(places))
            others = draw.choice(self.ordinary, len(places))
            read[places] = np.where(
                fate < TO_MASK, self.mask, np.where(fate < TO_MASK + TO_ANOTHER, others, read[places])
            )
        return torch.from_numpy(read), torch.from_numpy(labels)


class Blocks(Dataset[dict[str, Tensor]]):
    """Blocks of a row of tokens, as an objective sees them.

    What is drawn for a block (where the source ends, in which order it is read) is a
    function of the seed, the epoch and the block's number, so a resumed run draws the same.

    Args:
        tokens: `(n,)`; what is left over after the last whole block is not used.
        length: Of a block.
        objective: `causal`, `prefix`, `permutation` or `masked`.
        seed: Of what is drawn.
        longest: For random positions: they are drawn below it; None: 0, 1, 2 ...
        masking: For `masked`: what stands in the place of hidden tokens.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        length: int,
        objective: str,
        seed: int = 0,
        longest: int | None = None,
        masking: Masking | None = None,
    ) -> None:
        self.tokens = tokens
        self.length = length
        self.objective = objective
        self.seed = seed
        self.longest = longest
        self.masking = masking
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Draw anew; accelerate's loader calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.tokens) // self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        start = index * self.length
        ids = torch.from_numpy(self.tokens[start : start + self.length].astype(np.int64))
        item = {"input_ids": ids, "labels": ids.clone()}
        draw = np.random.default_rng([self.seed, self.epoch, index])
        if self.objective == "prefix":
            split = int(draw.integers(1, self.length))
            item["token_type_ids"] = (torch.arange(self.length) >= split).long()
            item["labels"][:split] = -100
        elif self.objective == "permutation":
            order = torch.from_numpy(draw.permutation(self.length))
            item["ranks"] = order.argsort()
            # Each position is told the position after it in the order; the last has none.
            following = torch.cat([order[1:], torch.tensor([self.length])])
            item["target_positions"] = following[item["ranks"]]
        elif self.masking is not None:
            item["input_ids"], item["labels"] = self.masking.hide(ids, draw)
        if self.longest is not None:  # Ruoss et al. 2023: without replacement, and sorted
            drawn = np.sort(draw.choice(self.longest, self.length, replace=False))
            item["position_ids"] = torch.from_numpy(drawn)
        return item
