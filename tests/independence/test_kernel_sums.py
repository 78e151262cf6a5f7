import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ordtool.independence.block_sums as module
from ordtool.independence.block_sums import PartialSums, block_tasks, partial_sums
from ordtool.independence.kernel_sums import kernel_sums
from ordtool.independence.kernels import KERNELS, FeatureKernel, PrecomputedKernel, fit_kernel


@pytest.mark.parametrize("n", [4, 5, 7, 8])
@pytest.mark.parametrize("name", KERNELS)
def test_unbiased_is_the_u_statistic_over_quadruples(n, name, oracle, pair):
    x, y = pair(n, seed=n)
    kernels = [fit_kernel(x, name), fit_kernel(y, name)]
    expected = oracle.u_statistic(
        oracle.kernel(x, name, kernels[0].bandwidth), oracle.kernel(y, name, kernels[1].bandwidth)
    )
    assert kernel_sums(kernels, [(0, 1)]).unbiased(0, 1) == pytest.approx(expected, rel=1e-9, abs=1e-13)


@pytest.mark.parametrize("n", [4, 9, 40])
@pytest.mark.parametrize("name", KERNELS)
def test_biased_is_the_trace(n, name, oracle, pair):
    x, y = pair(n, seed=n)
    kernels = [fit_kernel(x, name), fit_kernel(y, "gaussian")]
    expected = oracle.biased(
        oracle.kernel(x, name, kernels[0].bandwidth), oracle.kernel(y, "gaussian", kernels[1].bandwidth)
    )
    assert kernel_sums(kernels, [(0, 1)]).biased(0, 1) == pytest.approx(expected, rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(4, 90), st.sampled_from([7, 16, 33]), st.integers(0, 99), st.sampled_from(KERNELS))
def test_blocks_are_the_whole(n, block, seed, name):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n, 3)), rng.standard_normal((n, 100))
    kernels = [fit_kernel(x, name), fit_kernel(y, "gaussian"), fit_kernel(x, "linear")]
    pairs = [(0, 1), (1, 2), (0, 2)]
    whole = kernel_sums(kernels, pairs)
    before, module.BLOCK = module.BLOCK, block
    try:
        parts = kernel_sums(kernels, pairs)
    finally:
        module.BLOCK = before
    for a, b in pairs:
        for estimator in ("biased", "unbiased"):
            norm = np.sqrt(whole.biased(a, a) * whole.biased(b, b))
            assert parts.estimate(a, b, estimator) == pytest.approx(
                whole.estimate(a, b, estimator), abs=1e-11 * norm
            )


@pytest.mark.parametrize("tasks", [1, 3, 100])
def test_tasks_add_up_to_one_pass(tasks):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1000, 5)).astype(np.float32)
    y = (x[:, :2] ** 2 + rng.standard_normal((1000, 2))).astype(np.float32)
    kernels = [fit_kernel(x, "gaussian"), fit_kernel(y, "laplacian")]
    pairs = [(0, 0), (0, 1), (1, 1)]
    whole = kernel_sums(kernels, [(0, 1)])
    dealt = block_tasks(1000, tasks)
    assert sorted(corner for corners in dealt for corner in corners) == sorted(block_tasks(1000)[0])
    total = PartialSums.empty(2, 3, 1000)
    for corners in reversed(dealt):  # they may come in any order
        total.merge(partial_sums(kernels, pairs, whole.offsets, corners))
    assert total.products == pytest.approx([whole.products[a, b] for a, b in pairs], rel=1e-9)
    np.testing.assert_allclose(
        total.row_sums, whole.row_sums, rtol=1e-9, atol=1e-9 * np.abs(whole.row_sums).max()
    )


