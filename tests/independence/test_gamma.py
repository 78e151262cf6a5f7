import itertools

import numpy as np
import pytest

from ordtool.independence import gamma
from ordtool.independence.gamma import (
    NullMoments,
    UCentredMoments,
    biased_moments,
    pearson3_tail,
    u_centred,
    unbiased_moments,
)
from ordtool.independence.kernel_sums import kernel_sums
from ordtool.independence.kernels import fit_kernel


@pytest.mark.parametrize("n", [4, 5, 6, 7])
@pytest.mark.parametrize("names", [("gaussian", "laplacian"), ("linear", "gaussian")])
def test_moments_are_those_of_all_permutations(n, names, oracle, pair):
    x, y = pair(n, seed=n)
    kernels = [fit_kernel(x, names[0]), fit_kernel(y, names[1])]
    sums = kernel_sums(kernels, [(0, 1)])
    centred_moments = tuple(UCentredMoments.from_kernel(kernel) for kernel in kernels)
    k, l_ = (kernel.block(slice(0, n), slice(0, n)) for kernel in kernels)
    shuffled = [l_[np.ix_(p, p)] for p in itertools.permutations(range(n))]
    b = np.array([oracle.biased(k, m) for m in shuffled])
    u = np.array([oracle.unbiased(k, m) for m in shuffled])
    found_b, found_u = (
        biased_moments(sums, 0, 1, centred_moments),
        unbiased_moments(sums, 0, 1, centred_moments),
    )
    assert found_b.mean == pytest.approx(b.mean(), rel=1e-10)
    assert found_b.variance == pytest.approx(b.var(), rel=1e-10)
    assert found_u.mean == pytest.approx(u.mean(), abs=1e-14)
    assert found_u.variance == pytest.approx(u.var(), rel=1e-10)
    assert found_u.skewness == pytest.approx(((u - u.mean()) ** 3).mean() / u.std() ** 3, rel=1e-8)


def test_u_centring():
    matrix = np.random.default_rng(0).standard_normal((9, 9))
    centred = u_centred(matrix + matrix.T)
    assert np.allclose(centred.sum(axis=0), 0)
    assert np.allclose(np.diag(centred), 0)


def test_skewness_of_many_rows_is_taken_from_some(monkeypatch, pair):
    x, y = pair(900)
    kernels = [fit_kernel(x), fit_kernel(y)]
    exact = gamma.permutation_skewness(900, tuple(UCentredMoments.from_kernel(k) for k in kernels))
    monkeypatch.setattr(gamma, "SKEWNESS_ROWS", 300)
    assert gamma.permutation_skewness(
        900, tuple(UCentredMoments.from_kernel(k) for k in kernels)
    ) == pytest.approx(exact, rel=0.1)


@pytest.mark.parametrize("skewness", [-2.5, -0.3, 0.0, 1e-6, 0.01, 0.7, 3.0])
def test_tail_is_pearson_three(skewness):
    from scipy.stats import pearson3

    z = np.array([-3.0, -1.0, 0.0, 0.5, 2.0, 6.0])
    assert np.allclose(pearson3_tail(z, skewness), pearson3(skewness).sf(z), rtol=1e-6, atol=1e-12)


def test_impossible_chances_are_small_but_numbers():
    assert 0 < NullMoments(0, 1, 0.5).p_value(1e6) < 1e-300
    assert NullMoments(0, 0, 0).p_value(0.0) == 1
