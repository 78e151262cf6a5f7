"""Methods of tuning: a ladder, and what it is compared with, full fine-tuning, LoRA, BitFit and a linear head.

Each is a `TuningMethod`: what the training loop asks for its parameters, a loss, and a figure on held-out data.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ordtool.errors import OrdtoolError, UsageError
from ordtool.runtime import require, seed_everything
from ordtool.tuning.backbone.model import Backbone
from ordtool.tuning.cache import StateSource
from ordtool.tuning.config import LadderTrainingConfig
from ordtool.tuning.dataset import LadderData
from ordtool.tuning.encoding import Encoded
from ordtool.tuning.ladder.mixing import pool
from ordtool.tuning.ladder.model import Ladder
from ordtool.tuning.metrics import Metric, label_loss, measure, text_loss

LORA_RANK = 8
# Numbers in a batch's hidden state, below which a second thread waits more than it works: at a width of 48, two threads
# were slower than one up to 32 texts of 64 tokens, by a third for those of 12 or 26, and faster from 32 of 128 on.
_WORTH_A_THREAD = 1 << 17


def check_baselines(methods: Sequence[str], config: LadderTrainingConfig) -> None:
    """Check whether methods can be run.

    Raises:
        UsageError: For a head where there are no labels.
        OrdtoolError: If LoRA is asked for and peft is not installed.
    """
    if "head" in methods and config.writes:
        raise UsageError(
            f"`task` {config.task} has its head already, and there is none to train", "full, lora, bitfit"
        )
    if "lora" in methods:
        require("peft", "tune")


class TuningMethod(Protocol):
    """A method of tuning, with its data.

    Attributes:
        train: Training texts.
        dev: Held-out texts.
        threads: For its steps; None: as many as torch has.
    """

    train: Encoded
    dev: Encoded
    threads: int | None

    @property
    def module(self) -> nn.Module:
        """What has the parameters."""

    def parameters(self) -> list[nn.Parameter]:
        """Return what is trained."""

    def loss(self, index: Sequence[int]) -> Tensor:
        """Return the mean loss of some training texts, with a graph."""

    def measure(self, test: tuple[Encoded, StateSource | None] | None = None) -> Metric:
        """Metric on the held-out texts, or on others with their states."""


def ladder_threads(tokens: float, width: int) -> int | None:
    """Return the threads for a ladder's own products: one for small ones, None (as many as there are) for others.

    Args:
        tokens: Of a batch.
        width: The ladder's.
    """
    return 1 if tokens * width < _WORTH_A_THREAD else None


@dataclass
class LadderTuning:
    """A ladder on its states.

    Attributes:
        module: The ladder.
        task: What it learns.
        train: Training texts.
        dev: Held-out texts.
        train_states: States of the training texts.
        dev_states: States of the held-out texts.
        head: Of the backbone, for text tasks.
        threads: For its steps; None: as many as torch has.
    """

    module: Ladder
    task: str
    train: Encoded
    dev: Encoded
    train_states: StateSource
    dev_states: StateSource
    head: Any = None
    threads: int | None = None

    def parameters(self) -> list[nn.Parameter]:
        """Return the ladder's parameters."""
        return self.module.trained_parameters()

    def loss(self, index: Sequence[int]) -> Tensor:
        """Return the mean loss of some training texts."""
        states = self.train_states.batch(index)
        found = self.module(**states.arguments())
        if not self.train.writes:
            targets = self.train.targets_of(index).to(found.logits.device)
            return label_loss(found.logits, targets, self.task)
        total, count = text_loss(found.output, self.train.labels(index).to(found.output.device), self.head)
        return total / max(1, count)

    @torch.no_grad()
    def measure(self, test: tuple[Encoded, StateSource | None] | None = None) -> Metric:
        """Metric on the held-out texts, or on others with their states."""
        data, source = test or (self.dev, self.dev_states)

        def run(index: list[int]) -> tuple[Tensor | None, Tensor | None]:
            assert source is not None
            states = source.batch(index)
            found = self.module(**states.arguments())
            return found.logits, found.output

        return measure(self.module, data, self.task, run, self.head)


class BackboneWithHead(nn.Module):
    """A backbone with, for labels, dropout and a linear read-out of the pooled tokens, or of each.

    Args:
        backbone: Its model is copied.
        labels: Classes (1 for scores); 0 for text tasks.
        pooling: How tokens become a text; None where each has a label.
    """

    def __init__(self, backbone: Backbone, labels: int, pooling: str | None) -> None:
        super().__init__()
        self.model = copy.deepcopy(backbone.model)
        self.pooling = pooling
        self.dropout = nn.Dropout(0.1)
        self.classifier = nn.Linear(backbone.config.hidden_size, labels) if labels else None
        if self.classifier is not None:
            nn.init.normal_(self.classifier.weight, std=0.02)
            nn.init.zeros_(self.classifier.bias)
        self.to(backbone.model.device)

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor | None, Tensor]:
        """Return logits `(batch, classes)` or `(batch, seq, classes)`, if any, and the output `(batch, seq, hidden)`."""
        output = self.model(**inputs).last_hidden_state
        if self.classifier is None:
            return None, output
        return self.classifier(self.dropout(pool(output, inputs["attention_mask"], self.pooling))), output


