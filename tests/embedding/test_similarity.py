"""Correlations against their definitions, and what the rows say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ordtool.embedding.similarity import (
    TRANSDUCTIVE,
    correlations,
    cosine_similarities,
    parse_setting,
    score_similarity,
)
from ordtool.embedding.similarity_job import SimilarityConfig, score_pairs
from ordtool.embedding.statistics import DataError
from ordtool.embedding.whitening import ParameterError, Whitening
from ordtool.errors import OrdtoolError, UsageError

PAIRS = 200


def sides(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs whose likeness is hidden under a large mean and one loud direction, as in an untuned model."""
    rng = np.random.default_rng(seed)
    meaning, other = rng.standard_normal((2, PAIRS, 20))
    gold = rng.uniform(0, 1, PAIRS)
    mixed = gold[:, None] * meaning + np.sqrt(1 - gold[:, None] ** 2) * other
    spread, mean = np.geomspace(30, 0.3, 20), rng.standard_normal(20) * 20
    return ((meaning * spread + mean).astype("f4"), (mixed * spread + mean).astype("f4"), 5 * gold)


def ranks(values: list[float]) -> list[float]:
    """Average ranks by counting: 1 + how many are smaller + half of how many others are equal."""
    return [1 + sum(b < a for b in values) + (sum(b == a for b in values) - 1) / 2 for a in values]


def pearson(a: list[float], b: list[float]) -> float:
    a, b = np.asarray(a) - np.mean(a), np.asarray(b) - np.mean(b)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=30))
def test_correlations_are_their_definitions(points):
    a, b = (list(map(float, side)) for side in zip(*points, strict=True))
    spearman, linear = correlations(np.array(a), np.array(b))
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert (spearman, linear) == (None, None)
        return
    assert spearman == pytest.approx(100 * pearson(ranks(a), ranks(b)), abs=1e-9)
    assert linear == pytest.approx(100 * pearson(a, b), abs=1e-9)


def test_one_pair_has_no_correlation():
    assert correlations(np.array([1.0]), np.array([2.0])) == (None, None)


def test_cosines_one_by_one():
    left, right, _ = sides()
    left[3] = 0
    expected = [
        0.0 if index == 3 else float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        for index, (a, b) in enumerate(zip(left.astype(float), right.astype(float), strict=True))
    ]
    np.testing.assert_allclose(cosine_similarities(left, right), expected, atol=1e-12)


def test_rows_and_what_they_were_fitted_on():
    left, right, gold = sides()
    rows = score_similarity(
        left, right, gold, settings={"dims=5": {"dims": 5}, "centred": {"gamma": 0.0}}, vectors="toy"
    )
    assert [(row.vectors, row.transform, row.pairs) for row in rows] == [
        ("toy", name, PAIRS) for name in ("raw", "whitened", "dims=5", "centred")
    ]
    assert [row.fitted_on for row in rows] == [None, *[TRANSDUCTIVE] * 3]
    assert rows[1].spearman > rows[0].spearman + 10, "whitening must bring out what the loud direction hides"


def test_the_whitened_row_is_su_et_al():
    """mu and Sigma over both sides, U Lambda^-1/2, cosines: written out."""
    left, right, gold = sides()
    both = np.vstack([left, right]).astype(np.float64)
    values, vectors = np.linalg.eigh(np.cov(both.T))
    kernel = vectors / np.sqrt(values)
    white = [(side - both.mean(axis=0)) @ kernel for side in (left, right)]
    expected = 100 * pearson(list(cosine_similarities(*white)), list(gold))
    row = score_similarity(left, right, gold)[1]
    assert row.pearson == pytest.approx(expected, abs=1e-4)


def test_a_fitted_transform_serves_the_settings():
    left, right, gold = sides()
    other = Whitening(dims=3).fit(np.vstack(sides(seed=1)[:2]))
    rows = score_similarity(
        left, right, gold, transform=other, transform_name="t.safetensors", settings={"beta=0": {"beta": 0.0}}
    )
    assert [row.transform for row in rows] == ["raw", "t.safetensors", "beta=0"]
    assert {row.fitted_on for row in rows[1:]} == {"400 rows"}
    wide = other.with_options(dims=None, beta=0.0)
    expected = correlations(cosine_similarities(wide.transform(left), wide.transform(right)), gold)[0]
    assert rows[2].spearman == expected, "a setting says all that isn't the default"


