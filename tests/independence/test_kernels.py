import numpy as np
import pytest

from ordtool.errors import OrdtoolError, UsageError
from ordtool.independence.kernels import KERNELS, FeatureKernel, PrecomputedKernel, fit_kernel


def centred(matrix):
    h = np.eye(len(matrix)) - 1 / len(matrix)
    return h @ matrix @ h


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", KERNELS)
def test_blocks_are_the_definition(name, dtype, oracle, pair):
    x = pair(23, dtype=dtype)[0] * 3 + 7
    bandwidth = 2.5 if name in ("gaussian", "laplacian") else None
    kernel = fit_kernel(x, name, bandwidth)
    expected = oracle.kernel(x, name, bandwidth)
    matrix = kernel.block(slice(0, 23), slice(0, 23)) * kernel.scale
    tolerance = 3e-6 if dtype == "float32" else 1e-13
    assert matrix.dtype == np.result_type(dtype, np.float32) or kernel.scale != 1
    if isinstance(kernel, FeatureKernel):  # features are centred, which HKH doesn't see
        matrix, expected = centred(matrix), centred(expected)
    assert np.allclose(matrix, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())
    part = kernel.block(slice(3, 9), slice(11, 23)) * kernel.scale
    whole = kernel.block(slice(0, 23), slice(0, 23)) * kernel.scale
    assert np.allclose(part, whole[3:9, 11:23], rtol=tolerance, atol=tolerance * np.abs(expected).max())
    assert np.allclose(kernel.diagonal(), np.diag(whole) / kernel.scale, atol=2e-6)


@pytest.mark.parametrize("name", KERNELS)
def test_rows_can_be_taken_in_another_order(name, pair):
    x = pair(17)[0]
    kernel = fit_kernel(x, name)
    index = np.array([5, 3, 3, 16, 0])
    all_rows = kernel.block(slice(0, 17), slice(0, 17))
    taken = kernel.subset(index)
    assert taken.bandwidth == kernel.bandwidth
    assert np.allclose(taken.block(slice(0, 5), slice(0, 5)), all_rows[np.ix_(index, index)], atol=1e-14)


def test_each_variable_has_its_own_bandwidth(pair):
    x, y = pair(40)
    assert fit_kernel(1000 * y).bandwidth == pytest.approx(1000 * fit_kernel(y).bandwidth, rel=1e-12)
    assert fit_kernel(x).bandwidth != fit_kernel(y).bandwidth


def test_float32_stays_exact_far_from_the_origin(oracle):
    x = np.random.default_rng(0).standard_normal((12, 3))
    far = x + 1e4
    kernel = fit_kernel(far.astype(np.float32), "gaussian", 1.0)
    expected = oracle.kernel(far.astype(np.float32).astype(np.float64), "gaussian", 1.0)
    assert np.allclose(kernel.block(slice(0, 12), slice(0, 12)), expected, atol=1e-5)


def test_a_narrow_bandwidth_turns_to_float64(oracle):
    x = np.random.default_rng(0).standard_normal((12, 3)).astype(np.float32)
    x[1] = x[0] + 1e-4
    kernel = fit_kernel(x, "gaussian", 1e-4)
    expected = oracle.kernel(x, "gaussian", 1e-4)
    assert kernel.dtype == np.float64
    assert np.allclose(kernel.block(slice(0, 12), slice(0, 12)), expected, atol=1e-6)


def test_cosine_of_a_row_of_zeros_is_zero():
    x = np.array([[0, 0], [3, 4], [1, 0], [0, 2.0]])
    kernel = fit_kernel(x, "cosine")
    unit = np.array([[0, 0], [0.6, 0.8], [1, 0], [0, 1]])
    matrix = kernel.block(slice(0, 4), slice(0, 4)) * kernel.scale
    assert np.allclose(matrix, centred(unit @ unit.T))


@pytest.mark.parametrize("bandwidth", [0, -1, float("nan"), float("inf"), 1e-30, 1e30])
def test_impossible_bandwidths(bandwidth, pair):
    with pytest.raises(OrdtoolError, match="bandwidth"):
        fit_kernel(pair(9)[0], "gaussian", bandwidth)


def test_unknown_kernel_is_suggested(pair):
    with pytest.raises(UsageError, match="gausian") as caught:
        fit_kernel(pair(9)[0], "gausian")
    assert "did you mean 'gaussian'" in caught.value.hint


def test_precomputed_must_be_square():
    with pytest.raises(OrdtoolError, match="square"):
        PrecomputedKernel(np.zeros((3, 4)))