@dataclass
class FineTuning:
    """A method whose gradients pass through the backbone.

    Attributes:
        module: The copied backbone with its head.
        task: What it learns.
        train: Training texts.
        dev: Held-out texts.
        pad: The padding token.
        head: Of the backbone, for text tasks.
        threads: None: as many as torch has.
    """

    module: BackboneWithHead
    task: str
    train: Encoded
    dev: Encoded
    pad: int
    head: Any = None
    threads: int | None = None

    def parameters(self) -> list[nn.Parameter]:
        """Return what is trained."""
        return [p for p in self.module.parameters() if p.requires_grad]

    def loss(self, index: Sequence[int]) -> Tensor:
        """Return the mean loss of some training texts."""
        logits, output = self.module(self._inputs(self.train, index))
        if logits is None:
            total, count = text_loss(output, self.train.labels(index).to(output.device), self.head)
            return total / max(1, count)
        return label_loss(logits, self.train.targets_of(index).to(logits.device), self.task)

    @torch.no_grad()
    def measure(self, test: tuple[Encoded, StateSource | None] | None = None) -> Metric:
        """Metric on the held-out texts, or on others (whose states are of no use here)."""
        data = test[0] if test else self.dev
        return measure(
            self.module, data, self.task, lambda index: self.module(self._inputs(data, index)), self.head
        )

    def _inputs(self, data: Encoded, index: Sequence[int]) -> dict[str, Tensor]:
        device = next(self.module.parameters()).device
        return {name: tensor.to(device) for name, tensor in data.inputs(index, self.pad).items()}


class ClassifierHead(nn.Module):
    """Dropout and a linear map from a text's or a token's vector to classes.

    Args:
        hidden: The vector's size.
        labels: Classes; 1 for scores.
    """

    def __init__(self, hidden: int, labels: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.1)
        self.classifier = nn.Linear(hidden, labels)

    def forward(self, pooled: Tensor) -> Tensor:
        """Return logits, `(..., classes)`, of vectors `(..., hidden)`."""
        logits: Tensor = self.classifier(self.dropout(pooled))
        return logits


@dataclass
class HeadTuning:
    """A linear read-out of the frozen backbone's output, pooled or of each token.

    Attributes:
        module: The read-out.
        task: What it learns.
        train: Training texts.
        dev: Held-out texts.
        train_states: Their states.
        dev_states: Theirs.
        pooling: How tokens become a text; None where each has a label.
        threads: None: as many as torch has.
    """

    module: nn.Module
    task: str
    train: Encoded
    dev: Encoded
    train_states: StateSource
    dev_states: StateSource
    pooling: str | None
    threads: int | None = None

    def parameters(self) -> list[nn.Parameter]:
        """Return the read-out's parameters."""
        return list(self.module.parameters())

    def loss(self, index: Sequence[int]) -> Tensor:
        """Return the mean loss of some training texts."""
        logits = self._logits(self.train_states, index)
        return label_loss(logits, self.train.targets_of(index).to(logits.device), self.task)

    @torch.no_grad()
    def measure(self, test: tuple[Encoded, StateSource | None] | None = None) -> Metric:
        """Metric on the held-out texts, or on others with their states."""
        data, source = test or (self.dev, self.dev_states)
        assert source is not None
        return measure(self.module, data, self.task, lambda index: (self._logits(source, index), None))

    def _logits(self, source: StateSource, index: Sequence[int]) -> Tensor:
        states = source.batch(index)
        found: Tensor = self.module(pool(states.last.float(), states.mask, self.pooling))
        return found


def make_baseline(
    name: str,
    backbone: Backbone,
    data: LadderData,
    config: LadderTrainingConfig,
    states: Sequence[StateSource] | None = None,
) -> FineTuning | HeadTuning:
    """Make a method that a ladder is compared with.

    Args:
        name: Of `BASELINES`.
        backbone: What is tuned; it is copied, and stays as it is.
        data: What it is trained on and measured with.
        config: Task, pooling, and the seed of the new weights.
        states: Of the training and the held-out texts, for `head`.

    Raises:
        OrdtoolError: If the backbone has nothing for the method to train.
    """
    seed_everything(config.schedule.seed)
    labels = data.outputs
    pooling = None if config.by_token else config.pooling_of(backbone.causal)
    if name == "head":
        assert states is not None
        head = ClassifierHead(int(backbone.config.hidden_size), labels).to(backbone.model.device)
        return HeadTuning(head, config.task, data.train, data.dev, states[0], states[1], pooling)
    module = BackboneWithHead(backbone, labels, pooling)
    if name == "lora":
        _add_lora(module)
    else:
        for key, parameter in module.named_parameters():
            parameter.requires_grad_(name == "full" or key.startswith("classifier") or key.endswith("bias"))
    found = FineTuning(module, config.task, data.train, data.dev, backbone.pad, backbone.head)
    if not found.parameters():
        raise OrdtoolError(f"this backbone has no biases for {name} to train", "compare with full and lora")
    return found


def _add_lora(module: BackboneWithHead) -> None:
    import warnings

    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=LORA_RANK, lora_alpha=2 * LORA_RANK, lora_dropout=0.1)
    try:
        with warnings.catch_warnings():
            # peft asks transformers for an attribute that has a new name.
            warnings.simplefilter("ignore", FutureWarning)
            module.model = get_peft_model(module.model, config)
    except ValueError as error:
        raise OrdtoolError(
            f"peft can't put LoRA into this model: {' '.join(str(error).split())[:200]}"
        ) from None
