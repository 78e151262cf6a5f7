"""Whitening against its definition, float64 SVD, scipy's roots and scikit-learn."""

import inspect
import warnings

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from ordtool.embedding.statistics import DataError, accumulate
from ordtool.embedding.whitening import ParameterError, Whitening, WhiteningWarning
from ordtool.embedding.whitening_solver import default_removal

ROWS, DIM = 3000, 13


def correlated(rows: int = ROWS, dim: int = DIM, *, mean: float = 2.0, seed: int = 0, dtype: str = "float64"):
    rng = np.random.default_rng(seed)
    basis = rng.standard_normal((dim, dim)) * np.geomspace(1, 0.1, dim)
    return (rng.standard_normal((rows, dim)) @ basis + mean * rng.standard_normal(dim)).astype(dtype)


def covariance(array: np.ndarray) -> np.ndarray:
    return np.cov(array.astype(np.float64).T)


# ---------------------------------------------------------------- the four methods


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("method", ["pca", "zca", "cholesky"])
def test_the_covariance_becomes_the_identity(method, dtype):
    array = correlated(dtype=dtype)
    white = Whitening(method=method).fit_transform(array)
    assert white.dtype == ("float64" if dtype == "float64" else "float32")
    tolerance = 1e-10 if dtype == "float64" else 2e-6
    np.testing.assert_allclose(covariance(white), np.eye(DIM), atol=tolerance)
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=tolerance)


def test_pca_is_the_float64_svd():
    array = correlated()
    left, _, _ = np.linalg.svd(array - array.mean(axis=0), full_matrices=False)
    expected = left * np.sqrt(ROWS - 1)
    white = Whitening().fit_transform(array)
    signs = np.sign((expected * white).sum(axis=0))
    np.testing.assert_allclose(white, expected * signs, atol=1e-9)


def test_pca_is_scikit_learns():
    decomposition = pytest.importorskip("sklearn.decomposition")
    array = correlated()
    peer = decomposition.PCA(n_components=5, whiten=True, svd_solver="full").fit(array)
    ours = Whitening(dims=5).fit(array)
    np.testing.assert_allclose(ours.eigenvalues_[:5], peer.explained_variance_, rtol=1e-10)
    expected = peer.transform(array)
    white = ours.transform(array)
    np.testing.assert_allclose(white, expected * np.sign((expected * white).sum(axis=0)), atol=1e-9)


def test_zca_is_the_inverse_square_root():
    whitening = Whitening(method="zca").fit(correlated())
    expected = np.linalg.inv(scipy.linalg.sqrtm(covariance(correlated())).real)
    np.testing.assert_allclose(whitening.kernel_, expected, rtol=1e-8, atol=1e-10)


def test_cholesky_is_triangular_and_factors_the_precision():
    kernel = Whitening(method="cholesky").fit(correlated()).kernel_
    assert (np.triu(kernel, 1) == 0).all()
    assert (np.diagonal(kernel) > 0).all()
    np.testing.assert_allclose(
        kernel @ kernel.T, np.linalg.inv(covariance(correlated())), rtol=1e-8, atol=1e-10
    )


def test_all_but_the_top_takes_out_directions_one_by_one():
    array = correlated()
    rest = array - array.mean(axis=0)
    for _ in range(3):  # deflation: the strongest direction of what is left
        _, _, directions = np.linalg.svd(rest, full_matrices=False)
        rest = rest - np.outer(rest @ directions[0], directions[0])
    np.testing.assert_allclose(Whitening(method="abtt", remove=3).fit_transform(array), rest, atol=1e-8)


def test_all_but_the_top_removes_a_hundredth_by_default():
    assert [default_removal(dim) for dim in (13, 150, 384, 1024)] == [1, 1, 3, 10]
    assert Whitening(method="abtt").fit(correlated()).kernel_.trace() == pytest.approx(DIM - 1)


# ---------------------------------------------------------------- beta, gamma, dims, normalize


