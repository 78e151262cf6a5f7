"""Training configurations: what every option means, and the named recipes' defaults."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypedDict

from ordtool.errors import UsageError, close_match_hint

__all__ = ["RECIPES", "TextTrainingConfig", "TrainingConfig", "recipe"]


@dataclass(frozen=True)
class TextTrainingConfig:
    """How a training reads its text, and what all trainings of parsers on text have in common.

    Attributes:
        tokens: How text is split: `words`, `chars` or `jieba`.
        layout: Lines of the text: `auto`, `sentences`, `paragraphs` or `wrapped`.
        language: Of the text, for its abbreviations where sentences end: a code such as `de`.
        field: Key of the text in JSONL, or column in a table.
        lowercase: Lower-case words.
        digits: Write digit runs as `N`.
        punctuation: Keep punctuation.
        vocab_size: Tokens of the vocabulary, shape classes included.
        holdout: Share of the sentences held out where no dev file is given.
        seed: Of weights, shuffling and dropout.
        dtype: Of matrix products: `auto`, `float32` or `bfloat16`; weights are float32.
        learning_rate: The highest.
        clip: Largest norm of the whole gradient.
        epochs: Passes over the text; the last may be a part of one, as in 2.5.
    """

    tokens: str = "words"
    layout: str = "auto"
    language: str = "en"
    field: str = "text"
    lowercase: bool = True
    digits: bool = True
    punctuation: bool = False
    vocab_size: int = 10_000
    holdout: float = 0.01
    seed: int = 0
    dtype: str = "auto"
    learning_rate: float = 2e-3
    clip: float = 1.0
    epochs: float = 5

    def __post_init__(self) -> None:
        """Check what can be checked without the text.

        Raises:
            UsageError: A value out of range.
        """
        check_at_least_one(self, "vocab_size")
        check_positive(self, "epochs", "learning_rate", "clip")
        check_shares(self, "holdout")
        check_choice(self, "tokens", ("words", "chars", "jieba"))
        check_choice(self, "layout", ("auto", "sentences", "paragraphs", "wrapped"))
        check_choice(self, "dtype", ("auto", "float32", "bfloat16"))


class TextTrainingOptions(TypedDict, total=False):
    """The fields of `TextTrainingConfig`, as keywords."""

    tokens: str
    layout: str
    language: str
    field: str
    lowercase: bool
    digits: bool
    punctuation: bool
    vocab_size: int
    holdout: float
    seed: int
    dtype: str
    learning_rate: float
    clip: float
    epochs: float


def check_at_least_one(config: object, *names: str) -> None:
    """Raise a UsageError if one of these fields is below 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise UsageError(f"`{name}` must be at least 1")


def check_positive(config: object, *names: str) -> None:
    """Raise a UsageError if one of these fields is not above 0."""
    for name in names:
        if not getattr(config, name) > 0:
            raise UsageError(f"`{name}` must be positive")


def check_shares(config: object, *names: str) -> None:
    """Raise a UsageError if one of these fields is no share: at least 0 and less than 1."""
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            raise UsageError(f"`{name}` must be at least 0 and less than 1")


def check_choice(config: object, name: str, choices: Sequence[str]) -> None:
    """Raise a UsageError if a field is none of the choices."""
    value = getattr(config, name)
    if value not in choices:
        raise UsageError(f"unknown `{name}` {value!r}", close_match_hint(value, choices))


