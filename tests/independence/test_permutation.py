import numpy as np
import pytest

from ordtool.errors import OrdtoolError, UsageError
from ordtool.independence import cyclic, shuffles
from ordtool.independence.cyclic import coset_statistics, draw_cosets
from ordtool.independence.kernel_sums import kernel_sums
from ordtool.independence.kernels import PrecomputedKernel, fit_kernel
from ordtool.independence.permutation import NullSample, null_sample


def as_permutation(orders, rotation, n):
    """Row i of x meets row `result[i]` of y."""
    number, shift = divmod(int(rotation), n)
    meets = np.empty(n, dtype=int)
    meets[orders[0]] = np.roll(orders[number], -shift)
    return meets


def directly(oracle, kernels, meets, estimator):
    n = kernels[0].rows
    k, l_ = (kernel.block(slice(0, n), slice(0, n)).astype(np.float64) for kernel in kernels)
    return getattr(oracle, estimator)(k, l_[np.ix_(meets, meets)])


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
@pytest.mark.parametrize("names", [("gaussian", "laplacian"), ("linear", "cosine"), ("cosine", "gaussian")])
@pytest.mark.parametrize("n", [4, 5, 16, 37, 38])
def test_every_rotation_is_the_statistic_of_its_permutation(n, names, estimator, oracle, pair, monkeypatch):
    monkeypatch.setattr(cyclic, "_WIDTHS", (4, 4))
    monkeypatch.setattr(cyclic, "_ROWS", 7)
    x, y = pair(n)
    kernels = [fit_kernel(x, names[0]), fit_kernel(y, names[1])]
    sums = kernel_sums(kernels, [(0, 1)])
    count = 3 * n
    values = coset_statistics(sums, [(0, 1)], count, np.random.default_rng(7), estimator)
    orders, chosen = draw_cosets(n, count, np.random.default_rng(7))
    expected = [directly(oracle, kernels, as_permutation(orders, c, n), estimator) for c in chosen]
    assert values.shape == (1, 1 + count)
    assert np.allclose(values[0], expected, rtol=0, atol=1e-13 * max(1, np.abs(expected).max()))
    assert values[0, 0] == pytest.approx(sums.raw_estimate(0, 1, estimator), abs=1e-13)


def test_rotations_are_permutations_and_differ():
    n = 30
    orders, chosen = draw_cosets(n, 100, np.random.default_rng(0))
    meets = {tuple(as_permutation(orders, c, n)) for c in chosen}
    assert chosen[0] == 0
    assert len(meets) == 101
    assert tuple(range(n)) in meets
    assert all(sorted(m) == list(range(n)) for m in meets)


def test_the_set_looks_the_same_from_each_member():
    # What makes the test exact: seen from any member, the rotations of its order are again a group with the identity.
    n = 7
    orders, _ = draw_cosets(n, 3 * n - 1, np.random.default_rng(0))
    members = [as_permutation(orders, c, n) for c in range(3 * n)]
    for seen_from in members:
        back = np.argsort(seen_from)
        relative = {tuple(m[back]) for m in members}
        rotations = {r for r in relative if tuple(np.array(r)[np.array(r)]) in relative}
        assert tuple(range(n)) in rotations
        assert len(relative) == 3 * n
        assert len(rotations) >= n


@pytest.mark.parametrize("names", [("gaussian", "laplacian"), ("linear", "cosine")])
@pytest.mark.parametrize("n", [9, 80])
def test_shuffles_are_the_statistic_of_their_permutations(n, names, oracle, pair, monkeypatch):
    monkeypatch.setattr(shuffles, "_GATHER", 1 << 10)
    monkeypatch.setattr(shuffles, "_SMALL_ROWS", 40)
    x, y = pair(n)
    kernels = [fit_kernel(x, names[0]), fit_kernel(y, names[1])]
    sums = kernel_sums(kernels, [(0, 1)])
    values = shuffles.shuffle_statistics(sums, [(0, 1)], 6, np.random.default_rng(3), "unbiased")
    orders = [np.arange(n), *shuffles._shuffles(n, 6, np.random.default_rng(3))]
    expected = [directly(oracle, kernels, order, "unbiased") for order in orders]
    assert np.allclose(values[0], expected, rtol=0, atol=1e-13)


