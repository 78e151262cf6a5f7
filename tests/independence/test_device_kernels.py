"""Blocks and rotations as a GPU computes them, by torch on the CPU, against those of numpy and their definitions."""

import numpy as np
import pytest
import torch

from ordtool.errors import UsageError
from ordtool.independence import cyclic, device_kernels
from ordtool.independence.cyclic import coset_statistics
from ordtool.independence.hsic import hsic
from ordtool.independence.kernel_sums import kernel_sums
from ordtool.independence.kernels import fit_kernel

CPU = torch.device("cpu")
NAMES = [("gaussian", "laplacian"), ("linear", "cosine"), ("cosine", "gaussian")]


def on_cpu(kernels, device="cpu"):
    return [kernel.on_device(CPU) for kernel in kernels]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(device_kernels, "_BLOCK", 13)
    monkeypatch.setattr(device_kernels, "_BAND_ROWS", 7)
    monkeypatch.setattr(device_kernels, "_BAND_NUMBERS", 200)
    monkeypatch.setattr(device_kernels, "_LEAST_WIDTH", 4)


@pytest.mark.parametrize("multiples", [(1.0,), (0.5, 2.0)])
@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("n", [4, 13, 37])
def test_sums_over_pairs_are_those_of_the_whole_matrices(n, names, multiples, pair):
    kernels = [fit_kernel(rows, name, multiples=multiples) for rows, name in zip(pair(n), names, strict=True)]
    offsets = np.array([0.3, -0.1])
    pairs = [(0, 0), (0, 1), (1, 1)]
    products, row_sums = device_kernels.block_sums(on_cpu(kernels), pairs, offsets)
    whole = [kernel.block(slice(0, n), slice(0, n)) - offsets[i] for i, kernel in enumerate(kernels)]
    for matrix in whole:
        np.fill_diagonal(matrix, 0)
    expected = [(whole[a] * whole[b]).sum() for a, b in pairs]
    np.testing.assert_allclose(products, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(row_sums, [matrix.sum(1) for matrix in whole], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("n", [5, 16, 37, 38])
def test_rotations_are_those_of_the_cpu(n, names, estimator, pair, monkeypatch):
    """One order of the rows, and with more permutations a second one against it."""
    kernels = [fit_kernel(rows, name) for rows, name in zip(pair(n), names, strict=True)]
    sums = kernel_sums(kernels, [(0, 1)])
    monkeypatch.setattr(type(sums), "is_cheap_in_features", lambda self, pair: False)
    found = []
    for there in (False, True):
        monkeypatch.setattr(cyclic, "on_device", on_cpu if there else lambda kernels, device: None)
        draw = np.random.default_rng(7)
        found.append(coset_statistics(sums, [(0, 1)], 2 * n, draw, estimator))
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=1e-13 * max(1, np.abs(found[0]).max()))


def test_a_device_that_is_not_there_is_said(pair):
    if torch.cuda.is_available():
        pytest.skip("it is there")
    with pytest.raises(UsageError, match="cuda"):
        hsic(*pair(20), device="cuda")
