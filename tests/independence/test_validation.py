import numpy as np
import pytest

from ordtool.errors import OrdtoolError
from ordtool.independence.validation import (
    check_aligned,
    check_rows,
    encode_labels,
    is_constant,
    one_hot,
    standardised,
)


def test_numbers_become_rows():
    assert check_rows(np.arange(5)).shape == (5, 1)
    assert check_rows(np.zeros((5, 2), dtype=np.int8)).dtype == np.float32
    assert check_rows(np.zeros((5, 2))).dtype == np.float64
    assert check_rows(np.zeros((5, 2)), dtype="float32").dtype == np.float32
    x = np.zeros((5, 2), dtype=np.float32)
    assert np.shares_memory(check_rows(x), x)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 2)), "v.npy: has 3 rows, and HSIC needs 4"),
        (np.zeros((0, 2)), "v.npy: has 0 rows"),
        (np.zeros((5, 0)), "shape"),
        (np.zeros((5, 2, 2)), "shape"),
        (np.zeros(5, dtype=complex), "real numbers"),
        (np.array([1, 2, np.nan, 4, 5.0]), "row 2 holds nan in column 0"),
        (np.array([[1, 2], [3, np.inf], [1, 1], [2, 2.0]]), "row 1 holds inf in column 1"),
    ],
)
def test_bad_rows_are_named(array, message):
    with pytest.raises(OrdtoolError, match=message.replace("(", r"\(")):
        check_rows(array, "v.npy")


def test_nan_far_down_is_found():
    x = np.zeros((9000, 2), dtype=np.float32)
    x[8123, 1] = np.nan
    with pytest.raises(OrdtoolError, match="row 8123"):
        check_rows(x)


def test_numbers_that_float32_does_not_hold():
    with pytest.raises(OrdtoolError, match="too large for float32"):
        check_rows(np.array([1e300, 1, 2, 3]), dtype="float32")


def test_lengths_name_both():
    with pytest.raises(OrdtoolError, match=r"a has 3 rows and b has 4"):
        check_aligned([np.zeros(3), np.zeros(4)], ["a", "b"])


def test_one_hot():
    assert one_hot(["b", "a", "b"]).tolist() == [[0, 1], [1, 0], [0, 1]]
    assert encode_labels([10, 9, 10, 9])[1] == ("9", "10")
    assert encode_labels([10, "9", "9"])[1] == ("10", "9")
    assert encode_labels([1 << 80, 3, 3])[1] == ("1208925819614629174706176", "3")
    assert one_hot(np.array([7, 3, 7])).tolist() == [[0, 1], [1, 0], [0, 1]]
    with pytest.raises(OrdtoolError, match="5 different labels in 5 rows"):
        one_hot(np.arange(5))


@pytest.mark.parametrize("scale", [1e-300, 1e-20, 1.0, 1e20, 1e300])
def test_standardised_keeps_proportions(scale):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 3)) * 2 + 5
    rows, unit = standardised(x * scale)
    expected = x - x.mean(axis=0)
    assert np.allclose(rows * (unit / scale), expected, atol=1e-12)
    assert np.isclose(np.square(rows).sum(axis=1).mean(), 1)


def test_constant_rows():
    x = np.full((9, 3), 0.1, dtype=np.float32)
    assert is_constant(x)
    assert standardised(x)[1] == 0
    x[8, 2] = 0.2
    assert not is_constant(x)
