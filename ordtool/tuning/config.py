"""How a ladder is made and trained, and compared with other methods."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypedDict

from ordtool.arguments import with_options
from ordtool.errors import UsageError, close_match_hint
from ordtool.runtime import resolve_dtype
from ordtool.tuning.data import TEXT_TASKS, TOKEN_TASKS, Fields, check_task, default_fields
from ordtool.tuning.ladder.config import BLOCKS, KINDS, POOLINGS
from ordtool.tuning.pruning import INITIALISATIONS
from ordtool.tuning.questions import SHORTEST_WINDOW

OPTIMIZERS = ("adamw", "adafactor")
BASELINES = ("full", "lora", "bitfit", "head")
USUAL_RATE = 3e-3
# Steps that a labelling ladder takes well at that rate.
_SHORT = 200


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"unknown {name} {value!r}", close_match_hint(value, choices))


@dataclass(frozen=True, slots=True)
class ScheduleConfig:
    """How long and how fast.

    Attributes:
        epochs: Passes over the data.
        batch_size: Texts a step.
        learning_rate: At its peak; rises over `warmup` of the steps and falls to 0 in a line. None: `USUAL_RATE`,
            and for ladders that label less in long trainings (`label_rate`).
        warmup: Share of the steps.
        weight_decay: Of AdamW.
        optimizer: `adamw` or `adafactor`.
        patience: Epochs without a better dev metric before it stops; None: never.
        max_steps: Steps at most, of all epochs; None: no limit.
        seed: Of weights, dropout and the order.

    Raises:
        UsageError: For numbers that make no sense, or an unknown optimizer.
    """

    epochs: int = 10
    batch_size: int = 32
    learning_rate: float | None = None
    warmup: float = 0.1
    weight_decay: float = 0.01
    optimizer: str = "adamw"
    patience: int | None = None
    max_steps: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "max_steps", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"`{name}` {value} is not possible", "a number of 1 or more")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise UsageError(f"`learning_rate` {self.learning_rate:g} is not possible", "a positive number")
        _check_choice("optimizer", self.optimizer, OPTIMIZERS)
        if not 0 <= self.warmup < 1 or self.weight_decay < 0:
            raise UsageError("`warmup` is a share below 1, and `weight_decay` not negative")

    @property
    def peak(self) -> float:
        """The learning rate, given or usual."""
        return USUAL_RATE if self.learning_rate is None else self.learning_rate

    def steps(self, texts: int) -> int:
        """Return the steps that a training on some texts takes at most."""
        return int(min(self.epochs * math.ceil(texts / self.batch_size), self.max_steps or math.inf))


class ScheduleOptions(TypedDict, total=False):
    """The fields of `ScheduleConfig`, as keywords."""

    epochs: int
    batch_size: int
    learning_rate: float | None
    warmup: float
    weight_decay: float
    optimizer: str
    patience: int | None
    max_steps: int | None
    seed: int


def label_rate(steps: int) -> float:
    """Return the learning rate of a ladder that labels: in a long training less, as the root of its steps grows.

    Few steps need a high rate to arrive at all; many at a high rate end on noise.
    """
    return USUAL_RATE * math.sqrt(min(1.0, _SHORT / max(1, steps)))


@dataclass(frozen=True, slots=True)
class LadderTrainingConfig:
    """What `train_ladder` does.

    Attributes:
        task: `classify`, `regress`, `pairs`, `tokens` (labels of words), `span` (answers in a context), `lm` or `seq2seq`.
        fields: Where texts and labels are; None: the task's usual ones.
        kind: `gated` or `additive`.
        block: What a side layer is: `transformer`, a narrow one of the backbone's own kind, or `mlp`, without attention.
        reduction: r, hidden size over the ladder's.
        layers: See `choose_layers`.
        residual: Add the ladder's output to the backbone's.
        initialisation: `random`, `magnitude` or `fisher`.
        pooling: `mean`, `cls`, `last`; None: the last token of causal models, else the mean. Of words, the token that
            each is read from: its last, as for causal models, or its first (`cls`), as else.
        dropout: Within the ladder's layers.
        max_length: Tokens of a text; of a block, for `lm`.
        schedule: How long and how fast.
        holdout: Share of the data held out where no dev data is given.
        cache: Keep hidden states on disk.
        cache_dir: Where; None: in ordtool's cache folder.
        device: `auto`, `cpu`, `cuda`, `mps`.
        dtype: Of the frozen backbone's pass: `auto` (bfloat16 where the hardware multiplies it fast, else float32),
            `float32`, `bfloat16`, `float16`. The ladder itself is float32.

    Raises:
        UsageError: For unknown names and numbers that make no sense.
    """

    task: str = "classify"
    fields: Fields | None = None
    kind: str = "gated"
    block: str = "transformer"
    reduction: int = 8
    layers: str | None = None
    residual: bool = True
    initialisation: str = "magnitude"
    pooling: str | None = None
    dropout: float = 0.0
    max_length: int = 128
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    holdout: float = 0.1
    cache: bool = True
    cache_dir: str | None = None
    device: str = "auto"
    dtype: str = "auto"

    def __post_init__(self) -> None:
        check_task(self.task)
        resolve_dtype(self.dtype)
        _check_choice("ladder", self.kind, KINDS)
        _check_choice("block", self.block, BLOCKS)
        _check_choice("initialisation", self.initialisation, INITIALISATIONS)
        _check_choice("pooling", self.pooling or "mean", POOLINGS)
        if self.reduction < 1:
            raise UsageError(
                f"a reduction by {self.reduction} is not possible", "1 keeps the width, 8 is usual"
            )
        least = SHORTEST_WINDOW if self.task == "span" else 2
        if self.max_length < least:
            raise UsageError(f"`max_length` must be at least {least}")
        if self.by_token and self.pooling == "mean":
            raise UsageError(
                "`pooling` mean makes one vector of a text, and here every word has a label",
                "cls reads a word from its first token, last from its last",
            )
        if not 0 <= self.dropout < 1:
            raise UsageError(f"`dropout` {self.dropout:g} is not a share below 1")

    @property
    def data_fields(self) -> Fields:
        """Where texts and labels are."""
        return self.fields or default_fields(self.task)

    @property
    def writes(self) -> bool:
        """Whether the ladder writes text, and needs the backbone's head."""
        return self.task in TEXT_TASKS

    @property
    def by_token(self) -> bool:
        """Whether tokens have labels, and not texts."""
        return self.task in TOKEN_TASKS

    def schedule_for(self, texts: int) -> ScheduleConfig:
        """Return the schedule of a training on some texts: where no rate is given, `label_rate` where they get labels."""
        if self.schedule.learning_rate is not None or self.writes:
            return self.schedule
        return replace(self.schedule, learning_rate=label_rate(self.schedule.steps(texts)))

    def pooling_of(self, causal: bool) -> str:
        """Return how tokens become a text, beside a causal backbone or another."""
        return self.pooling or ("last" if causal else "cls" if self.by_token else "mean")


