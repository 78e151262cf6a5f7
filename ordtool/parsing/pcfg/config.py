"""What decides a grammar's training."""

from __future__ import annotations

from dataclasses import dataclass

from ordtool.errors import UsageError, close_match_hint
from ordtool.parsing.pcfg.model import PcfgConfig

__all__ = ["PcfgTrainingConfig"]


@dataclass(frozen=True)
class PcfgTrainingConfig:
    """Everything that decides what a trained grammar is, apart from the text.

    Attributes:
        tokens: How text is split: `words`, `chars` or `jieba`.
        layout: Lines of the text: `auto`, `sentences`, `paragraphs` or `wrapped`.
        field: Key of the text in JSONL.
        lowercase: Lower-case words.
        digits: Write digit runs as `N`.
        punctuation: Keep punctuation.
        vocab_size: Tokens of the vocabulary, shape classes included.
        num_nonterminals: See `PcfgConfig`, as the next two.
        num_preterminals: Symbols that make words.
        state_size: Of a symbol's vector.
        max_length: Words of the longest sentence that is read.
        learning_rate: Of Adam with beta 0.75 and 0.999; constant, but for a line to zero over the last fifth of the steps.
        clip: Largest norm of the whole gradient.
        epochs: Passes over the text; the last may be a part of one, as in 2.5.
        batch_size: Sentences of one length that are read together.
        valid_fraction: Sentences held out when no validation file is given.
        seed: Of weights and shuffling.
        dtype: Of matrix products: `float32`, or TF32 on a GPU with `auto` and `bfloat16`.

    Source: Liu et al. 2023, appendix, for the optimiser's settings and `max_length`.
    """

    tokens: str = "words"
    layout: str = "auto"
    field: str = "text"
    lowercase: bool = True
    digits: bool = True
    punctuation: bool = False
    vocab_size: int = 10_000
    num_nonterminals: int = 256
    num_preterminals: int = 512
    state_size: int = 256
    max_length: int = 40
    learning_rate: float = 2e-3
    clip: float = 3.0
    epochs: float = 5
    batch_size: int = 16
    valid_fraction: float = 0.01
    seed: int = 0
    dtype: str = "auto"

    def __post_init__(self) -> None:
        """Check what can be checked without the text.

        Raises:
            UsageError: A value out of range.
        """
        if self.max_length < 2:
            raise UsageError("max-length must be at least 2")
        if self.batch_size < 1:
            raise UsageError("batch-size must be at least 1")
        if not (self.epochs > 0 and self.learning_rate > 0 and self.clip > 0):
            raise UsageError("epochs, learning-rate and clip must be positive")
        if not 0 <= self.valid_fraction < 1:
            raise UsageError("valid-fraction must be at least 0 and less than 1")
        named = {
            "dtype": ("auto", "float32", "bfloat16"),
            "tokens": ("words", "chars", "jieba"),
            "layout": ("auto", "sentences", "paragraphs", "wrapped"),
        }
        for name, choices in named.items():
            value = getattr(self, name)
            if value not in choices:
                raise UsageError(f"unknown {name} {value!r}", close_match_hint(value, choices))
        self.shape(1)

    def shape(self, vocab_size: int) -> PcfgConfig:
        """Return the shape of the grammar."""
        return PcfgConfig(vocab_size, self.num_nonterminals, self.num_preterminals, self.state_size)