@pytest.mark.parametrize("method", ["pca", "zca", "cholesky"])
@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_gamma_leaves_the_spectrum_to_the_power_of_what_is_left(method, gamma):
    array = correlated()
    soft = Whitening(gamma=gamma, method=method).fit_transform(array)
    values = np.sort(np.linalg.eigvalsh(covariance(array)))
    if method == "cholesky":  # L^T Sigma L and Sigma L L^T have the same eigenvalues
        kernel = Whitening(gamma=gamma, method=method).fit(array).kernel_
        power = scipy.linalg.fractional_matrix_power(covariance(array), -gamma).real
        np.testing.assert_allclose(kernel @ kernel.T, power, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(np.linalg.eigvalsh(covariance(soft)), values ** (1 - gamma), rtol=1e-8)


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_beta_is_the_share_of_the_mean_that_goes(beta):
    array = correlated()
    whitening = Whitening(beta=beta).fit(array)
    expected = (1 - beta) * array.mean(axis=0) @ whitening.kernel_
    np.testing.assert_allclose(whitening.transform(array).mean(axis=0), expected, atol=1e-9)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_sigma_of_beta_is_the_articles(beta, gamma):
    """Against the sum over rows and its eigen-decomposition, row by row in float64 (Su 2022, kexue.fm/9079)."""
    array = correlated(400)
    mean = array.mean(axis=0)
    sigma = sum(np.outer(row - beta * mean, row - beta * mean) for row in array) / (len(array) - 1)
    values, directions = np.linalg.eigh(sigma)
    values, directions = values[::-1][:4], directions[:, ::-1][:, :4]
    expected = (array - beta * mean) @ directions * values ** (-gamma / 2)
    whitening = Whitening(dims=4, beta=beta, gamma=gamma).fit(array)
    found = whitening.transform(array)
    np.testing.assert_allclose(
        found, expected * np.sign((expected * found).sum(axis=0)), rtol=1e-9, atol=1e-9
    )
    np.testing.assert_allclose(whitening.eigenvalues_[:4], values, rtol=1e-10)


def test_the_centred_form_leaves_the_mean_out():
    array = correlated(400)
    values, directions = np.linalg.eigh(covariance(array))
    expected = (array - 0.5 * array.mean(axis=0)) @ directions[:, :-4:-1]
    found = Whitening(dims=3, beta=0.5, gamma=0, covariance="centred").fit_transform(array)
    np.testing.assert_allclose(found, expected * np.sign((expected * found).sum(axis=0)), atol=1e-9)


def test_of_all_projections_the_shifted_one_keeps_lengths_best():
    """What beta = gamma = 0 is for: no other 3 directions keep as much of the sum of squares."""
    array = correlated(400, mean=3)
    lengths = {
        form: np.square(Whitening(dims=3, beta=0, gamma=0, covariance=form).fit_transform(array)).sum()
        for form in ("shifted", "centred")
    }
    best = np.square(np.linalg.svd(array, compute_uv=False)[:3]).sum()
    assert lengths["shifted"] == pytest.approx(best, rel=1e-12)
    assert lengths["centred"] < 0.999 * best


def test_beta_and_gamma_of_zero_only_rotate():
    array = correlated()
    turned = Whitening(beta=0, gamma=0).fit_transform(array)
    np.testing.assert_allclose(turned @ turned.T, array @ array.T, atol=1e-8)


def test_dims_are_the_first_columns():
    array = correlated()
    np.testing.assert_allclose(
        Whitening(dims=4).fit_transform(array), Whitening().fit_transform(array)[:, :4], atol=1e-12
    )


def test_normalized_rows_have_length_one_and_zeros_stay():
    array = np.vstack([correlated(), np.zeros(DIM)])
    whitening = Whitening(normalize=True, beta=0.0).fit(array)
    lengths = np.linalg.norm(whitening.transform(array), axis=1)
    np.testing.assert_allclose(lengths[:-1], 1, rtol=1e-12)
    assert lengths[-1] == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 1), st.floats(0, 1), st.sampled_from(["pca", "zca"]))
