"""Training by the HSIC bottleneck, and the baselines it has to be compared with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from ordtool.arguments import with_options
from ordtool.errors import OrdtoolError, UsageError, close_match_hint
from ordtool.independence.bottleneck import (
    BottleneckConfig,
    BottleneckForClassification,
    bottleneck_objective,
    gaussian_gram,
)
from ordtool.independence.labelled import Labelled
from ordtool.independence.loss import normalized_gram
from ordtool.io.atomic import atomic_directory, check_directory
from ordtool.progress import SILENT, Progress
from ordtool.runtime import resolve_device

METHODS = ("hsic", "backprop", "linear", "random")
MAX_LAYER = 65_536


@dataclass(frozen=True, slots=True)
class BottleneckTrainingConfig:
    r"""How a network is trained.

    Attributes:
        layers: Widths of the layers.
        method: `hsic`; `backprop` (cross-entropy, end to end); `random` (layers as drawn); `linear` (no
            layers). All but back-propagation end with the same linear read-out.
        activation: `relu`, `tanh` or `gelu`.
        sigma: Of the gaussian kernels $\exp(-d^2 / 2 \sigma^2 \mathrm{dim})$. It matters: see the docs.
        beta: Weight of the labels against the inputs.
        epsilon: Of nHSIC.
        epochs: Passes over the data.
        batch_size: Rows a batch; nHSIC is taken over a batch.
        learning_rate: Of Adam.
        ridge: Weight of the read-out's squared weights against its mean cross-entropy.
        seed: Of the weights and the batches.
        device: `auto`, `cpu`, `cuda`, `mps`.

    Raises:
        UsageError: For numbers that make no sense.
    """

    layers: tuple[int, ...] = (128, 128, 128)
    method: str = "hsic"
    activation: str = "relu"
    sigma: float = 5.0
    beta: float = 500.0
    epsilon: float = 1e-5
    epochs: int = 30
    batch_size: int = 256
    learning_rate: float = 1e-3
    ridge: float = 1e-2
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"unknown method {self.method!r}", close_match_hint(self.method, METHODS))
        if self.method != "linear" and not self.layers:
            raise UsageError("`layers` is empty", "for example 128,128,128")
        if any(not 1 <= width <= MAX_LAYER for width in self.layers):
            raise UsageError(f"`layers` {self.layers} are not possible", f"widths from 1 to {MAX_LAYER}")
        for name in ("sigma", "beta", "epsilon", "learning_rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UsageError(f"`{name}` {getattr(self, name):g} is not possible", "a positive number")
        if self.epochs < 1 or self.batch_size < 4 or self.ridge < 0:
            raise UsageError("`epochs` of 1, a `batch_size` of 4 and a `ridge` of 0 are the least")


class BottleneckTrainingOptions(TypedDict, total=False):
    """The fields of `BottleneckTrainingConfig`, as keywords of `train_bottleneck`."""

    layers: tuple[int, ...]
    method: str
    activation: str
    sigma: float
    beta: float
    epsilon: float
    epochs: int
    batch_size: int
    learning_rate: float
    ridge: float
    seed: int
    device: str


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained network.

    Attributes:
        model: The network, with its read-out.
        seconds: How long it took.
        losses: The mean objective of each epoch; nats for back-propagation.
    """

    model: BottleneckForClassification
    seconds: float
    losses: list[float] = field(default_factory=list)


def train_bottleneck(
    data: Labelled,
    output: str | Path | None = None,
    config: BottleneckTrainingConfig | None = None,
    *,
    embed_model: str | None = None,
    force: bool = False,
    progress: Progress = SILENT,
    **options: Unpack[BottleneckTrainingOptions],
) -> Trained:
    """Train a network on vectors and their classes, and save it.

    Args:
        data: What to train on.
        output: The model folder to make; None saves nothing.
        config: How.
        embed_model: What made the vectors: recorded in the model, so that it can be given texts.
        force: Replace an existing folder.
        progress: Told of the epochs.
        **options: Fields of `BottleneckTrainingConfig`, on top of `config`.

    Returns:
        The network.

    Raises:
        UsageError: For settings that make no sense.
        OrdtoolError: For fewer rows than classes, a single class, or a loss that is no number.
    """
    config, _ = with_options(config or BottleneckTrainingConfig(), options)
    if output is not None:
        check_directory(output, force=force)
    trained = _train(data, config, embed_model, progress)
    if output is not None:
        with atomic_directory(output, force=force) as folder:
            trained.model.save_pretrained(folder)
    return trained


def _train(
    data: Labelled, config: BottleneckTrainingConfig, embed_model: str | None, progress: Progress
) -> Trained:
    if len(data.names) < 2:
        raise OrdtoolError(f"all labels are {data.names[0]!r}: there is nothing to tell apart")
    started = time.perf_counter()
    device = resolve_device(config.device)
    torch.manual_seed(config.seed)
    model = _new_model(data, config, embed_model).to(device)
    vectors = torch.tensor(np.asarray(data.vectors, dtype=np.float32), device=device)
    labels = torch.tensor(data.labels, device=device)
    losses: list[float] = []
    if config.method == "hsic":
        losses = _train_layers(model, vectors, labels, config, progress)
    elif config.method == "backprop":
        losses = _train_end_to_end(model, vectors, labels, config, progress)
    if config.method != "backprop":
        _fit_read_out(model, vectors, labels, config.ridge)
    return Trained(model.eval(), time.perf_counter() - started, losses)


