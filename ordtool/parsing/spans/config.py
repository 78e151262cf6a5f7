"""What decides a span scorer's training, and where a run reads and writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ordtool.arguments import as_many
from ordtool.errors import UsageError, close_match_hint
from ordtool.io.runs import partial_folder
from ordtool.parsing.spans.model import SpanConfig
from ordtool.parsing.text.tokenize import TOKEN_KINDS

__all__ = ["SpanRun", "SpanTrainingConfig"]


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
        for name in (
            "embedding_size",
            "hidden_size",
            "num_hidden_layers",
            "span_size",
            "epochs",
            "batch_words",
        ):
            if getattr(self, name) < 1:
                raise UsageError(f"{name.replace('_', '-')} must be at least 1")
        for name in ("dropout", "word_dropout", "holdout"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name.replace('_', '-')} must be at least 0 and less than 1")
        if not (self.learning_rate > 0 and self.clip > 0):
            raise UsageError("learning-rate and clip must be positive")
        if self.tokens not in TOKEN_KINDS:
            raise UsageError(f"unknown tokens {self.tokens!r}", close_match_hint(self.tokens, TOKEN_KINDS))
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


@dataclass(frozen=True)
class SpanRun:
    """Where a run reads, writes and runs: nothing in it changes the result.

    Attributes:
        trees: JSONL as `ordtool parse` writes it, or bracketed trees: files and folders.
        output: The model folder to make.
        force: Replace an existing model or an abandoned run.
        resume: Continue from the end of the last epoch that was finished.
        device: `auto`, `cpu`, `cuda[:n]` or `mps`.
        half: Save weights as float16.
    """

    trees: Sequence[str | Path]
    output: Path
    force: bool = False
    resume: bool = False
    device: str = "auto"
    half: bool = False

    def __post_init__(self) -> None:
        """Take one path for several, and a name for a path."""
        for name in ("trees",):
            object.__setattr__(self, name, tuple(as_many(getattr(self, name))))
        object.__setattr__(self, "output", Path(self.output))

    @property
    def folder(self) -> Path:
        """Working folder of the run, beside the output."""
        return partial_folder(self.output, ".training")