@dataclass(frozen=True)
class TrainingConfig(TextTrainingConfig):
    """Everything that decides what a trained ON-LSTM is, apart from the text; see `TextTrainingConfig` too.

    Attributes:
        optimizer: `adamw` (linear warm-up, cosine to zero) or `asgd` (the paper's: SGD at a constant rate, averaged
            from the point where validation stops improving).
        embedding_size: Size of word vectors and of the last layer.
        hidden_size: Size of the layers before the last.
        num_hidden_layers: Number of layers.
        chunk_size: Neurons a master gate unit.
        input_gate: `paper` or `reversed`: the master input gate is 1 - cumax, or a cumulative sum from the right.
        bidirectional: Train a second model, which reads from right to left; see `ordtool.parsing.onlstm.directions`.
        input_dropout: See `OnlstmConfig`, as the next four.
        layer_dropout: Between layers.
        output_dropout: Before the softmax.
        weight_dropout: On recurrent weights.
        word_dropout: On whole words.
        activation_penalty: Weight of the mean square of the last layer's dropped output (the paper's AR alpha).
        temporal_penalty: Weight of the mean square of its change from step to step (TAR beta).
        learning_rate: Peak rate for `adamw`, constant for `asgd`.
        weight_decay: Decoupled for `adamw`, part of the gradient for `asgd`.
        warmup: Steps of linear warm-up (`adamw`).
        patience: Evaluations without improvement before averaging starts (`asgd`).
        batch_size: Parallel streams.
        window: Steps of truncated back-propagation.
        random_window: Vary the window: N(window, 5), halved one time in twenty, the rate scaled with it.
        shards: Parts of a batch that are differentiated on their own, each with its own random generator
            and, on a CPU, its own thread. Part of the result: the same for any number of cores. Several ranks deal
            them out. None: 2 on a CPU, 1 elsewhere, where they would stand in a row; at least one a rank.
        shuffle: Shuffle sentences before each epoch.
    """

    optimizer: str = "adamw"
    embedding_size: int = 256
    hidden_size: int = 512
    num_hidden_layers: int = 3
    chunk_size: int = 16
    input_gate: str = "paper"
    bidirectional: bool = False
    input_dropout: float = 0.3
    layer_dropout: float = 0.2
    output_dropout: float = 0.3
    weight_dropout: float = 0.3
    word_dropout: float = 0.0
    activation_penalty: float = 0.0
    temporal_penalty: float = 0.0
    weight_decay: float = 0.01
    warmup: int = 200
    patience: int = 5
    batch_size: int = 32
    window: int = 35
    random_window: bool = False
    shards: int | None = None
    shuffle: bool = True

    def __post_init__(self) -> None:
        """Check what can be checked without the text.

        Raises:
            UsageError: A value out of range.
        """
        super().__post_init__()
        check_at_least_one(self, "embedding_size", "hidden_size", "num_hidden_layers", "chunk_size")
        check_at_least_one(self, "batch_size", "window", "patience")
        dropouts = ("input_dropout", "layer_dropout", "output_dropout", "weight_dropout", "word_dropout")
        check_shares(self, *dropouts)
        check_choice(self, "optimizer", ("adamw", "asgd"))
        check_choice(self, "input_gate", ("paper", "reversed"))
        for name in ("embedding_size", "hidden_size"):
            if getattr(self, name) % self.chunk_size:
                raise UsageError(
                    f"`chunk_size` {self.chunk_size} doesn't divide `{name}` {getattr(self, name)}"
                )
        if self.shards is not None and not 1 <= self.shards <= self.batch_size:
            raise UsageError(
                f"`shards` must be at least 1 and can't be more than `batch_size` {self.batch_size}"
            )

    def shards_on(self, device_type: str, ranks: int = 1) -> int:
        """Return the number of shards on a kind of device, for so many ranks.

        Raises:
            UsageError: A rank would have none.
        """
        least = max(ranks, min(2, self.batch_size) if device_type == "cpu" else 1)
        shards = self.shards or least
        if ranks > min(shards, self.batch_size):
            name = "batch_size" if self.batch_size < ranks else "shards"
            raise UsageError(f"`{name}` {getattr(self, name)} can't be dealt out to {ranks} ranks")
        return shards

    def fixed_part(self) -> dict[str, Any]:
        """What a resumed run must share with the run it continues: all but the number of epochs.

        Options at their defaults are left out, so that an option added later doesn't part old runs from new ones.
        """
        defaults = asdict(TrainingConfig())
        return {k: v for k, v in asdict(self).items() if k != "epochs" and v != defaults[k]}


class TrainingOptions(TextTrainingOptions, total=False):
    """The fields of `TrainingConfig`, as keywords of `train_parser`."""

    optimizer: str
    embedding_size: int
    hidden_size: int
    num_hidden_layers: int
    chunk_size: int
    input_gate: str
    bidirectional: bool
    input_dropout: float
    layer_dropout: float
    output_dropout: float
    weight_dropout: float
    word_dropout: float
    activation_penalty: float
    temporal_penalty: float
    weight_decay: float
    warmup: int
    patience: int
    batch_size: int
    window: int
    random_window: bool
    shards: int | None
    shuffle: bool


RECIPES: dict[str, dict[str, Any]] = {
    # Small and quick: minutes an epoch on a laptop.
    "small": {},
    # Shen et al. 2019, section 5.1 and the hyper-parameters of its language model.
    "paper": {
        "optimizer": "asgd",
        "embedding_size": 400,
        "hidden_size": 1150,
        "chunk_size": 10,
        "input_dropout": 0.5,
        "layer_dropout": 0.3,
        "output_dropout": 0.45,
        "weight_dropout": 0.45,
        "word_dropout": 0.1,
        "activation_penalty": 2.0,
        "temporal_penalty": 1.0,
        "learning_rate": 30.0,
        "weight_decay": 1.2e-6,
        "clip": 0.25,
        "epochs": 1000,
        "batch_size": 20,
        "window": 70,
        "random_window": True,
        "shards": 1,
        "shuffle": False,
    },
}


def recipe(name: str = "small", **changes: Any) -> TrainingConfig:
    """Make a configuration from a recipe and what differs from it; None leaves the recipe's value.

    With `adamw` and more than 32 streams the peak rate falls by the root of their number and the warm-up grows with it,
    where neither is given: at 64 streams and a rate of 2.5e-3 the loss can stay at that of word frequencies for good.

    Raises:
        UsageError: An unknown recipe, or values out of range.
    """
    if name not in RECIPES:
        raise UsageError(f"unknown recipe {name!r}", close_match_hint(name, RECIPES))
    given = {key: value for key, value in changes.items() if value is not None}
    config = replace(TrainingConfig(**RECIPES[name]), **given)
    times = config.batch_size / TrainingConfig.batch_size
    if config.optimizer == "adamw" and times > 1:
        if "learning_rate" not in given:
            config = replace(config, learning_rate=config.learning_rate / math.sqrt(times))
        if "warmup" not in given:
            config = replace(config, warmup=round(config.warmup * times))
    return config