def test_sides_that_do_not_fit():
    left, right, gold = sides()
    with pytest.raises(DataError, match="a vector for each sentence"):
        score_similarity(left, right[:-1], gold)
    with pytest.raises(DataError, match="a vector for each sentence"):
        score_similarity(left, right, gold[:-1])
    right[17, 2] = np.nan
    with pytest.raises(DataError, match="row 17 "):
        score_similarity(left, right, gold)


def test_settings_are_read():
    assert parse_setting("beta=0, gamma=0.5,dims=128") == {"beta": 0.0, "gamma": 0.5, "dims": 128}
    assert parse_setting("method=zca,shrinkage=oas") == {"method": "zca", "shrinkage": "oas"}
    assert parse_setting("") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bete=0", "did you mean 'beta'"),
        ("beta", "beta has no value"),
        ("beta=", "beta has no value"),
        ("dims=x", "dims must be a number, found 'x'"),
        ("dims=2.5", "dims must be a number"),
        ("beta=2", "`beta` must be from 0 to 1"),
        ("method=pcaa", "did you mean 'pca'"),
    ],
)
def test_settings_without_meaning(text, message):
    with pytest.raises((UsageError, ParameterError)) as caught:
        parse_setting(text)
    assert message in str(caught.value)


# ---------------------------------------------------------------- files of vectors


@pytest.fixture
def folder(tmp_path):
    left, right, gold = sides()
    lines = [f"left {index},right {index},{score}\n" for index, score in enumerate(gold)]
    (tmp_path / "pairs.csv").write_text("".join(lines))
    np.save(tmp_path / "left.npy", left)
    np.save(tmp_path / "right.npy", right)
    np.save(tmp_path / "both.npy", np.stack([left, right], axis=1).reshape(2 * PAIRS, -1))
    return tmp_path


def scored(folder, *names, **options):
    vectors = tuple(str(folder / name) for name in names)
    return score_pairs(SimilarityConfig(str(folder / "pairs.csv"), vectors=vectors, **options))


def test_one_file_in_turn_or_two_files(folder):
    left, right, gold = sides()
    expected = score_similarity(left, right, gold)
    for names in (("both.npy",), ("left.npy", "right.npy")):
        rows = scored(folder, *names)
        assert [(row.transform, row.spearman, row.pearson) for row in rows] == [
            (row.transform, row.spearman, row.pearson) for row in expected
        ]
        assert rows[0].vectors == " + ".join(names)


def test_fitting_on_another_file(folder):
    np.save(folder / "train.npy", np.vstack(sides(seed=1)[:2]))
    whitened = scored(folder, "both.npy", fit_on=str(folder / "train.npy"))[1]
    assert whitened.fitted_on == "train.npy (400 rows)"
    Whitening().fit(np.load(folder / "train.npy")).save(folder / "t.safetensors")
    transformed = scored(folder, "both.npy", transform=folder / "t.safetensors")[1]
    assert transformed.transform == "t.safetensors"
    assert transformed.spearman == pytest.approx(whitened.spearman, abs=1e-9)


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (("left.npy",), {}, "left.npy: 200 rows, and 200 pairs need 400"),
        (("both.npy", "right.npy"), {}, "both.npy: 400 rows, and 200 pairs need 200"),
        (("left.npy", "right.npy", "both.npy"), {}, "`vectors` is given 3 times"),
        (("left.npy", "narrow.npy"), {}, "left.npy has 20 columns, "),
        (("both.npy",), {"on_error": "skip"}, "would shift the rows"),
        (("both.npy",), {"fit_on": "x.npy", "transform": "t"}, "contradict each other"),
        (("both.npy",), {"settings": ("dims=0",)}, "`dims` must be an integer of 1 or more"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_files_that_do_not_fit(folder, names, options, message):
    np.save(folder / "narrow.npy", np.ones((PAIRS, 7)))
    with pytest.raises(OrdtoolError) as caught:
        scored(folder, *names, **options)
    assert message in caught.value.message


def test_a_setting_may_standardize():
    assert parse_setting("standardize=1,gamma=0.5") == {"standardize": True, "gamma": 0.5}
    assert parse_setting("standardize=false") == {"standardize": False}
    with pytest.raises((UsageError, ParameterError), match="standardize"):
        parse_setting("standardize=2")
