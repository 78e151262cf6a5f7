"""What decides a grammar's training."""

from __future__ import annotations

from dataclasses import dataclass

from ordtool.errors import UsageError
from ordtool.parsing.pcfg.model import PcfgConfig
from ordtool.parsing.training.recipes import TextTrainingConfig, TextTrainingOptions, check_at_least_one

__all__ = ["PcfgTrainingConfig", "PcfgTrainingOptions"]


@dataclass(frozen=True)
class PcfgTrainingConfig(TextTrainingConfig):
    """Everything that decides what a trained grammar is, apart from the text; see `TextTrainingConfig` too.

    Attributes:
        num_nonterminals: See `PcfgConfig`, as the next two.
        num_preterminals: Symbols that make words.
        state_size: Of a symbol's vector.
        max_length: Words of the longest sentence that is read.
        batch_size: Sentences of one length that are read together.
        learning_rate: Of Adam with beta 0.75 and 0.999; constant, but for a line to zero over the last fifth of the steps.
        dtype: Of matrix products: `float32`, or with `auto` TF32 on a GPU and bfloat16 on a CPU that multiplies it faster.

    Source: Liu et al. 2023, appendix, for the optimiser's settings and `max_length`.
    """

    clip: float = 3.0
    num_nonterminals: int = 256
    num_preterminals: int = 512
    state_size: int = 256
    max_length: int = 40
    batch_size: int = 16

    def __post_init__(self) -> None:
        """Check what can be checked without the text.

        Raises:
            UsageError: A value out of range.
        """
        super().__post_init__()
        if self.max_length < 2:
            raise UsageError("`max_length` must be at least 2")
        check_at_least_one(self, "batch_size")
        self.shape(1)

    def shape(self, vocab_size: int) -> PcfgConfig:
        """Return the shape of the grammar."""
        return PcfgConfig(vocab_size, self.num_nonterminals, self.num_preterminals, self.state_size)


class PcfgTrainingOptions(TextTrainingOptions, total=False):
    """The fields of `PcfgTrainingConfig`, as keywords of `train_pcfg`."""

    num_nonterminals: int
    num_preterminals: int
    state_size: int
    max_length: int
    batch_size: int
