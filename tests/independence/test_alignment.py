import io

import numpy as np
import pytest

from ordtool.errors import OrdtoolError, UsageError
from ordtool.independence.alignment import cka, draw_matrix, plot_matrix, short_names, to_matrix
from ordtool.independence.hsic import HsicConfig, compare
from ordtool.plotting import check_plot


def rotation(dim, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, dim)))[0]


def test_linear_cka_ignores_rotation_shift_and_scale():
    x = np.random.default_rng(0).standard_normal((50, 6))
    for debiased in (False, True):
        assert cka(x, 3 * x @ rotation(6) + 7, debiased=debiased) == pytest.approx(1)


def test_biased_linear_cka_is_kornbliths_formula():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 5)), rng.standard_normal((40, 7))
    y[:, :5] += x
    a, b = x - x.mean(axis=0), y - y.mean(axis=0)
    norm = np.linalg.norm
    expected = norm(b.T @ a) ** 2 / (norm(a.T @ a) * norm(b.T @ b))
    assert cka(x, y, debiased=False) == pytest.approx(expected, rel=1e-12)


def test_debiased_cka_is_zero_on_average_where_the_biased_form_is_not():
    values = np.array(
        [
            [
                cka(*np.random.default_rng(seed).standard_normal((2, 32, 100)), debiased=d)
                for d in (False, True)
            ]
            for seed in range(60)
        ]
    )
    assert values[:, 0].mean() > 0.7
    assert abs(values[:, 1].mean()) < 4 * values[:, 1].std() / np.sqrt(60)


def test_small_batches_have_an_answer():
    x = np.random.default_rng(0).standard_normal((4, 3))
    assert cka(x, x) == pytest.approx(1)
    assert cka(x, np.ones((4, 2))) is None


def layers(count, seed=0):
    rng = np.random.default_rng(seed)
    x = [rng.standard_normal((40, 4))]
    for _ in range(count - 1):
        x.append(x[-1] + 0.5 * rng.standard_normal((40, 4)))
    return [(f"m/layer-{index:02d}.npy", rows) for index, rows in enumerate(x)]


def test_pairs_within_one_list_make_a_symmetric_matrix():
    variables = layers(3)
    matrix = to_matrix(compare(variables, [(0, 1), (0, 2), (1, 2)], HsicConfig(kernel="linear", test="none")))
    assert matrix.rows == matrix.columns == [name for name, _ in variables]
    assert np.array_equal(matrix.cells, matrix.cells.T)
    assert np.diag(matrix.cells).tolist() == [1, 1, 1]
    assert matrix.cells[0, 1] > matrix.cells[0, 2]


def test_left_against_right_makes_a_rectangle():
    variables = layers(5)
    pairs = [(i, j) for i in range(2) for j in range(2, 5)]
    matrix = to_matrix(compare(variables, pairs, HsicConfig(test="gamma")), "statistic")
    assert matrix.cells.shape == matrix.p_values.shape == (2, 3)
    assert np.isfinite(matrix.cells).all()


def test_short_names():
    assert short_names(["a/layer-00.npy", "a/layer-01.npy", "a/layer-11.npy"]) == (
        "a/layer",
        ["0", "1", "11"],
    )
    assert short_names(["a/x.npy", "b/x.npy"]) == ("", ["a/x", "b/x"])
    assert short_names(["/home/me/a/x.npy", "/home/me/b/x.npy"]) == ("/home/me", ["a/x", "b/x"])
    assert short_names(["x.npy", "/tmp/x.npy"]) == ("", ["x", "/tmp/x"])
    assert short_names(["x.npy", "y.jsonl"]) == ("", ["x", "y.jsonl"])
    assert short_names(["x1.npy", "y2.npy"]) == ("", ["x1", "y2"])
    assert short_names(["a/x1.npy"]) == ("a", ["x1"])


@pytest.mark.parametrize("format", ["png", "svg", "pdf"])
def test_plots_are_written_and_the_same_twice(format):
    pytest.importorskip("matplotlib")
    variables = layers(3)
    matrix = to_matrix(compare(variables, [(0, 1), (0, 2), (1, 2)], HsicConfig(test="none")))
    files = []
    for _ in range(2):
        file = io.BytesIO()
        plot_matrix(matrix, file, format, title="three layers")
        files.append(file.getvalue())
    assert files[0] == files[1]
    assert files[0].startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[format])


def test_a_plot_shows_every_layer_and_value():
    pytest.importorskip("matplotlib")
    variables = layers(3)
    matrix = to_matrix(compare(variables, [(0, 1), (0, 2), (1, 2)], HsicConfig(test="none")))
    figure = draw_matrix(matrix, subtitle="three")
    axes = figure.axes[0]
    assert figure.get_suptitle() == "CKA of m/layer"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "1", "2"]
    assert len(axes.texts) == 9
    assert axes.get_title() == "three"


def test_long_names_are_shortened_and_columns_numbered():
    pytest.importorskip("matplotlib")
    rng = np.random.default_rng(0)
    names = [f"{middle}-{'x' * 30}-of-sentences.npy" for middle in ("minilm", "e5", "static")]
    variables = [(name, rng.standard_normal((20, 2))) for name in names]
    matrix = to_matrix(compare(variables, [(0, 1), (0, 2), (1, 2)], HsicConfig(test="none")))
    figure = draw_matrix(matrix)
    axes = figure.axes[0]
    assert figure.get_suptitle() == "CKA of 3 sets of vectors"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "3"]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[1].startswith("e5-") and labels[1].endswith("-sentences  2") and "\u2026" in labels[1]
    assert len(set(labels)) == 3 and max(map(len, labels)) < 30
    pair = draw_matrix(to_matrix(compare(variables[:2], [(0, 1)], HsicConfig(test="none")), "statistic"))
    assert pair.get_suptitle().startswith("HSIC of minilm-") and " and e5-" in pair.get_suptitle()


def test_nothing_to_plot():
    ones = [("a", np.ones((9, 2))), ("b", np.arange(18.0).reshape(9, 2))]
    matrix = to_matrix(compare(ones, [(0, 1)], HsicConfig()), "cka")
    assert matrix.cells.shape == (1, 1)
    with pytest.raises(OrdtoolError, match="nothing to plot"):
        plot_matrix(matrix, io.BytesIO())


def test_plot_names():
    with pytest.raises(UsageError, match=r"x\.gif"):
        check_plot("x.gif")