def _new_model(
    data: Labelled, config: BottleneckTrainingConfig, embedding_model: str | None
) -> BottleneckForClassification:
    model = BottleneckForClassification(
        BottleneckConfig(
            input_size=data.vectors.shape[1],
            layer_sizes=() if config.method == "linear" else config.layers,
            activation=config.activation,
            method=config.method,
            sigma=config.sigma,
            beta=config.beta,
            epsilon=config.epsilon,
            embedding_model=embedding_model,
            id2label=dict(enumerate(data.names)),
            label2id={name: index for index, name in enumerate(data.names)},
        )
    )
    spread = np.asarray(data.vectors, dtype=np.float64).std(axis=0)
    model.get_buffer("mean").copy_(torch.tensor(np.mean(data.vectors, axis=0, dtype=np.float64)))
    # A dimension that never changes says nothing, and is left as it is.
    model.get_buffer("scale").copy_(torch.tensor(np.where(spread > 1e-12, spread, 1.0)))
    return model


def batches(rows: int, config: BottleneckTrainingConfig, epoch: int) -> Iterator[Tensor]:
    """Shuffle the rows into batches of about the same size."""
    order = torch.from_numpy(np.random.default_rng([config.seed, epoch]).permutation(rows))
    yield from order.chunk(max(1, -(-rows // config.batch_size)))


def _train_layers(
    model: BottleneckForClassification,
    vectors: Tensor,
    labels: Tensor,
    config: BottleneckTrainingConfig,
    progress: Progress,
) -> list[float]:
    """Train every layer on its own objective, all in the same pass over the batches."""

    def loss(index: Tensor) -> Tensor:
        with torch.no_grad():
            inputs = model.standardise(vectors[index])
            classes = nn.functional.one_hot(labels[index], model.config.num_labels)
            grams = [
                normalized_gram(gaussian_gram(rows, config.sigma), config.epsilon)
                for rows in (inputs, classes)
            ]
            target = grams[0] - config.beta * grams[1]
            target = (target + target.T) / 2
        states = model.hidden(vectors[index], detach=True)
        # A sum of losses, none of which reaches another's layer.
        return torch.stack(
            [bottleneck_objective(z, target, config.sigma, config.epsilon) for z in states]
        ).sum()

    parameters = list(model.layers.parameters())
    return _descend(loss, parameters, len(vectors), config, progress, "bottleneck")


def _train_end_to_end(
    model: BottleneckForClassification,
    vectors: Tensor,
    labels: Tensor,
    config: BottleneckTrainingConfig,
    progress: Progress,
) -> list[float]:
    def loss(index: Tensor) -> Tensor:
        cross_entropy: Tensor = model(vectors[index], labels[index]).loss
        return cross_entropy

    return _descend(loss, list(model.parameters()), len(vectors), config, progress, "back-propagation")


def _descend(
    loss: Callable[[Tensor], Tensor],
    parameters: Sequence[nn.Parameter],
    rows: int,
    config: BottleneckTrainingConfig,
    progress: Progress,
    name: str,
) -> list[float]:
    """Descend with Adam; give the mean loss of each epoch."""
    optimizer = torch.optim.Adam(parameters, lr=config.learning_rate)
    means = []
    progress.start(name, config.epochs, "epochs")
    for epoch in range(config.epochs):
        values = []
        for index in batches(rows, config, epoch):
            value = loss(index)
            if not torch.isfinite(value):
                raise OrdtoolError(
                    f"the {name} loss is {value.item()} in epoch {epoch + 1}",
                    "try a smaller learning rate, or another sigma",
                )
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            values.append(value.item())
        means.append(float(np.mean(values)))
        progress.advance(loss=f"{means[-1]:.4g}")
    progress.close()
    return means


def _fit_read_out(model: BottleneckForClassification, vectors: Tensor, labels: Tensor, ridge: float) -> None:
    """Fit the linear read-out: multinomial logistic regression by L-BFGS, on the whole data.

    It is fitted to features of mean 0 and spread 1, so that the ridge means the same for layers of any scale,
    and then rewritten for the features as they are.
    """
    with torch.no_grad():
        states = model.hidden(vectors)
        features = (states[-1] if states else model.standardise(vectors)).double()
        mean, spread = features.mean(dim=0), features.std(dim=0, correction=0)
        spread = torch.where(spread > 1e-8, spread, torch.ones_like(spread))
        features = (features - mean) / spread
    weight = torch.zeros(
        model.config.num_labels, features.shape[1], dtype=torch.float64, device=vectors.device
    )
    bias = torch.zeros(model.config.num_labels, dtype=torch.float64, device=vectors.device)
    weight.requires_grad_()
    bias.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=300, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
    )

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(features @ weight.T + bias, labels) + ridge * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(step)
    with torch.no_grad():
        model.classifier.weight.copy_(weight / spread)
        model.classifier.bias.copy_(bias - (weight / spread) @ mean)