def test_turning_the_input_leaves_cosines_alone(seed, beta, gamma, method):
    """Whitening knows no coordinates: of rotated vectors it gives the same similarities."""
    array = correlated(200, 6, seed=seed)
    rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((6, 6)))[0]
    one = Whitening(beta=beta, gamma=gamma, method=method).fit_transform(array)
    two = Whitening(beta=beta, gamma=gamma, method=method).fit_transform(array @ rotation)
    np.testing.assert_allclose(one @ one.T, two @ two.T, atol=1e-6 * np.abs(one @ one.T).max())


# ---------------------------------------------------------------- few rows, dead directions


def dead_gains(rows: int = 2000) -> np.ndarray:
    """What a LayerNorm with dead gains and a unit-length output leave: rank 10 of 13, along no axis."""
    array = correlated(rows, 16, mean=0.3)[:, :DIM].copy()
    array[:, [2, 7, 11]] = (0.5, -0.25, 0.125)
    return (array / np.linalg.norm(array, axis=1, keepdims=True)).astype(np.float32)


def test_the_rank_trap():
    """Three columns are multiples of each other: two directions carry rounding alone and must not be scaled up."""
    with pytest.warns(WhiteningWarning, match="rank is 11 of 13"):
        whitening = Whitening().fit(dead_gains())
    assert whitening.rank_ == 11
    white = whitening.transform(dead_gains())
    assert white.shape == (2000, 11)
    np.testing.assert_allclose(covariance(white), np.eye(11), atol=1e-4)


def test_zca_projects_dead_directions_out():
    with pytest.warns(WhiteningWarning, match="rank is 11 of 13"):
        white = Whitening(method="zca").fit_transform(dead_gains())
    values = np.linalg.eigvalsh(covariance(white))
    np.testing.assert_allclose(values, [0, 0, *[1] * 11], atol=1e-4)


def test_cholesky_says_that_it_cannot():
    with pytest.raises(DataError, match="rank 11 of 13") as caught:
        Whitening(method="cholesky").fit(dead_gains())
    assert "`shrinkage`" in caught.value.hint
    Whitening(method="cholesky", shrinkage=0.1).fit(dead_gains())


def test_dims_that_fit_within_the_rank_need_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Whitening(dims=8).fit_transform(dead_gains()).shape[1] == 8
    with pytest.warns(WhiteningWarning, match="12 columns were asked for and 11"):
        assert Whitening(dims=12).fit_transform(dead_gains()).shape[1] == 11


def test_constant_columns_are_counted():
    array = correlated(mean=1000).astype(np.float32)
    array[:, [3, 5]] = (0.1, 1e6)
    with pytest.warns(WhiteningWarning, match=r"rank is 11 of 13 \(2 of the columns are constant\)"):
        white = Whitening().fit_transform(array)
    np.testing.assert_allclose(covariance(white), np.eye(11), atol=1e-3)


def test_fewer_rows_than_columns():
    array = correlated(8, 30)
    with pytest.warns(WhiteningWarning, match="8 rows for 30 columns: the covariance has rank 7"):
        assert Whitening().fit_transform(array).shape == (8, 7)
    for options in ({"shrinkage": 0.3}, {"shrinkage": "oas"}, {"ridge": 0.1}, {"dims": 3}, {"gamma": 0.0}):
        with warnings.catch_warnings():
            warnings.simplefilter("error", WhiteningWarning)
            if options == {"gamma": 0.0}:
                warnings.filterwarnings("ignore", message="the rank is")
            Whitening(**options).fit(array)


def test_about_as_many_rows_as_columns_is_the_worst_of_all_and_said():
    with pytest.warns(WhiteningWarning, match="33 rows for 30 columns: the covariance has rank 30"):
        Whitening().fit(correlated(33, 30))
    with warnings.catch_warnings():
        warnings.simplefilter("error", WhiteningWarning)
        Whitening().fit(correlated(60, 30))


