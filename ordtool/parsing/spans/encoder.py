"""A pre-trained encoder that gives a span scorer its word vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ordtool.models.limits import usable_context
from ordtool.models.loading import load_model, read_tokenizer_file
from ordtool.parsing.spans.words import PieceVocabulary, unpack_pieces
from ordtool.parsing.text.tokenize import check_token_kind
from ordtool.parsing.trees.punctuation import PUNCTUATION_KINDS

__all__ = ["ENCODER_FOLDER", "PieceEncoder", "load_encoder", "load_pieces"]

ENCODER_FOLDER = "encoder"


class PieceEncoder(nn.Module):
    """Vectors of words: the mean of the states of their pieces.

    The encoder reads a sentence as a person would write it: words, and between them a mark for each kind of punctuation.

    Args:
        model: A Transformer of the transformers library that gives `last_hidden_state`.
        pieces: Numbers of pieces.

    Attributes:
        size: Of a vector.
    """

    marks: Tensor
    bits: Tensor

    def __init__(self, model: Any, pieces: PieceVocabulary) -> None:
        super().__init__()
        self.model = model
        self.size = int(model.config.hidden_size)
        self.longest = usable_context(model.config) or 512
        self.piece_bits, self.edges = pieces.bits, (pieces.start, pieces.end)
        self.register_buffer("marks", torch.tensor(pieces.marks), persistent=False)
        self.register_buffer("bits", 1 << torch.arange(len(PUNCTUATION_KINDS)), persistent=False)

    def forward(self, words: Tensor, punctuation: Tensor, lengths: Tensor) -> Tensor:
        """Read sentences.

        Args:
            words: Packed pieces `(batch, longest)`.
            punctuation: `(batch, longest + 1)`.
            lengths: `(batch,)`.

        Returns:
            `(batch, longest + 2, size)`: a vector a word, and one for each end. Words beyond what the encoder can read have
            the vector of the last piece that it could.
        """
        batch, longest = words.shape
        positions = torch.arange(longest + 2, device=words.device)
        padded = nn.functional.pad(words, (1, 1), value=self.edges[0])
        padded = torch.where(positions == lengths[:, None] + 1, self.edges[1], padded)
        padded = padded * (positions <= lengths[:, None] + 1)
        before = nn.functional.pad(punctuation, (1, 0)) * (positions <= lengths[:, None] + 1)
        marks = torch.where(before[..., None] & self.bits > 0, self.marks, 0)
        slots = torch.cat((marks, unpack_pieces(padded, self.piece_bits)), dim=-1)
        width = slots.shape[-1]
        flat = slots.view(batch, -1)
        there = flat > 0
        # Pieces move to the left, in their order.
        order = torch.argsort(~there, dim=1, stable=True)
        count = min(int(there.sum(1).max()), self.longest)
        order = order[:, :count]
        ids = (flat.gather(1, order) - 1).clamp(min=0)
        states = self.model(input_ids=ids, attention_mask=there.gather(1, order).long()).last_hidden_state
        place = (
            (there.cumsum(1) - 1).clamp(0, count - 1).view(batch, longest + 2, width)[..., marks.shape[-1] :]
        )
        own = there.view(batch, longest + 2, width)[..., marks.shape[-1] :].to(states.dtype)
        gathered = states.gather(1, place.reshape(batch, -1, 1).expand(-1, -1, self.size))
        vectors = gathered.view(*place.shape, self.size) * own[..., None]
        total: Tensor = vectors.sum(2) / own.sum(2).clamp(min=1)[..., None]
        return total


def load_pieces(folder: Path, token_kind: str) -> PieceVocabulary:
    """Load the tokenizer of an encoder's folder.

    Raises:
        OrdtoolError: If it has none, or it is damaged; for an unknown kind of tokens.
    """
    check_token_kind(token_kind, str(folder))
    return PieceVocabulary(read_tokenizer_file(folder / "tokenizer.json"), token_kind)


def load_encoder(folder: Path, token_kind: str) -> tuple[PieceEncoder, PieceVocabulary]:
    """Load an encoder and its tokenizer.

    Args:
        folder: A Hugging Face folder with a tokenizer.json.
        token_kind: What the words of sentences are.

    Raises:
        OrdtoolError: If anything about it is damaged.
    """
    pieces = load_pieces(folder, token_kind)
    model = load_model(folder, "base", may_miss=lambda name: name.startswith("pooler.")).model
    # What some models make of the states of a whole text; it would be trained by nothing.
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return PieceEncoder(model, pieces), pieces
