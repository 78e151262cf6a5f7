"""What decides a span scorer's training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ordtool.arguments import as_many
from ordtool.errors import UsageError
from ordtool.io.runs import RunOptions
from ordtool.parsing.spans.model import SpanConfig
from ordtool.parsing.text.tokenize import TOKEN_KINDS
from ordtool.parsing.training.recipes import check_at_least_one, check_choice, check_positive, check_shares

__all__ = ["SpanTrainingConfig", "SpanTrainingOptions"]


@dataclass(frozen=True)
class SpanTrainingConfig:
    """Everything that decides what a trained span scorer is, apart from the trees.

    Attributes:
        tokens: Of what kind the trees' tokens are: `words`, `chars` or `jieba`; stored with the model.
        encoder: A model folder or name whose states are the words' vectors, and which is trained along; None: words are
            looked up.
        teacher: A span scorer, as a folder or name, that says of every span of `text` how likely it is a phrase, and what
            kind of one.
        text: Files of text to learn from by the teacher, a sentence a line.
        text_tokens: Of what kind those of a teacher's text are, or `whitespace`; None: as the trees'.
        lowercase: Look words up in lower case.
        vocab_size: Tokens of the vocabulary, shape classes included.
        embedding_size: See `SpanConfig`, as the next five.
        hidden_size: d.
        num_hidden_layers: Blocks.
        num_attention_heads: Heads.
        span_size: Of a boundary's vectors.
        affixes: Read the shapes and affixes of words too.
        binary: Draw binary trees; None: unless the trees have labels.
        dropout: In the network.
        word_dropout: Share of words that are read as unknown ones while training.
        learning_rate: Peak, after a linear warm-up over 4% of the steps; a cosine to zero follows.
        encoder_learning_rate: The same for a pre-trained encoder.
        frozen_layers: So many first layers of the encoder stay as they are, and its embeddings with them; None: all of it is
            trained.
        label_weight: Of the loss of labels and parts of speech, beside that of spans.
        weight_decay: Of weights, not of biases.
        clip: Largest norm of the whole gradient.
        epochs: Passes over the trees.
        batch_words: Words of a batch, about.
        holdout: Share of the trees that is held out.
        seed: Of weights, shuffling and dropout.
        dtype: Of matrix products: `auto`, `float32` or `bfloat16`; weights are float32.
    """

    tokens: str = "words"
    encoder: str | None = None
    teacher: str | None = None
    text: Sequence[str] = ()
    text_tokens: str | None = None
    lowercase: bool = True
    vocab_size: int = 12_000
    embedding_size: int = 128
    hidden_size: int = 192
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    span_size: int = 128
    affixes: bool = False
    binary: bool | None = None
    dropout: float = 0.1
    word_dropout: float = 0.1
    learning_rate: float = 1e-3
    encoder_learning_rate: float = 1e-4
    frozen_layers: int | None = None
    label_weight: float = 0.2
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
        if self.text_tokens is not None:
            check_choice(self, "text_tokens", (*TOKEN_KINDS, "whitespace"))
        check_positive(self, "encoder_learning_rate")
        if self.frozen_layers is not None and (self.encoder is None or self.frozen_layers < 0):
            raise UsageError(
                "`frozen_layers` are the first layers of an `encoder`: 0 (its embeddings alone) or more"
            )
        object.__setattr__(self, "text", tuple(map(str, as_many(self.text))))
        if bool(self.text) != (self.teacher is not None):
            raise UsageError("`teacher` and `text` go together: the teacher parses the text")
        self.shape(1)

    def shape(self, vocab_size: int, labels: tuple[str, ...] = (), tags: tuple[str, ...] = ()) -> SpanConfig:
        """Return the shape of the network."""
        binary = not labels if self.binary is None else self.binary
        return SpanConfig(
            vocab_size=vocab_size,
            embedding_size=self.embedding_size,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=4 * self.hidden_size,
            span_size=self.span_size,
            dropout=self.dropout,
            affixes=self.affixes,
            labels=labels,
            tags=tags,
            threshold=None if binary else 0.5,
        )


class SpanTrainingOptions(RunOptions, total=False):
    """The fields of `SpanTrainingConfig` and of a run, as keywords of `train_spans`."""

    tokens: str
    encoder: str | None
    teacher: str | None
    text: Sequence[str]
    text_tokens: str | None
    lowercase: bool
    vocab_size: int
    embedding_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    span_size: int
    affixes: bool
    binary: bool | None
    dropout: float
    word_dropout: float
    learning_rate: float
    encoder_learning_rate: float
    frozen_layers: int | None
    label_weight: float
    weight_decay: float
    clip: float
    epochs: int
    batch_words: int
    holdout: float
    seed: int
    dtype: str