def with_ladder_options(config: LadderTrainingConfig, options: Mapping[str, Any]) -> LadderTrainingConfig:
    """Set fields of a config, and of its schedule, by keywords.

    Raises:
        TypeError: For a keyword that is neither.
    """
    times = {item.name for item in fields(ScheduleConfig)}
    schedule, rest = with_options(config.schedule, options, options)
    return with_options(
        replace(config, schedule=schedule), {k: v for k, v in rest.items() if k not in times}
    )[0]


class LadderTrainingOptions(ScheduleOptions, total=False):
    """The fields of `LadderTrainingConfig` and of its schedule, as keywords of `train_ladder`."""

    task: str
    fields: Fields | None
    kind: str
    block: str
    reduction: int
    layers: str | None
    residual: bool
    initialisation: str
    pooling: str | None
    dropout: float
    max_length: int
    schedule: ScheduleConfig
    holdout: float
    cache: bool
    cache_dir: str | None
    device: str
    dtype: str


@dataclass(frozen=True, slots=True)
class ComparisonConfig:
    """What a ladder is compared with.

    Attributes:
        methods: Of `BASELINES`.
        runs: Seeds, from the schedule's on.
        epochs: Of full fine-tuning, LoRA and BitFit, for which an epoch is dear; the head has the ladder's.

    Raises:
        UsageError: For an unknown method, one named twice, or numbers below 1.
    """

    methods: tuple[str, ...] = BASELINES
    runs: int = 3
    epochs: int = 3

    def __post_init__(self) -> None:
        for name in self.methods:
            _check_choice("method", name, BASELINES)
        if len(set(self.methods)) < len(self.methods):
            raise UsageError(f"a method is named twice: {', '.join(self.methods)}")
        if self.runs < 1 or self.epochs < 1:
            raise UsageError("`runs` and `epochs` are numbers of 1 or more")
