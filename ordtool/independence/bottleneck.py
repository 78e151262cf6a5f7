r"""The HSIC bottleneck: layers that learn without back-propagation, as a Hugging Face model.

Each layer $Z_l$ looks for a representation that depends on the labels and as little as it can on the inputs
(Ma, Lewis & Kleijn 2020):

$$\min_{\theta_l} \; \mathrm{nHSIC}(Z_l, X) - \beta \, \mathrm{nHSIC}(Z_l, Y)$$

on its own; the layer below is taken as given, so no error travels down. A linear read-out of the last layer
then names the class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from ordtool.errors import OrdtoolError, UsageError, close_match_hint
from ordtool.independence.loss import centred, normalized_gram, squared_distances
from ordtool.models.loading import load_model

MODEL_TYPE = "hsic_bottleneck"
ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}


def gaussian_gram(rows: Tensor, sigma: float) -> Tensor:
    r"""Return $\exp(-\lVert x_i - x_j \rVert^2 / 2 \sigma^2 d)$, `(batch, batch)`, in float64.

    The dimension $d$ of the rows stands in the exponent, so that one $\sigma$ serves layers of any width.
    """
    return torch.exp(squared_distances(rows.double()) / (-2 * sigma**2 * rows.shape[1]))


def nhsic(x: Tensor, y: Tensor, sigma: float = 5.0, epsilon: float = 1e-5) -> Tensor:
    r"""Normalised HSIC of a batch, $\operatorname{tr}(\tilde K \tilde L)$ (Fukumizu et al. 2008).

    Args:
        x: `(batch, dim)`.
        y: `(batch, other dim)`.
        sigma: The gaussian kernel's, over the root of the dimension; see `gaussian_gram`.
        epsilon: $\epsilon$ in $\tilde K = \bar K (\bar K + \epsilon m I)^{-1}$.

    Returns:
        A number from 0 to the smaller rank of the two.
    """
    k, l_ = (normalized_gram(gaussian_gram(rows, sigma), epsilon) for rows in (x, y))
    return (k * l_.T).sum()


def bottleneck_objective(z: Tensor, target: Tensor, sigma: float, epsilon: float) -> Tensor:
    r"""Return $\operatorname{tr}(\tilde K_Z T)$ for $T = \tilde K_X - \beta \tilde K_Y$: one layer's loss.

    $T$ is symmetric and doesn't depend on the layer, so it is computed once a batch. With
    $M = \bar K_Z + \epsilon m I$ the loss is $\operatorname{tr} T - \epsilon m \operatorname{tr}(M^{-1} T)$, and its
    derivative by $\bar K_Z$ is $\epsilon m M^{-1} T M^{-1}$: one factorisation serves both, and none is
    differentiated.
    """
    ridge = epsilon * len(z)
    matrix = centred(gaussian_gram(z, sigma))
    with torch.no_grad():
        factor = torch.linalg.cholesky(
            matrix + ridge * torch.eye(len(z), dtype=matrix.dtype, device=z.device)
        )
        solved = torch.cholesky_solve(target, factor)
        value = target.trace() - ridge * solved.trace()
        derivative = ridge * torch.cholesky_solve(solved.T, factor)
    linear = (derivative * matrix).sum()
    return value + (linear - linear.detach())


class BottleneckConfig(PreTrainedConfig):
    """The shape of a bottleneck network and how it was trained.

    Args:
        input_size: Width of the input vectors.
        layer_sizes: Widths of the layers.
        activation: `relu`, `tanh` or `gelu`.
        method: How the layers were trained: `hsic`, `backprop`, `random`, or `linear` (no layers).
        sigma: Of the gaussian kernels.
        beta: Weight of the labels.
        epsilon: Of nHSIC.
        embedding_model: What turned texts into the input vectors, if they were texts.
        **kwargs: `id2label` and what else Hugging Face configurations hold.
    """

    model_type = MODEL_TYPE

    def __init__(
        self,
        input_size: int = 384,
        layer_sizes: Sequence[int] = (128, 128, 128),
        activation: str = "relu",
        method: str = "hsic",
        sigma: float = 5.0,
        beta: float = 500.0,
        epsilon: float = 1e-5,
        embedding_model: str | None = None,
        **kwargs: Any,
    ) -> None:
        if activation not in ACTIVATIONS:
            raise UsageError(f"unknown activation {activation!r}", close_match_hint(activation, ACTIVATIONS))
        self.input_size = input_size
        self.layer_sizes = list(layer_sizes)
        self.activation = activation
        self.method = method
        self.sigma = sigma
        self.beta = beta
        self.epsilon = epsilon
        self.embedding_model = embedding_model
        super().__init__(**kwargs)


@dataclass
class BottleneckOutput(ModelOutput):
    """What the network says about a batch.

    Attributes:
        loss: Cross-entropy in nats, if labels were given.
        logits: `(batch, classes)`.
        hidden_states: The layers' outputs, each `(batch, layer size)`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class BottleneckForClassification(PreTrainedModel):
    """Vectors, standardised, through layers, to classes.

    Args:
        config: The network's shape.
    """

    config_class = BottleneckConfig
    base_model_prefix = "bottleneck"
    main_input_name = "vectors"

    def __init__(self, config: BottleneckConfig) -> None:
        super().__init__(config)
        widths = [config.input_size, *config.layer_sizes]
        self.register_buffer("mean", torch.zeros(config.input_size))
        self.register_buffer("scale", torch.ones(config.input_size))
        self.layers = nn.ModuleList(
            nn.Linear(before, after) for before, after in zip(widths, widths[1:], strict=False)
        )
        self.activation = ACTIVATIONS[config.activation]()
        self.classifier = nn.Linear(widths[-1], config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Draw weights so that a ReLU keeps the spread of what passes through it (He et al. 2015)."""
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)

    def standardise(self, vectors: Tensor) -> Tensor:
        """Bring vectors to the mean and spread the network was trained on, `(batch, input size)`."""
        return (vectors - self.get_buffer("mean")) / self.get_buffer("scale")

    def hidden(self, vectors: Tensor, *, detach: bool = False) -> list[Tensor]:
        """Return the layers' outputs; with `detach` no gradient passes from a layer to the one below."""
        states = []
        state = self.standardise(vectors)
        for layer in self.layers:
            state = self.activation(layer(state.detach() if detach else state))
            states.append(state)
        return states

    def forward(self, vectors: Tensor, labels: Tensor | None = None, **kwargs: Any) -> BottleneckOutput:
        """Classify a batch.

        Args:
            vectors: `(batch, input size)`.
            labels: Class indices, `(batch,)`.
            **kwargs: Ignored, as trainers pass what other models take.
        """
        states = self.hidden(vectors)
        logits = self.classifier(states[-1] if states else self.standardise(vectors))
        loss = nn.functional.cross_entropy(logits, labels) if labels is not None else None
        return BottleneckOutput(loss=loss, logits=logits, hidden_states=tuple(states))

    @torch.no_grad()
    def probabilities(self, vectors: NDArray[Any], batch_size: int = 4096) -> NDArray[np.float32]:
        """Return class probabilities, `(rows, classes)`, of vectors `(rows, input size)`.

        Raises:
            OrdtoolError: If the vectors have another width.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.config.input_size:
            raise OrdtoolError(
                f"vectors of shape {vectors.shape} don't fit a model for {self.config.input_size} dimensions",
                "embed with the model that made its training vectors"
                + (f": {self.config.embedding_model}" if self.config.embedding_model else ""),
            )
        self.eval()
        parts = [np.zeros((0, self.config.num_labels), np.float32)]
        for start in range(0, len(vectors), batch_size):
            rows = torch.tensor(np.asarray(vectors[start : start + batch_size], dtype=np.float32))
            parts.append(self(rows.to(self.device)).logits.softmax(dim=-1).float().cpu().numpy())
        return np.concatenate(parts)


AutoConfig.register(MODEL_TYPE, BottleneckConfig, exist_ok=True)
AutoModel.register(BottleneckConfig, BottleneckForClassification, exist_ok=True)


def load_bottleneck(folder: str | Path) -> BottleneckForClassification:
    """Load a folder that `ordtool train bottleneck` wrote.

    Raises:
        OrdtoolError: If it is something else, or damaged.
    """
    model: BottleneckForClassification = load_model(Path(folder), BottleneckForClassification).model
    return model
