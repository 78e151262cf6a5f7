"""How a ladder is made and trained."""

from __future__ import annotations

from dataclasses import dataclass, field

from ordtool.errors import UsageError, close_match_hint
from ordtool.runtime import resolve_dtype
from ordtool.tuning.data import check_task
from ordtool.tuning.fitting import Schedule
from ordtool.tuning.ladder import KINDS, POOLINGS
from ordtool.tuning.pruning import INITIALISATIONS

TEXT_TASKS = ("lm", "seq2seq")


@dataclass(frozen=True, slots=True)
class LadderSettings:
    """What `train_ladder` does.

    Attributes:
        task: `classify`, `regress`, `pairs`, `lm` or `seq2seq`.
        kind: `gated` or `additive`.
        reduction: r.
        layers: See `choose_layers`.
        residual: Add the ladder's output to the backbone's.
        initialisation: `random`, `magnitude` or `fisher`.
        pooling: `mean`, `cls`, `last`; None: the last token of causal models, else the mean.
        dropout: Within the ladder's layers.
        max_length: Tokens of a text; of a block, for `lm`.
        schedule: How long and how fast.
        holdout: Share of the data held out where no dev data is given.
        cache: Keep hidden states on disk.
        cache_dir: Where; None: in ordtool's cache folder.
        device: `auto`, `cpu`, `cuda`, `mps`.
        dtype: Of the frozen backbone's pass: `auto` (bfloat16 where the hardware multiplies it fast, else float32),
            `float32`, `bfloat16`, `float16`. The ladder itself is float32.
    """

    task: str = "classify"
    kind: str = "gated"
    reduction: int = 8
    layers: str | None = None
    residual: bool = True
    initialisation: str = "magnitude"
    pooling: str | None = None
    dropout: float = 0.0
    max_length: int = 128
    schedule: Schedule = field(default_factory=Schedule)
    holdout: float = 0.1
    cache: bool = True
    cache_dir: str | None = None
    device: str = "auto"
    dtype: str = "auto"

    def check(self) -> None:
        """Raise a UsageError for settings that make no sense."""
        check_task(self.task)
        self.schedule.check()
        resolve_dtype(self.dtype)
        for name, value, choices in (
            ("ladder", self.kind, KINDS),
            ("initialisation", self.initialisation, INITIALISATIONS),
            ("pooling", self.pooling or "mean", POOLINGS),
        ):
            if value not in choices:
                raise UsageError(f"unknown {name} {value!r}", close_match_hint(value, choices))
        if self.reduction < 1:
            raise UsageError(
                f"a reduction by {self.reduction} is not possible", "1 keeps the width, 8 is usual"
            )
        if self.max_length < 2:
            raise UsageError("--max-length must be at least 2")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout {self.dropout:g} is not a share below 1")
