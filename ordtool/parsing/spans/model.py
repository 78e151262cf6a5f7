"""A span scorer: a small Transformer that says of every span of a sentence whether it is a phrase, and of which kind.

It learns from trees that something else has drawn, an ensemble of ON-LSTMs above all, and is quicker and better than
each of them: it reads a sentence from both sides and all words at once, and what the members err in differently is
averaged away (distillation: Kim and Rush 2016; for ensembles of unsupervised parsers: Shayegh et al. 2024).

Spans are scored as by Stern et al. 2017 and Kitaev and Klein 2018, through the boundaries at their ends, here by a
bilinear form, which is one matrix product for all spans of a sentence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ordtool.errors import UsageError
from ordtool.lm.rotary import apply_rotary, inverse_frequencies, rotary_cos_sin
from ordtool.parsing.spans.encoder import PieceEncoder
from ordtool.parsing.spans.words import SHAPES, AffixVocabulary, unpack_affixes
from ordtool.parsing.trees.punctuation import PUNCTUATION_KINDS

__all__ = ["MODEL_TYPE", "Scored", "SpanConfig", "SpanModel", "span_mask"]

MODEL_TYPE = "ordtool_spans"


@dataclass(frozen=True, slots=True)
class SpanConfig:
    """Shape of a span scorer.

    Attributes:
        vocab_size: Words and shape classes.
        embedding_size: Of word vectors; they are widened to `hidden_size`.
        hidden_size: d.
        num_hidden_layers: Blocks.
        num_attention_heads: Heads; they divide `hidden_size` into even parts.
        intermediate_size: Of the feed-forward part.
        span_size: Of the two vectors of a boundary whose product scores a span.
        dropout: On embeddings, and on what each part of a block adds.
        eos_token_id: Stands before and behind every sentence.
        affixes: Read the shapes and affixes of words too, see `AffixVocabulary`.
        labels: Kinds of phrases, unary chains as one (`S+VP`); the first is `""`, no phrase at all. Empty: not learned.
        tags: Parts of speech. Empty: not learned.
        label_size: Of the vectors by which phrases are labelled.
        threshold: Leave a span out of a tree if its probability isn't larger; None: trees are binary.
    """

    vocab_size: int
    embedding_size: int = 128
    hidden_size: int = 192
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    intermediate_size: int = 768
    span_size: int = 128
    dropout: float = 0.1
    eos_token_id: int = 0
    affixes: bool = False
    labels: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    label_size: int = 128
    threshold: float | None = None

    def __post_init__(self) -> None:
        """Check that the sizes go together.

        Raises:
            UsageError: If they don't.
        """
        if self.hidden_size % (2 * self.num_attention_heads):
            raise UsageError(
                f"{self.num_attention_heads} heads don't divide a hidden size of {self.hidden_size} into even parts",
                "a hidden size that is a multiple of twice the heads",
            )


class _Block(nn.Module):
    """Attention over the whole sentence and a feed-forward part, each normalised before."""

    def __init__(self, config: SpanConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.heads = config.num_attention_heads
        self.attention_norm = nn.LayerNorm(size)
        self.query_key_value = nn.Linear(size, 3 * size)
        self.attention_out = nn.Linear(size, size)
        self.feed_norm = nn.LayerNorm(size)
        self.feed_in = nn.Linear(size, config.intermediate_size)
        self.feed_out = nn.Linear(config.intermediate_size, size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor, cos_sin: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        batch, length, size = hidden.shape
        mixed = self.query_key_value(self.attention_norm(hidden))
        query, key, value = mixed.view(batch, length, 3, self.heads, size // self.heads).permute(
            2, 0, 3, 1, 4
        )
        attended = F.scaled_dot_product_attention(
            apply_rotary(query, *cos_sin), apply_rotary(key, *cos_sin), value, mask
        )
        joined = attended.transpose(1, 2).reshape(batch, length, size)
        hidden = hidden + self.dropout(self.attention_out(joined))
        return hidden + self.dropout(self.feed_out(F.gelu(self.feed_in(self.feed_norm(hidden)))))


class Scored(NamedTuple):
    """What a span scorer makes of a batch of sentences.

    Attributes:
        spans: `(batch, longest + 1, longest + 1)`: at `[b, i, j]` the log odds that words i to j - 1 are a phrase, for
            i < j <= lengths[b]; other places hold nothing of use.
        boundaries: Vectors of the boundaries, `(batch, longest + 1, 2 d)`: those of the words on both sides, side by side.
        words: Vectors of the words, `(batch, longest, d)`.
    """

    spans: Tensor
    boundaries: Tensor
    words: Tensor


class SpanModel(nn.Module):
    """Scores of all spans of sentences.

    Args:
        config: Its shape.
        encoder: Gives the word vectors; None: they are looked up in tables.
    """

    bits: Tensor

    def __init__(self, config: SpanConfig, encoder: PieceEncoder | None = None) -> None:
        super().__init__()
        self.config = config
        size = config.hidden_size
        if encoder is None:
            self.words = nn.Embedding(config.vocab_size, config.embedding_size)
            if config.affixes:
                self.affixes = nn.Embedding(SHAPES + AffixVocabulary.rows, config.embedding_size)
        self.widen = nn.Linear(encoder.size if encoder else config.embedding_size, size, bias=False)
        # The name under which its weights are saved.
        self.marks = nn.Linear(len(PUNCTUATION_KINDS), size, bias=False)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(size)
        self.boundary = nn.Linear(2 * size, 2 * config.span_size)
        self.ends = nn.Linear(2 * config.span_size, 2)
        if config.labels:
            self.label_ends = nn.Linear(2 * size, 2 * config.label_size)
            self.label = nn.Linear(config.label_size, len(config.labels))
        if config.tags:
            self.tag = nn.Linear(size, len(config.tags))
        self.dropout = nn.Dropout(config.dropout)
        self.register_buffer("bits", 1 << torch.arange(len(PUNCTUATION_KINDS)), persistent=False)
        self.apply(_initialise)
        self.encoder = encoder

    def forward(self, words: Tensor, punctuation: Tensor, lengths: Tensor) -> Tensor:
        """Score every span.

        Args:
            words: Numbers `(batch, longest)`; what stands beyond a sentence's end isn't looked at.
            punctuation: What stands at each boundary, `(batch, longest + 1)`; see `punctuation_between`.
            lengths: Words of each sentence, `(batch,)`.

        Returns:
            See `Scored.spans`.
        """
        return self.read(words, punctuation, lengths).spans

    def read(self, words: Tensor, punctuation: Tensor, lengths: Tensor) -> Scored:
        """Score every span, and give the vectors by which `label_scores` and `tag_scores` judge; arguments as `forward`."""
        hidden = self._hidden(words, punctuation, lengths)
        neighbours = torch.cat((hidden[:, :-1], hidden[:, 1:]), dim=-1)
        boundaries = self.boundary(neighbours)
        left, right = F.gelu(boundaries).chunk(2, dim=-1)
        product = left @ right.transpose(1, 2) / math.sqrt(self.config.span_size)
        # Linear in each end too: how readily a phrase starts or ends here.
        starts, ends = self.ends(boundaries).chunk(2, dim=-1)
        return Scored(product + starts + ends.transpose(1, 2), neighbours, hidden[:, 1:-1])

    def label_scores(self, boundaries: Tensor, rows: Tensor, starts: Tensor, ends: Tensor) -> Tensor:
        """Score the labels of chosen spans.

            label(i, j)  ~  V gelu(A b_i + B b_j)

        Args:
            boundaries: See `Scored`.
            rows: The sentence of each span, `(spans,)`.
            starts: Its first word.
            ends: The word behind its last.

        Returns:
            `(spans, labels)`.
        """
        left, right = self.label_ends(boundaries).chunk(2, dim=-1)
        scores: Tensor = self.label(self.dropout(F.gelu(left[rows, starts] + right[rows, ends])))
        return scores

    def tag_scores(self, words: Tensor) -> Tensor:
        """Score the parts of speech of words, of vectors `(..., d)`: `(..., tags)`."""
        scores: Tensor = self.tag(words)
        return scores

    def _word_vectors(self, words: Tensor, punctuation: Tensor, lengths: Tensor) -> Tensor:
        """Vectors of the words and of what stands before and behind a sentence, `(batch, longest + 2, embedding)`."""
        if self.encoder is not None:
            return self.encoder(words, punctuation, lengths)
        positions = torch.arange(words.shape[1] + 2, device=words.device)
        inside = (positions > 0) & (positions <= lengths[:, None])
        padded = F.pad(words, (1, 1)).masked_fill(~inside, self.config.eos_token_id)
        if not self.config.affixes:
            return self.words(padded)
        ids, rows = unpack_affixes(padded)
        vectors: Tensor = self.words(ids) + self.affixes(rows).sum(-2)
        return vectors

    def _hidden(self, words: Tensor, punctuation: Tensor, lengths: Tensor) -> Tensor:
        """Vectors of the words and of both ends after the last block, `(batch, longest + 2, d)`."""
        longest = words.shape[1]
        positions = torch.arange(longest + 2, device=words.device)
        hidden = self.widen(self._word_vectors(words, punctuation, lengths))
        present = (punctuation[..., None] & self.bits > 0).to(hidden.dtype)
        # Punctuation belongs to what follows it: a word, or the end.
        hidden = self.dropout(hidden + F.pad(self.marks(present), (0, 0, 1, 0)))
        frequencies = inverse_frequencies(self.config.hidden_size // self.config.num_attention_heads)
        cos_sin = rotary_cos_sin(positions, frequencies, hidden.dtype)
        # A card would have to be waited for before it could say whether there is any padding.
        full = lengths.device.type == "cpu" and bool((lengths == longest).all())
        mask = None if full else (positions <= lengths[:, None] + 1)[:, None, None]
        for block in self.blocks:
            hidden = block(hidden, cos_sin, mask)
        return self.norm(hidden)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02 if isinstance(module, nn.Linear) else 0.1)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def span_mask(lengths: Tensor, longest: int) -> Tensor:
    """Mark the spans that there is something to say of: wider than a word, and not the whole sentence.

    Args:
        lengths: `(batch,)`.
        longest: Words of the longest sentence.

    Returns:
        `(batch, longest + 1, longest + 1)` of bool, as `SpanModel` scores them.
    """
    edges = torch.arange(longest + 1, device=lengths.device)
    width = edges[None, :] - edges[:, None]
    ends = lengths[:, None, None]
    return (width > 1)[None] & (width[None] < ends) & (edges[None, None, :] <= ends)