def test_shrinkage_and_ridge_whiten_the_covariance_they_make():
    array = correlated(40, 20)
    sigma = covariance(array)
    for options, target in (
        ({"shrinkage": 0.3}, 0.7 * sigma + 0.3 * np.trace(sigma) / 20 * np.eye(20)),
        ({"ridge": 0.7}, sigma + 0.7 * np.eye(20)),
        (
            {"shrinkage": 0.5, "ridge": 0.1},
            0.5 * sigma + 0.5 * np.trace(sigma) / 20 * np.eye(20) + 0.1 * np.eye(20),
        ),
    ):
        for method in ("pca", "zca", "cholesky"):
            kernel = Whitening(method=method, **options).fit(array).kernel_
            np.testing.assert_allclose(kernel.T @ target @ kernel, np.eye(20), atol=1e-9)


@pytest.mark.parametrize("rows", [5, 40, 3000])
def test_oas_is_its_formula_in_traces(rows):
    sigma, dim = covariance(correlated(rows, 20)), 20
    square = np.trace(sigma @ sigma)
    expected = ((1 - 2 / dim) * square + np.trace(sigma) ** 2) / (
        (rows + 1 - 2 / dim) * (square - np.trace(sigma) ** 2 / dim)
    )
    assert Whitening(shrinkage="oas").fit(correlated(rows, 20)).shrinkage_ == pytest.approx(min(1, expected))


def test_oas_is_scikit_learns_in_many_dimensions():
    """scikit-learn leaves out the terms in 2 / dim."""
    peer = pytest.importorskip("sklearn.covariance")
    array = correlated(60, 300)
    assert Whitening(shrinkage="oas").fit(array).shrinkage_ == pytest.approx(
        peer.OAS().fit(array).shrinkage_, rel=0.01
    )


# ---------------------------------------------------------------- streams, statistics, determinism


def test_parts_are_the_whole(tmp_path):
    array = correlated(10_000, dtype="float32")
    np.save(tmp_path / "x.npy", array)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    whole = Whitening().fit(mapped)
    assert whole.fitted_on_ == "x.npy (10,000 rows)"
    parts = Whitening()
    for part in np.array_split(array, 7):
        parts.partial_fit(part)
    assert parts.n_samples_seen_ == 10_000
    np.testing.assert_allclose(parts.transform(array), whole.transform(mapped), atol=2e-5)


def test_other_options_from_the_same_statistics():
    array = correlated()
    fitted = Whitening(shrinkage=0.2).fit(array)
    other = fitted.with_options(beta=0, gamma=0, dims=4)
    np.testing.assert_array_equal(
        other.transform(array), Whitening(4, beta=0, gamma=0, shrinkage=0.2).fit_transform(array)
    )
    assert fitted.dims is None


def test_signs_do_not_depend_on_the_order_of_rows():
    array = correlated()
    one, two = Whitening().fit(array), Whitening().fit(array[::-1])
    np.testing.assert_allclose(one.kernel_, two.kernel_, rtol=1e-6, atol=1e-9)


def test_bad_rows_add_nothing_to_what_was_seen():
    """A part is added whole or not at all, however far into it the bad row is."""
    array, part = correlated(), correlated(10_000)
    whitening = Whitening().partial_fit(array)
    before = whitening.transform(array)
    part[-1, 0] = np.nan
    with pytest.raises(DataError, match="NaN"):
        whitening.partial_fit(part)
    assert whitening.moments_.count == whitening.n_samples_seen_ == len(array)
    np.testing.assert_array_equal(Whitening.from_moments(whitening.moments_).transform(array), before)


def test_one_with_other_options_stays_as_it_is_when_the_first_sees_more():
    array = correlated()
    first = Whitening().fit(array)
    second = first.with_options(dims=2)
    first.partial_fit(3 * array + 5)
    assert second.moments_.count == second.n_samples_seen_ == len(array)
    np.testing.assert_array_equal(
        Whitening.from_moments(second.moments_, dims=2).transform(array), second.transform(array)
    )


def test_fit_forgets_and_partial_fit_does_not():
    array = correlated()
    whitening = Whitening().fit(array * 3 + 1).fit(array)
    np.testing.assert_array_equal(whitening.kernel_, Whitening().fit(array).kernel_)
    assert whitening.partial_fit(array).n_samples_seen_ == 2 * ROWS


