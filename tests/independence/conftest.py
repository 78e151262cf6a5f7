"""Oracles for HSIC that share nothing with the code under test: loops, whole matrices, float64."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest


def kernel_matrix(x: np.ndarray, name: str, bandwidth: float | None = None) -> np.ndarray:
    """A kernel's whole matrix by its definition, pair by pair."""
    rows = [np.atleast_1d(row).astype(np.float64) for row in x]

    def k(a, b):
        if name == "gaussian":
            return np.exp(-((a - b) ** 2).sum() / (2 * bandwidth**2))
        if name == "laplacian":
            return np.exp(-np.abs(a - b).sum() / bandwidth)
        if name == "cosine":
            return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
        return a @ b

    return np.array([[k(a, b) for b in rows] for a in rows])


def biased(k: np.ndarray, l_: np.ndarray) -> float:
    """tr(KHLH) / n^2."""
    n = len(k)
    h = np.eye(n) - 1 / n
    return float(np.trace(k @ h @ l_ @ h)) / n**2


def u_statistic(k: np.ndarray, l_: np.ndarray) -> float:
    """The U-statistic by its definition: the mean over all ordered quadruples of different rows, O(n^4)."""
    total = count = 0.0
    for i, j, q, r in itertools.permutations(range(len(k)), 4):
        total += k[i, j] * (l_[i, j] + l_[q, r] - 2 * l_[i, q])
        count += 1
    return total / count


def unbiased(k: np.ndarray, l_: np.ndarray) -> float:
    """The same by the closed form, with whole matrices."""
    n = len(k)
    k, l_ = k - np.diag(np.diag(k)), l_ - np.diag(np.diag(l_))
    one = np.ones(n)
    total = np.trace(k @ l_) + (one @ k @ one) * (one @ l_ @ one) / ((n - 1) * (n - 2))
    return float(total - 2 * (one @ k @ l_ @ one) / (n - 2)) / (n * (n - 3))


@pytest.fixture(scope="session")
def oracle() -> Callable:
    """`oracle.kernel(x, "gaussian", 1.5)`, `oracle.biased(K, L)`, `oracle.u_statistic(K, L)`."""

    class Oracle:
        kernel = staticmethod(kernel_matrix)
        biased = staticmethod(biased)
        u_statistic = staticmethod(u_statistic)
        unbiased = staticmethod(unbiased)

    return Oracle


@pytest.fixture
def pair() -> Callable:
    """`pair(n)`: two dependent variables of 3 and 2 dimensions, float64."""

    def draw(n: int, seed: int = 0, dtype: str = "float64") -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((n, 3))
        y = np.sin(2 * x[:, :2]) + 0.7 * rng.standard_normal((n, 2))
        return x.astype(dtype), y.astype(dtype)

    return draw
