"""Training by the HSIC bottleneck, and the baselines it has to be compared with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict, Unpack

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
from ordtool.independence.bottleneck_checkpoint import Position, TrainingFile, holds_trainings
from ordtool.independence.labelled import Labelled, fingerprint
from ordtool.independence.loss import normalized_gram
from ordtool.io.atomic import atomic_directory, check_directory
from ordtool.io.checkpoint import DeferredInterrupt
from ordtool.io.runs import RunFolder, partial_folder, run_folder, run_metadata
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
    resume: bool = False,
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
        resume: Go on from the last checkpoint in `output.partial`.
        force: Replace an existing folder, or an interrupted run.
        progress: Told of the epochs.
        **options: Fields of `BottleneckTrainingConfig`, on top of `config`.

    Returns:
        The network.

    Raises:
        UsageError: For settings that make no sense.
        OrdtoolError: For fewer rows than classes, a single class, a loss that is no number, or a checkpoint of another run.
    """
    config, _ = with_options(config or BottleneckTrainingConfig(), options)
    with unfinished_trainings(output, resume=resume, force=force) as folder:
        file = None
        if folder is not None:
            folder.start(training_metadata([data], config, embed_model=embed_model), progress)
            file = training_path(folder, config)
        trained = train_network(data, config, embed_model=embed_model, checkpoint=file, progress=progress)
        if output is not None:
            with atomic_directory(output, force=force or resume) as made:
                trained.model.save_pretrained(made)
    return trained


@contextmanager
def unfinished_trainings(
    output: str | Path | None, *, resume: bool, force: bool
) -> Iterator[RunFolder | None]:
    """Hold the folder that has a file for each training until the output is there.

    Args:
        output: The model folder to make; None: nothing is kept.
        resume: Go on with an interrupted run.
        force: Replace an existing folder, or an interrupted run.

    Raises:
        UsageError: A run that is to be resumed and has no output.
        OrdtoolError: As `run_folder`, and if the output can't be made.
    """
    if output is None:
        if resume:
            raise UsageError("`resume` needs the folder to go on with", "name it with `output`")
        yield None
        return
    check_directory(output, force=force or resume)
    with run_folder(partial_folder(output), holds_trainings, resume=resume, force=force) as folder:
        yield folder


def training_metadata(
    data: Sequence[Labelled], config: BottleneckTrainingConfig, **settings: Any
) -> dict[str, Any]:
    """Return what a resumed run must have in common with the interrupted one: the data, and all that decides the weights."""
    decides = {name: value for name, value in asdict(config).items() if name != "device"}
    return {**run_metadata([], {**decides, **settings}), "input": fingerprint(data)}


def training_path(folder: RunFolder, config: BottleneckTrainingConfig) -> Path:
    """Return the file of one training among those of its folder."""
    return folder.path / f"{config.method}-{config.seed}.safetensors"


def train_network(
    data: Labelled,
    config: BottleneckTrainingConfig,
    *,
    embed_model: str | None = None,
    checkpoint: Path | None = None,
    progress: Progress = SILENT,
) -> Trained:
    """Train a network, and save it nowhere.

    Args:
        data: What to train on.
        config: How.
        embed_model: Recorded in the model.
        checkpoint: The file of this training, which is gone on from where it is there; None: nothing is kept.
        progress: Told of the epochs.

    Raises:
        OrdtoolError: As `train_bottleneck`.
    """
    if len(data.names) < 2:
        raise OrdtoolError(f"all labels are {data.names[0]!r}: there is nothing to tell apart")
    started = time.perf_counter()
    device = resolve_device(config.device)
    torch.manual_seed(config.seed)
    model = _new_model(data, config, embed_model).to(device)
    file = TrainingFile(checkpoint, model)
    at = file.load()
    started -= at.seconds
    vectors = torch.tensor(np.asarray(data.vectors, dtype=np.float32), device=device)
    labels = torch.tensor(data.labels, device=device)
    if not at.done:
        if config.method == "hsic":
            _train_layers(model, vectors, labels, config, _Run(file, at, started, progress))
        elif config.method == "backprop":
            _train_end_to_end(model, vectors, labels, config, _Run(file, at, started, progress))
        if config.method != "backprop":
            _fit_read_out(model, vectors, labels, config.ridge)
        at.done, at.seconds = True, time.perf_counter() - started
        file.save(at)
    return Trained(model.eval(), at.seconds, at.means)


@dataclass(frozen=True, slots=True)
class _Run:
    """What a descent keeps and tells: the file, how far it is, when it began, and who hears of it."""

    file: TrainingFile
    at: Position
    started: float
    progress: Progress


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
    run: _Run,
) -> None:
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
    _descend(loss, parameters, len(vectors), config, run, "bottleneck")


def _train_end_to_end(
    model: BottleneckForClassification,
    vectors: Tensor,
    labels: Tensor,
    config: BottleneckTrainingConfig,
    run: _Run,
) -> None:
    def loss(index: Tensor) -> Tensor:
        cross_entropy: Tensor = model(vectors[index], labels[index]).loss
        return cross_entropy

    _descend(loss, list(model.parameters()), len(vectors), config, run, "back-propagation")


def _descend(
    loss: Callable[[Tensor], Tensor],
    parameters: Sequence[nn.Parameter],
    rows: int,
    config: BottleneckTrainingConfig,
    run: _Run,
    name: str,
) -> None:
    """Descend with Adam, from where the run is to the end of its epochs."""
    optimizer = torch.optim.Adam(parameters, lr=config.learning_rate)
    at, progress = run.at, run.progress
    run.file.restore(optimizer)
    progress.start(name, config.epochs, "epochs")
    progress.advance(len(at.means))
    with DeferredInterrupt() as interrupt:
        for epoch in range(len(at.means), config.epochs):
            for index in islice(batches(rows, config, epoch), len(at.values), None):
                value = loss(index)
                if not torch.isfinite(value):
                    raise OrdtoolError(
                        f"the {name} loss is {value.item()} in epoch {epoch + 1}",
                        "try a smaller learning rate, or another sigma",
                    )
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                at.values.append(value.item())
                at.seconds = time.perf_counter() - run.started
                run.file.save(at, optimizer, now=interrupt.requested)
                interrupt.check()
            at.means.append(float(np.mean(at.values)))
            at.values.clear()
            progress.advance(loss=f"{at.means[-1]:.4g}")
        run.file.save(at, optimizer, now=True)
        interrupt.check()
    progress.close()


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
