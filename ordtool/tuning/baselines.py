"""What a ladder is compared with: full fine-tuning, LoRA, BitFit and a linear head on the frozen backbone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ordtool.errors import OrdtoolError, UsageError, close_match_hint
from ordtool.runtime import require, seed_everything
from ordtool.tuning.backbone import Backbone
from ordtool.tuning.cache import StateSource
from ordtool.tuning.encoding import Encoded
from ordtool.tuning.ladder import pool
from ordtool.tuning.learners import Measure, label_loss, measure, text_loss

BASELINES = ("full", "lora", "bitfit", "head")
LORA_RANK = 8


def check_baselines(names: Sequence[str], task: str) -> tuple[str, ...]:
    """Check what `--compare` names, and whether it can be run.

    Raises:
        UsageError: For an unknown method, one named twice, or a head where there are no labels.
        OrdtoolError: If LoRA is asked for and peft is not installed.
    """
    found = tuple(name.strip() for name in names if name.strip())
    for name in found:
        if name not in BASELINES:
            raise UsageError(f"unknown method {name!r}", close_match_hint(name, BASELINES))
    if len(set(found)) < len(found):
        raise UsageError(f"a method is named twice: {', '.join(found)}")
    if "head" in found and task in ("lm", "seq2seq"):
        raise UsageError(
            f"--task {task} has its head already, and there is none to train", "full, lora, bitfit"
        )
    if "lora" in found:
        require("peft", "tune")
    return found


class Headed(nn.Module):
    """A backbone with, for labels, dropout and a linear read-out of the pooled tokens.

    Args:
        backbone: Its model is copied.
        labels: Classes (1 for scores); 0 for text tasks.
        pooling: How tokens become a text.
    """

    def __init__(self, backbone: Backbone, labels: int, pooling: str) -> None:
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
        """Give logits `(batch, classes)`, if any, and the output `(batch, seq, hidden)`."""
        output = self.model(**inputs).last_hidden_state
        if self.classifier is None:
            return None, output
        return self.classifier(self.dropout(pool(output, inputs["attention_mask"], self.pooling))), output


@dataclass
class TokensLearner:
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

    module: Headed
    task: str
    train: Encoded
    dev: Encoded
    pad: int
    head: Any = None
    threads: int | None = None

    def parameters(self) -> list[nn.Parameter]:
        """Give what is trained."""
        return [p for p in self.module.parameters() if p.requires_grad]

    def loss(self, index: Sequence[int]) -> Tensor:
        """Give the mean loss of some training texts."""
        logits, output = self.module(self._inputs(self.train, index))
        if logits is None:
            total, count = text_loss(output, self.train.labels(index).to(output.device), self.head)
            return total / max(1, count)
        assert self.train.targets is not None
        targets = torch.from_numpy(self.train.targets[list(index)]).to(logits.device)
        return label_loss(logits, targets, self.task)

    @torch.no_grad()
    def measure(self, test: tuple[Encoded, StateSource | None] | None = None) -> Measure:
        """Measure on the held-out texts, or on others (whose states are of no use here)."""
        data = test[0] if test else self.dev
        return measure(
            self.module, data, self.task, lambda index: self.module(self._inputs(data, index)), self.head
        )

    def _inputs(self, data: Encoded, index: Sequence[int]) -> dict[str, Tensor]:
        device = next(self.module.parameters()).device
        return {name: tensor.to(device) for name, tensor in data.inputs(index, self.pad).items()}


class _Head(nn.Module):
    def __init__(self, hidden: int, labels: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.1)
        self.classifier = nn.Linear(hidden, labels)

    def forward(self, pooled: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.dropout(pooled))
        return logits


@dataclass
class HeadLearner:
    """A linear read-out of the frozen backbone's pooled output.

    Attributes:
        module: The read-out.
        task: What it learns.
        train: Training texts.
        dev: Held-out texts.
        train_states: Their states.
        dev_states: Theirs.
        pooling: How tokens become a text.
        threads: None: as many as torch has.
    """

    module: nn.Module
    task: str
    train: Encoded
    dev: Encoded
    train_states: StateSource
    dev_states: StateSource
    pooling: str
    threads: int | None = None

    def parameters(self) -> list[nn.Parameter]:
        """Give the read-out's parameters."""
        return list(self.module.parameters())

    def loss(self, index: Sequence[int]) -> Tensor:
        """Give the mean loss of some training texts."""
        assert self.train.targets is not None
        logits = self._logits(self.train_states, index)
        targets = torch.from_numpy(self.train.targets[list(index)]).to(logits.device)
        return label_loss(logits, targets, self.task)

    @torch.no_grad()
    def measure(self, test: tuple[Encoded, StateSource | None] | None = None) -> Measure:
        """Measure on the held-out texts, or on others with their states."""
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
    task: str,
    train: Encoded,
    dev: Encoded,
    *,
    labels: int,
    pooling: str,
    seed: int,
    states: Sequence[StateSource] | None = None,
) -> TokensLearner | HeadLearner:
    """Make a baseline.

    Args:
        name: Of `BASELINES`.
        backbone: What is tuned; it is copied, and stays as it is.
        task: What is learnt.
        train: Training texts.
        dev: Held-out texts.
        labels: Classes (1 for scores); 0 for text tasks.
        pooling: How tokens become a text.
        seed: Of the new weights.
        states: Of both parts, for `head`.
    """
    seed_everything(seed)
    if name == "head":
        assert states is not None
        head = _Head(int(backbone.config.hidden_size), labels).to(backbone.model.device)
        return HeadLearner(head, task, train, dev, states[0], states[1], pooling)
    module = Headed(backbone, labels, pooling)
    if name == "lora":
        _add_lora(module)
    else:
        for key, parameter in module.named_parameters():
            parameter.requires_grad_(name == "full" or key.startswith("classifier") or key.endswith("bias"))
    found = TokensLearner(module, task, train, dev, backbone.pad, backbone.head)
    if not found.parameters():
        raise OrdtoolError(f"this backbone has no biases for {name} to train", "compare with full and lora")
    return found


def _add_lora(module: Headed) -> None:
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