def test_float32_keeps_what_a_large_mean_hides():
    array = correlated(mean=1000).astype(np.float32)
    exact = Whitening().fit_transform(array.astype(np.float64))
    np.testing.assert_allclose(Whitening().fit_transform(array), exact, atol=5e-5)


def test_a_map_that_stretches_a_lot_is_applied_in_float64():
    array = correlated(20_000, 8)
    array[:, 0] = array[:, 1] + 1e-4 * array[:, 0]
    array = array.astype(np.float32)
    whitening = Whitening().fit(array)
    assert whitening.solve().condition > 1e3
    np.testing.assert_allclose(covariance(whitening.transform(array)), np.eye(8), atol=1e-6)


# ---------------------------------------------------------------- and back


@pytest.mark.parametrize(
    "options", [{}, {"method": "zca", "beta": 0.5}, {"method": "cholesky", "gamma": 0.5}], ids=str
)
def test_the_map_of_all_directions_is_undone(options):
    array = correlated()
    whitening = Whitening(**options).fit(array)
    np.testing.assert_allclose(whitening.inverse_transform(whitening.transform(array)), array, atol=1e-9)
    single = whitening.inverse_transform(whitening.transform(array.astype("float32")))
    assert single.dtype == "float32"
    np.testing.assert_allclose(single, array, atol=1e-4)


def test_fewer_directions_give_the_principal_components():
    decomposition = pytest.importorskip("sklearn.decomposition")
    array = correlated()
    theirs = decomposition.PCA(4).fit(array)
    expected = theirs.inverse_transform(theirs.transform(array))
    for beta in (1.0, 0.3):  # what was left out is the mean's, however much of the mean was subtracted
        whitening = Whitening(dims=4, beta=beta, covariance="centred").fit(array)
        np.testing.assert_allclose(
            whitening.inverse_transform(whitening.transform(array)), expected, atol=1e-9
        )


def test_what_cannot_be_undone():
    array = correlated()
    with pytest.raises(ParameterError, match="length 1"):
        Whitening(normalize=True).fit(array).inverse_transform(array)
    with pytest.raises(DataError, match="13 columns, and transform gives 4"):
        Whitening(dims=4).fit(array).inverse_transform(array)


# ---------------------------------------------------------------- manners


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "zca"},
        {"method": "cholesky", "shrinkage": 0.1},
        {"method": "abtt"},
        {"dims": 2, "beta": 0, "gamma": 0},
        {"normalize": True, "shrinkage": "oas"},
    ],
    ids=str,
)
def test_scikit_learns_own_checks(options):
    checks = pytest.importorskip("sklearn.utils.estimator_checks")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = checks.check_estimator(Whitening(**options), on_fail=None, on_skip=None)
    assert len(results) > 30
    bad = {r["check_name"]: r["exception"] for r in results if r["status"] not in {"passed", "skipped"}}
    assert not bad
    assert [r["check_name"] for r in results if r["status"] == "skipped"] in ([], ["check_array_api_input"])


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_frame_comes_out_if_one_is_asked_for(library):
    frames = pytest.importorskip(library)
    array = correlated(rows=20)
    plain = Whitening(dims=2).fit_transform(array)
    whitening = Whitening(dims=2).set_output(transform=library)
    found = whitening.fit_transform(array)
    assert isinstance(found, frames.DataFrame) and list(found.columns) == ["whitening0", "whitening1"]
    np.testing.assert_array_equal(found.to_numpy(), plain)
    np.testing.assert_array_equal(
        whitening.set_output().set_output(transform="default").transform(array), plain
    )


def test_outputs_are_checked():
    with pytest.raises(ParameterError, match="panda"):
        Whitening().set_output(transform="panda")


