"""nHSIC: the normalised cross-covariance operator's norm, which needs whole matrices."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordtool.errors import OrdtoolError
from ordtool.independence.kernels import Kernel

Float64Array = NDArray[np.float64]

MAX_ROWS = 5000


def normalized_matrix(kernel: Kernel, epsilon: float = 1e-5) -> Float64Array:
    r"""Return $\tilde K = \bar K (\bar K + \epsilon n I)^{-1}$ with $\bar K = HKH$, `(rows, rows)`.

    $\mathrm{nHSIC} = \operatorname{tr}(\tilde K \tilde L)$ (Fukumizu et al. 2008, eq. 6; as Ma et al. 2020,
    eq. 3, use it). All directions of $\bar K$ well above $\epsilon n$ count alike, whatever their variance.

    Args:
        kernel: Over at most `MAX_ROWS` rows.
        epsilon: $\epsilon$; smaller ones count finer directions, of which noise has many.

    Raises:
        OrdtoolError: For too many rows, or an epsilon that isn't positive.
    """
    from scipy.linalg import cho_factor, cho_solve

    n = kernel.rows
    if n > MAX_ROWS:
        raise OrdtoolError(
            f"nHSIC of {n} rows would invert a matrix of {n} by {n}",
            f"take at most {MAX_ROWS} rows, or `estimator=unbiased`, which is exact at any number",
        )
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise OrdtoolError(f"epsilon {epsilon:g} is not possible", "a positive number: 1e-5")
    everything = slice(0, n)
    matrix: NDArray[Any] = kernel.block(everything, everything).astype(np.float64)
    means = matrix.mean(axis=0)
    matrix -= means
    matrix -= means[:, None]
    matrix += means.mean()
    regular = matrix.copy()
    regular[np.diag_indices(n)] += epsilon * n
    solved = cho_solve(cho_factor(regular, overwrite_a=True), matrix)
    return np.asarray((solved + solved.T) / 2)