def test_float32_rotations_are_float64_ones(pair):
    x, y = pair(700, dtype="float32")
    samples = []
    for dtype in ("float32", "float64"):
        kernels = [fit_kernel(x.astype(dtype)), fit_kernel(y.astype(dtype))]
        samples.append(null_sample(kernel_sums(kernels, [(0, 1)]), [(0, 1)], permutations=600).values)
    spread = samples[1][0, 1:].std()
    assert np.abs(samples[0] - samples[1]).max() < 1e-4 * spread


@pytest.mark.parametrize("scheme", ["cyclic", "independent"])
def test_seed_and_threads(scheme, pair):
    x, y = pair(300, dtype="float32")
    kernels = [fit_kernel(x), fit_kernel(y)]
    sums = kernel_sums(kernels, [(0, 1)])

    def draw(seed, threads=None):
        return null_sample(
            sums, [(0, 1)], permutations=400, seed=seed, scheme=scheme, threads=threads
        ).values.tobytes()

    assert draw(1) == draw(1) == draw(1, threads=1) == draw(1, threads=3)
    assert draw(1) != draw(2)


def test_a_pair_has_the_same_p_value_beside_others(pair):
    x, y = pair(100)
    noise = np.random.default_rng(9).standard_normal((100, 2))
    kernels = [fit_kernel(v) for v in (x, y, noise)]
    pairs = [(0, 2), (1, 2), (0, 1)]
    together = null_sample(kernel_sums(kernels, pairs), pairs).p_values()
    for index, (a, b) in enumerate(pairs):
        two = [kernels[a], kernels[b]]
        assert null_sample(kernel_sums(two, [(0, 1)]), [(0, 1)]).p_values()[0] == together[index]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scheme", ["cyclic", "independent"])
def test_ties_count(scheme, dtype):
    # Two labels each: few different tables, so most permutations tie with others, and rounding must not decide.
    rng = np.random.default_rng(0)
    x, y = np.eye(2, dtype=dtype)[rng.integers(0, 2, (2, 40))]
    kernels = [fit_kernel(x), fit_kernel(y)]
    sample = null_sample(kernel_sums(kernels, [(0, 1)]), [(0, 1)], permutations=2000, scheme=scheme)
    rounded = sample.values[0].round(6)
    exact = (1 + (rounded[1:] >= rounded[0]).sum()) / 2001
    assert (rounded[1:] == rounded[0]).sum() > 50
    assert sample.p_values()[0] == exact


def test_p_value_counts_the_observed():
    values = np.array([[5.0, 1, 2, 3, 4], [0.0, 1, 2, 3, 0]])
    assert NullSample(values, 1e-10, "independent").p_values().tolist() == [0.2, 1.0]


def test_schemes_agree_on_the_distribution(pair):
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((150, 3)), rng.standard_normal((150, 2))
    kernels = [fit_kernel(x), fit_kernel(y)]
    sums = kernel_sums(kernels, [(0, 1)])
    quantiles = [
        np.quantile(
            null_sample(sums, [(0, 1)], permutations=3000, scheme=scheme).values[0, 1:],
            [0.1, 0.5, 0.9, 0.95],
        )
        for scheme in ("cyclic", "independent")
    ]
    spread = quantiles[1][2] - quantiles[1][0]
    assert np.abs(quantiles[0] - quantiles[1]).max() < 0.1 * spread


def test_impossible_requests(pair, monkeypatch):
    x, y = pair(20)
    kernels = [fit_kernel(x), fit_kernel(y)]
    sums = kernel_sums(kernels, [(0, 1)])
    with pytest.raises(UsageError, match="unknown scheme 'ciclic'"):
        null_sample(sums, [(0, 1)], scheme="ciclic")
    for count in (0, -3, 10**30):
        with pytest.raises(OrdtoolError, match="permutations are not possible"):
            null_sample(sums, [(0, 1)], permutations=count)
    monkeypatch.setattr(shuffles, "MAX_MATRIX_BYTES", 100)
    with pytest.raises(OrdtoolError, match="would hold matrices"):
        null_sample(sums, [(0, 1)], scheme="independent")


def test_precomputed_matrices_can_be_tested(oracle, pair):
    x, y = pair(70)
    plain = [fit_kernel(x), fit_kernel(y)]
    given = [PrecomputedKernel(k.block(slice(0, 70), slice(0, 70))) for k in plain]
    p_values = [null_sample(kernel_sums(k, [(0, 1)]), [(0, 1)]).p_values()[0] for k in (plain, given)]
    assert p_values[0] == p_values[1]