def test_features_give_what_pairs_give(pair):
    x, y = pair(60)
    kernels = [fit_kernel(x, "linear"), fit_kernel(y, "cosine")]
    by_features = kernel_sums(kernels, [(0, 1)])
    matrices = [PrecomputedKernel(k.block(slice(0, 60), slice(0, 60)) * k.scale) for k in kernels]
    by_pairs = kernel_sums(matrices, [(0, 1)])
    for a, b in ((0, 0), (0, 1), (1, 1)):
        assert by_features.biased(a, b) == pytest.approx(by_pairs.biased(a, b), rel=1e-12)
        assert by_features.unbiased(a, b) == pytest.approx(by_pairs.unbiased(a, b), rel=1e-12)


def test_linear_kernels_of_many_rows_see_no_pairs(pair, monkeypatch):
    x, y = pair(5000)
    monkeypatch.setattr(FeatureKernel, "exponent", None)  # a pair of rows would fail
    sums = kernel_sums([fit_kernel(x, "linear"), fit_kernel(y, "linear")], [(0, 1)])
    cov = (x - x.mean(axis=0)).T @ (y - y.mean(axis=0)) / 5000
    assert sums.biased(0, 1) == pytest.approx(np.square(cov).sum(), rel=1e-12)


def test_float32_is_float64_to_six_digits(pair):
    x, y = pair(1500, dtype="float32")
    found = [
        kernel_sums([fit_kernel(x.astype(dtype)), fit_kernel(y.astype(dtype))], [(0, 1)])
        for dtype in ("float32", "float64")
    ]
    for a, b in ((0, 1), (0, 0)):
        assert found[0].unbiased(a, b) == pytest.approx(found[1].unbiased(a, b), rel=2e-6)
        assert found[0].biased(a, b) == pytest.approx(found[1].biased(a, b), rel=2e-6)


def test_float32_holds_where_nothing_depends():
    # HSIC is then some 1e-7 beside kernel values near 0.6: sums of those in float32 would hide it.
    rng = np.random.default_rng(1)
    x, y = (rng.standard_normal((2000, 8)).astype(np.float32) for _ in "xy")
    values = [
        kernel_sums([fit_kernel(v.astype(dtype)) for v in (x, y)], [(0, 1)]).unbiased(0, 1)
        for dtype in ("float32", "float64")
    ]
    assert abs(values[1]) < 2e-5
    assert values[0] == pytest.approx(values[1], abs=2e-10)


def test_threads_change_nothing(pair):
    x, y = pair(1100, dtype="float32")
    kernels = [fit_kernel(x), fit_kernel(y)]
    one, three = (kernel_sums(kernels, [(0, 1)], threads=threads) for threads in (1, 3))
    assert one.unbiased(0, 1) == three.unbiased(0, 1)
    assert one.row_sums.tobytes() == three.row_sums.tobytes()


def test_cka_is_one_with_itself_and_none_for_constants(pair):
    x, y = pair(50)
    sums = kernel_sums([fit_kernel(x), fit_kernel(y), fit_kernel(np.ones((50, 2)))], [(0, 1), (0, 2)])
    for estimator in ("biased", "unbiased"):
        assert sums.cka(0, 0, estimator) == pytest.approx(1)
        assert 0 < sums.cka(0, 1, estimator) < 1
        assert sums.cka(0, 2, estimator) is None
    assert sums.biased(0, 2) == sums.unbiased(0, 2) == 0


@pytest.mark.parametrize("n", [8, 50])
def test_a_kernel_near_the_identity_keeps_its_digits(n, oracle):
    # Off the diagonal K is tiny; an offset near the diagonal's ones would cancel it away.
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, 5))
    y = x + 2 * rng.standard_normal((n, 5))
    sums = kernel_sums([fit_kernel(x, "gaussian", 0.7), fit_kernel(y, "gaussian", 0.7)], [(0, 1)])
    k, l_ = oracle.kernel(x, "gaussian", 0.7), oracle.kernel(y, "gaussian", 0.7)
    expected = oracle.unbiased(k, l_) / np.sqrt(oracle.unbiased(k, k) * oracle.unbiased(l_, l_))
    assert sums.cka(0, 1, "unbiased") == pytest.approx(expected, abs=1e-9)