def test_it_goes_into_a_pipeline():
    pipeline = pytest.importorskip("sklearn.pipeline")
    neighbors = pytest.importorskip("sklearn.neighbors")
    array = correlated()
    chain = pipeline.make_pipeline(Whitening(dims=3), neighbors.KNeighborsClassifier())
    assert chain.fit(array, array[:, 0] > 0).score(array, array[:, 0] > 0) > 0.7


def test_without_scikit_learn_nothing_of_it_is_imported():
    import subprocess
    import sys

    code = (
        "import sys, numpy as np\nfrom ordtool.embedding.whitening import Whitening\n"
        "try:\n    Whitening().transform(np.eye(2))\nexcept ValueError as error:\n    print(error)\n"
        "Whitening().fit(np.random.default_rng(0).standard_normal((20, 3)))\n"
        "assert not {'sklearn', 'torch', 'scipy'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "not fitted yet" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "pcaa"}, "unknown method 'pcaa'"),
        ({"dims": 0}, "`dims` must be an integer of 1 or more"),
        ({"dims": 2.5}, "`dims` must be an integer"),
        ({"beta": 1.5}, "`beta` must be from 0 to 1"),
        ({"gamma": -0.1}, "`gamma` must be from 0 to 1"),
        ({"gamma": float("nan")}, "`gamma` must be from 0 to 1"),
        ({"ridge": -1.0}, "`ridge` must be 0 or more"),
        ({"shrinkage": 1.1}, "`shrinkage` must be a number from 0 to 1"),
        ({"shrinkage": "ledoit"}, "`shrinkage` must be a number from 0 to 1, or 'oas'"),
        ({"method": "zca", "dims": 3}, "`dims` goes with `method` pca"),
        ({"remove": 3}, "`remove` goes with `method` abtt"),
    ],
    ids=str,
)
def test_options_without_meaning(options, message):
    with pytest.raises(ParameterError, match=message):
        Whitening(**options).fit(correlated())


def test_unknown_parameter_names_get_a_close_match():
    with pytest.raises(ParameterError, match="did you mean 'gamma'"):
        Whitening().set_params(gama=1)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((1, 4)), "n_samples = 1"),
        (np.ones((0, 4)), r"0 sample\(s\)"),
        (np.ones((4, 0)), r"0 feature\(s\)"),
        (np.ones((50, 4)), "all 50 rows are equal"),
        (np.full((50, 4), 0.1, dtype=np.float32), "all 50 rows are equal"),
        (np.arange(4.0), "Reshape your data"),
        (np.ones((3, 2), dtype=complex), "Complex"),
        (np.array([["a", "b"]]), "not a real dtype"),
    ],
    ids=lambda value: str(getattr(value, "shape", ""))[:20],
)
def test_data_that_cannot_be_whitened(array, message):
    with pytest.raises(DataError, match=message):
        Whitening().fit(array)


def test_the_wrong_width_says_what_was_fitted_on():
    whitening = Whitening().fit(correlated())
    with pytest.raises(DataError, match="X has 5 features, but Whitening is expecting 13") as caught:
        whitening.transform(np.ones((3, 5)))
    assert "3,000 rows" in caught.value.hint


def test_bad_rows_in_transform_are_named():
    whitening = Whitening().fit(correlated(dtype="float32"))
    array = correlated(9000, dtype="float32")
    array[7000, 3] = np.inf
    with pytest.raises(DataError, match="row 7000 "):
        whitening.transform(array)


def test_repr_names_what_was_asked_for():
    assert repr(Whitening(128, beta=0.0, method="pca")) == "Whitening(dims=128, beta=0.0)"


def test_moments_can_be_given():
    array = correlated()
    np.testing.assert_array_equal(
        Whitening.from_moments(accumulate(array), dims=3).kernel_, Whitening(3).fit(array).kernel_
    )


MIXED = np.array([3e5, 0.2, 1.0])


def mixed_units(rows: int = 500) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.standard_normal((rows, 3)) + 0.3 * rng.standard_normal((rows, 1))) * MIXED + 10 * MIXED


