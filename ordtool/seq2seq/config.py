"""What a training on pairs is told."""

from __future__ import annotations

from dataclasses import dataclass

from ordtool.errors import UsageError, close_match_hint
from ordtool.io.runs import RunOptions

OVERLONG = ("truncate", "drop")
VOCABULARIES = ("full", "seen")


@dataclass(frozen=True, slots=True)
class Seq2SeqTrainingConfig:
    """What `train_seq2seq` does.

    Attributes:
        source_field: The key or column of the source.
        target_field: That of the target.
        max_source: Tokens of a source at most, special ones among them; None: what the target leaves, up to 384.
        max_target: Tokens of a target at most; None: 128, or half of a shorter context.
        overlong: `truncate` or `drop` longer pairs.
        together: Targets of one source that share a row, so that it is read once (encoders).
        vocabulary: `seen`: the softmax ranges over tokens of the training pairs alone, for good.
        lossless: Extend a WordPiece vocabulary so that targets come back as written; None: if needed.
        holdout: Share of the sources held out where no dev file is given.
        epochs: Passes over the pairs.
        batch_size: Pairs a batch, about.
        accumulate: Batches an update.
        learning_rate: At its peak; warm-up over `warmup` of the steps, then linearly to 0.
        warmup: Share of the steps.
        weight_decay: Of AdamW.
        dropout: Of hidden states; None: the checkpoint's own.
        eval_every: Updates between dev losses, and checkpoints; None: an epoch's, but at most ten in all.
        patience: Dev losses without a better one before it stops; None: never.
        seed: Of everything.
        dtype: Of matrix products: `auto` is bfloat16 where that is faster.
    """

    source_field: str = "source"
    target_field: str = "target"
    max_source: int | None = None
    max_target: int | None = None
    overlong: str = "truncate"
    together: int = 8
    vocabulary: str = "full"
    lossless: bool | None = None
    holdout: float = 0.02
    epochs: float = 3.0
    batch_size: int = 32
    accumulate: int = 1
    learning_rate: float = 1e-4
    warmup: float = 0.06
    weight_decay: float = 0.01
    dropout: float | None = None
    eval_every: int | None = None
    patience: int | None = None
    seed: int = 0
    dtype: str = "auto"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("overlong", self.overlong, OVERLONG),
            ("vocabulary", self.vocabulary, VOCABULARIES),
        ):
            if value not in known:
                raise UsageError(f"unknown `{name}` {value!r}", close_match_hint(value, known))
        if not 0 < self.holdout < 1:
            raise UsageError(f"`holdout` {self.holdout} is out of range", "0.02 is 2% of the sources")
        if not self.epochs > 0:
            raise UsageError(f"`epochs` {self.epochs} is not possible", "give a number above 0")
        for name, size in (("max_source", self.max_source), ("max_target", self.max_target)):
            if size is not None and size < 3:
                raise UsageError(f"`{name}` {size} is too small", "two special tokens are among them")


class Seq2SeqTrainingOptions(RunOptions, total=False):
    """The fields of `Seq2SeqTrainingConfig` and of a run, as keywords of `train_seq2seq`."""

    source_field: str
    target_field: str
    max_source: int | None
    max_target: int | None
    overlong: str
    together: int
    vocabulary: str
    lossless: bool | None
    holdout: float
    epochs: float
    batch_size: int
    accumulate: int
    learning_rate: float
    warmup: float
    weight_decay: float
    dropout: float | None
    eval_every: int | None
    patience: int | None
    seed: int
    dtype: str
