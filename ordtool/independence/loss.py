r"""HSIC of a batch as a number to differentiate: a loss for networks of one's own.

To make $z = f_\theta(x)$ independent of $s$, minimise `hsic_loss(z, s)`; to make it say all it can of $y$, minimise
`-nhsic_loss(z, y)`. Gradients flow to both arguments, through everything but the bandwidth that the median heuristic
takes from the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ordtool.errors import OrdtoolError, UsageError, close_match_hint
from ordtool.independence.bandwidth import median_distance
from ordtool.independence.kernels import KERNELS
from ordtool.independence.validation import MIN_ROWS

GramFunction = Callable[[Tensor], Tensor]
LOSS_ESTIMATORS = ("unbiased", "biased", "gretton")


def hsic_loss(
    x: Tensor,
    y: Tensor,
    *,
    kernel: str | GramFunction | tuple[str | GramFunction, str | GramFunction] = "gaussian",
    bandwidth: float | tuple[float | None, float | None] | None = None,
    multiples: Sequence[float] = (1.0,),
    estimator: str = "unbiased",
) -> Tensor:
    r"""Return HSIC of a batch, a differentiable scalar of the dtype of `x`; computed in float64.

    Args:
        x: `(batch, dim)`, or numbers `(batch,)`.
        y: `(batch, other dim)`, likewise; integers of shape `(batch,)` are class labels, taken as unit vectors.
        kernel: `gaussian` ($\exp(-d^2 / 2 \sigma^2)$), `laplacian` ($\exp(-d_1 / \sigma)$), `linear`, `cosine`, or a
            function from rows, `(batch, dim)`, to their matrix, `(batch, batch)`; a pair for left and right.
        bandwidth: $\sigma$, or a pair; None is the median distance of each side's rows, through which no gradient flows.
        multiples: $m$; the kernels of the bandwidths $m \sigma$ are added up.
        estimator: `unbiased` (Song et al. 2012, eq. 5; negative at times), `biased` ($\operatorname{tr}(KHLH)/n^2$), or
            `gretton` (the same over $(n-1)^2$).

    Raises:
        UsageError: For unknown names.
        OrdtoolError: For sides of different length, fewer than four rows, or an impossible bandwidth.
    """
    if estimator not in LOSS_ESTIMATORS:
        raise UsageError(f"unknown estimator {estimator!r}", close_match_hint(estimator, LOSS_ESTIMATORS))
    k, l_ = _grams(x, y, kernel, bandwidth, multiples)
    n = len(k)
    if estimator == "unbiased":
        value = (u_centred_gram(k) * u_centred_gram(l_)).sum() / (n * (n - 3))
    else:
        value = (centred(k) * l_).sum() / (n if estimator == "biased" else n - 1) ** 2
    return value.to(_dtype(x))


def nhsic_loss(
    x: Tensor,
    y: Tensor,
    *,
    kernel: str | GramFunction | tuple[str | GramFunction, str | GramFunction] = "gaussian",
    bandwidth: float | tuple[float | None, float | None] | None = None,
    multiples: Sequence[float] = (1.0,),
    epsilon: float = 1e-5,
) -> Tensor:
    r"""Return normalised HSIC of a batch, a differentiable scalar of the dtype of `x`; computed in float64.

    $\operatorname{tr}(\tilde K \tilde L)$ with $\tilde K = \bar K (\bar K + \epsilon n I)^{-1}$ and $\bar K = HKH$
    (Fukumizu et al. 2008, eq. 6; as a loss, Ma, Lewis & Kleijn 2020, eq. 3): from 0 to the smaller rank of the two.

    Args:
        x: As for `hsic_loss`.
        y: As for `hsic_loss`.
        kernel: As for `hsic_loss`.
        bandwidth: As for `hsic_loss`.
        multiples: As for `hsic_loss`.
        epsilon: $\epsilon$; a batch's fine directions, of which noise has many, count more the smaller it is.

    Raises:
        UsageError: For unknown names.
        OrdtoolError: As `hsic_loss`, and for an epsilon that isn't positive.
    """
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise OrdtoolError(f"epsilon {epsilon:g} is not possible", "a positive number: 1e-5")
    k, l_ = (normalized_gram(gram, epsilon) for gram in _grams(x, y, kernel, bandwidth, multiples))
    return (k * l_.T).sum().to(_dtype(x))


def centred(gram: Tensor) -> Tensor:
    """Return $HKH$."""
    means = gram.mean(dim=0)
    return gram - means - means[:, None] + means.mean()


def u_centred_gram(gram: Tensor) -> Tensor:
    """Return a symmetric matrix with a diagonal and row sums of 0 (Székely & Rizzo 2014, def. 2)."""
    n = len(gram)
    off_diagonal = 1 - torch.eye(n, dtype=gram.dtype, device=gram.device)
    sums = (gram * off_diagonal).sum(dim=1)
    shift = sums / (n - 2) - sums.sum() / (2 * (n - 1) * (n - 2))
    return (gram - shift - shift[:, None]) * off_diagonal


def normalized_gram(gram: Tensor, epsilon: float) -> Tensor:
    r"""Return $\tilde K = \bar K (\bar K + \epsilon m I)^{-1} = I - \epsilon m (\bar K + \epsilon m I)^{-1}$.

    $\bar K = HKH$ over a batch of $m$ rows.
    """
    ridge = epsilon * len(gram)
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return identity - ridge * torch.cholesky_inverse(torch.linalg.cholesky(centred(gram) + ridge * identity))


def _grams(
    x: Tensor,
    y: Tensor,
    kernel: str | GramFunction | tuple[str | GramFunction, str | GramFunction],
    bandwidth: float | tuple[float | None, float | None] | None,
    multiples: Sequence[float],
) -> tuple[Tensor, Tensor]:
    kernels = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    bandwidths = bandwidth if isinstance(bandwidth, tuple) else (bandwidth, bandwidth)
    rows = [_rows(x, "x"), _rows(y, "y")]
    if len(rows[0]) != len(rows[1]):
        raise OrdtoolError(
            f"x has {len(rows[0])} rows and y has {len(rows[1])}",
            "row i of both must belong to the same item",
        )
    if not multiples or not all(multiple > 0 for multiple in multiples):
        raise UsageError("the `multiples` of the bandwidths must be positive numbers", "(0.5, 1, 2)")
    left, right = (_gram(*side, multiples) for side in zip(rows, kernels, bandwidths, strict=True))
    return left, right


def _dtype(x: Tensor) -> torch.dtype:
    return x.dtype if x.is_floating_point() else torch.get_default_dtype()


def _rows(given: Tensor, name: str) -> Tensor:
    """Return rows in float64, `(batch, dim)`; class labels as unit vectors."""
    if given.ndim == 1 and not given.is_floating_point():
        given = torch.nn.functional.one_hot(given.long().unique(return_inverse=True)[1])
    rows = given[:, None] if given.ndim == 1 else given
    if rows.ndim != 2 or len(rows) < MIN_ROWS:
        raise OrdtoolError(
            f"{name} has shape {tuple(given.shape)}, and (batch, dim) with a batch of {MIN_ROWS} or more is expected",
            "flatten what has more dimensions: z.flatten(1)",
        )
    return rows.double()


def _gram(
    rows: Tensor, kernel: str | GramFunction, bandwidth: float | None, multiples: Sequence[float]
) -> Tensor:
    if callable(kernel):
        return kernel(rows)
    if kernel not in KERNELS:
        raise UsageError(f"unknown kernel {kernel!r}", close_match_hint(kernel, KERNELS))
    if kernel == "cosine":
        rows = torch.nn.functional.normalize(rows, eps=torch.finfo(rows.dtype).tiny)
    if kernel in ("linear", "cosine"):
        return rows @ rows.T
    gaussian = kernel == "gaussian"
    if bandwidth is None:
        found = rows.detach().cpu().numpy()
        bandwidth = median_distance(found, "euclidean" if gaussian else "cityblock") or 1.0
    if not (math.isfinite(bandwidth) and bandwidth > 0):
        raise OrdtoolError(f"bandwidth {bandwidth:g} is not possible", "a bandwidth is a positive number")
    if gaussian:
        exponent = squared_distances(rows) / (-2 * bandwidth**2)
        factors = [1 / multiple**2 for multiple in multiples]
    else:
        exponent = torch.cdist(rows, rows, p=1) / -bandwidth
        factors = [1 / multiple for multiple in multiples]
    return torch.stack([torch.exp(factor * exponent) for factor in factors]).sum(dim=0)


def squared_distances(rows: Tensor) -> Tensor:
    """Return the squared distances of all pairs of rows, `(batch, batch)`."""
    rows = rows - rows.mean(dim=0)
    squares = rows.square().sum(dim=1)
    return (squares[:, None] + squares - 2 * rows @ rows.T).clamp_min(0)