def test_a_cut_by_units_is_not_called_a_lack_of_variance():
    with pytest.warns(WhiteningWarning, match="do vary are cut; `standardize`") as told:
        whitening = Whitening(method="zca").fit(mixed_units())
    assert whitening.rank_ == 1
    note = str(told[0].message)
    assert "standard deviations from 0.2 to 3.1e+05" in note and "2 of 3 directions" in note
    notes = Whitening.from_moments(accumulate(mixed_units()), dims=2).notes_
    assert "2 columns were asked for and 1 directions are left" in notes[1]


@pytest.mark.parametrize("method", ["pca", "zca", "cholesky"])
def test_standardized_columns_are_whitened_whatever_their_units(method):
    array = mixed_units()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whitening = Whitening(method=method, standardize=True).fit(array)
    assert whitening.rank_ == 3
    np.testing.assert_allclose(np.cov(whitening.transform(array).T), np.eye(3), atol=1e-9)
    # The map is that of z-scores, so it doesn't depend on the units.
    scores = (array - array.mean(0)) / array.std(0, ddof=1)
    plain = Whitening(method=method).fit(scores)
    np.testing.assert_allclose(whitening.transform(array), plain.transform(scores), atol=1e-8)
    np.testing.assert_allclose(whitening.inverse_transform(whitening.transform(array)), array, rtol=1e-9)


def test_a_constant_column_is_left_out_of_standardized_ones():
    array = mixed_units()
    array = np.insert(array, 1, 7e9, axis=1)
    with pytest.warns(WhiteningWarning, match=r"rank is 3 of 4 \(1 of the columns are constant\)"):
        whitening = Whitening(standardize=True).fit(array)
    np.testing.assert_allclose(np.cov(whitening.transform(array).T), np.eye(3), atol=1e-9)


def test_dead_columns_are_not_other_units():
    """A model's last layer may leave nothing in a few columns but what rounding makes; they are no reason to standardize."""
    rng = np.random.default_rng(0)
    array = rng.standard_normal((400, 60)) * rng.uniform(0.03, 0.07, 60)
    array[:, [3, 40]] *= 1e-30
    array[:, 9] *= 1e-7
    with pytest.warns(WhiteningWarning) as caught:
        Whitening().fit(array)
    assert [str(each.message) for each in caught] == [
        "the rank is 57 of 60 (3 of the columns hardly vary): directions that don't vary are left out"
    ]
    with pytest.warns(WhiteningWarning, match="3 of the columns hardly vary .* makes noise as large"):
        Whitening(standardize=True).fit(array)
    units = np.where(np.arange(60) % 2, 1e-7, 1)  # many small ones are another unit
    with pytest.warns(WhiteningWarning, match="scales differ"):
        Whitening().fit(rng.standard_normal((400, 60)) * units)


def test_numbers_whose_squares_are_lost_are_not_called_equal():
    tiny = np.random.default_rng(0).standard_normal((50, 4)) * 1e-200
    with pytest.raises(DataError, match="squares of these numbers are too small") as caught:
        Whitening().fit(tiny)
    assert "multiply" in caught.value.hint
    with pytest.raises(DataError, match="all 50 rows are equal"):
        Whitening().fit(np.full((50, 4), 1e-200))
    with pytest.raises(DataError, match="all 50 rows are equal"):
        Whitening().fit(np.zeros((50, 4), np.uint8))


@pytest.mark.parametrize("scale", [1e-43, 1e-40, 1e-36, 1e-20, 1e20, 1e34])
def test_float32_of_any_size_is_whitened(scale):
    array = (np.random.default_rng(0).standard_normal((400, 4)) * scale).astype(np.float32)
    result = Whitening().fit_transform(array)
    assert result.dtype == np.float32
    np.testing.assert_allclose(np.cov(result.T.astype(np.float64)), np.eye(4), atol=1e-4)


def test_the_signature_names_the_options():
    parameters = inspect.signature(Whitening).parameters
    assert {name: parameter.default for name, parameter in parameters.items()} == Whitening().get_params()
    with pytest.raises(TypeError, match="unexpected keyword argument 'bta'"):
        Whitening(bta=1)
