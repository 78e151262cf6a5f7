"""What decides a span scorer's training."""

from __future__ import annotations

from dataclasses import dataclass

from ordtool.parsing.spans.model import SpanConfig
from ordtool.parsing.text.tokenize import TOKEN_KINDS
from ordtool.parsing.training.recipes import check_at_least_one, check_choice, check_positive, check_shares

__all__ = ["SpanTrainingConfig"]


@dataclass(frozen=True)
class SpanTrainingConfig:
    """Everything that decides what a trained span scorer is, apart from the trees.

    Attributes:
        tokens: Of what kind the trees' tokens are: `words`, `chars` or `jieba`; stored with the model.
        lowercase: Look words up in lower case.
        vocab_size: Tokens of the vocabulary, shape classes included.
        embedding_size: See `SpanConfig`, as the next five.
        hidden_size: d.
        num_hidden_layers: Blocks.
        num_attention_heads: Heads.
        span_size: Of a boundary's vectors.
        dropout: In the network.
        word_dropout: Share of words that are read as unknown ones while training.
        learning_rate: Peak, after a linear warm-up over 4% of the steps; a cosine to zero follows.
        weight_decay: Of weights, not of biases.
        clip: Largest norm of the whole gradient.
        epochs: Passes over the trees.
        batch_words: Words of a batch, about.
        holdout: Share of the trees that is held out.
        seed: Of weights, shuffling and dropout.
        dtype: Of matrix products: `auto`, `float32` or `bfloat16`; weights are float32.
    """

    tokens: str = "words"
    lowercase: bool = True
    vocab_size: int = 12_000
    embedding_size: int = 128
    hidden_size: int = 192
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    span_size: int = 128
    dropout: float = 0.1
    word_dropout: float = 0.1
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    clip: float = 1.0
    epochs: int = 4
    batch_words: int = 1024
    holdout: float = 0.02
    seed: int = 0
    dtype: str = "auto"

    def __post_init__(self) -> None:
        """Check what can be checked without the trees.

        Raises:
            UsageError: A value out of range.
        """
        check_at_least_one(self, "embedding_size", "hidden_size", "num_hidden_layers", "span_size")
        check_at_least_one(self, "epochs", "batch_words")
        check_shares(self, "dropout", "word_dropout", "holdout")
        check_positive(self, "learning_rate", "clip")
        check_choice(self, "tokens", TOKEN_KINDS)
        self.shape(1)

    def shape(self, vocab_size: int) -> SpanConfig:
        """Return the shape of the network."""
        return SpanConfig(
            vocab_size=vocab_size,
            embedding_size=self.embedding_size,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=4 * self.hidden_size,
            span_size=self.span_size,
            dropout=self.dropout,
        )
