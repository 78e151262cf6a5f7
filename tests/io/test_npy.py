import io
import pickle
import sys

import numpy as np
import pytest

from ordtool.errors import OrdtoolError
from ordtool.io.npy import NpyWriter, read_npy


def test_round_trip_is_mapped(tmp_path):
    array = np.random.default_rng(0).standard_normal((5, 3)).astype("float32")
    save(tmp_path / "a", array)
    back = read_npy(tmp_path / "a")
    assert isinstance(back, np.memmap)
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_streamed_rows_equal_one_array(tmp_path, known, dtype):
    array = (np.random.default_rng(1).standard_normal((1000, 7)) * 50).astype(dtype)
    with open(tmp_path / "a.npy", "w+b") as file:
        writer = NpyWriter(file, 7, dtype, rows=1000 if known else None)
        for start in range(0, 1000, 300):
            writer.write(array[start : start + 300])
        writer.close()
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), array)


def test_no_rows_and_three_dimensions(tmp_path):
    with open(tmp_path / "a.npy", "w+b") as file:
        NpyWriter(file, (2, 3)).close()
    assert np.load(tmp_path / "a.npy").shape == (0, 2, 3)


def test_broken_promises_are_noticed():
    writer = NpyWriter(io.BytesIO(), 2, rows=3)
    writer.write(np.zeros((2, 2), "float32"))
    with pytest.raises(ValueError, match="3 rows were promised and 2 written"):
        writer.close()


def save(path, array, **kwargs):
    with open(path, "wb") as file:
        np.save(file, array, **kwargs)


def bad_files(folder):
    good = np.zeros((100, 4), "float32")
    save(folder / "object.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    save(folder / "text.npy", np.array(["a", "b"]))
    save(folder / "flat.npy", np.zeros(4))
    save(folder / "good.npy", good)
    (folder / "cut.npy").write_bytes((folder / "good.npy").read_bytes()[:-100])
    (folder / "head.npy").write_bytes((folder / "good.npy").read_bytes()[:40])
    (folder / "empty.npy").write_bytes(b"")
    np.savez(folder / "zip.npz", good)
    (folder / "pickle.pkl").write_bytes(pickle.dumps(good))
    return {
        "object.npy": "holds Python objects",
        "text.npy": "real numbers are expected",
        "flat.npy": r"has shape \(4,\), and 2 dimension",
        "cut.npy": "truncated or damaged",
        "head.npy": "truncated or damaged",
        "empty.npy": "it is empty",
        "zip.npz": r"perhaps an \.npz",
        "pickle.pkl": "looks like a pickle",
        "missing.npy": "no such file",
    }


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("order", ["C", "F"])
def test_what_stands_behind_an_array_is_not_passed_over(tmp_path, mmap, order):
    """`cat a.npy b.npy` is a file whose first array numpy reads without a word."""
    save(tmp_path / "a.npy", np.ones((3, 4), order=order))
    one = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "two.npy").write_bytes(one + one)
    (tmp_path / "tail.npy").write_bytes(one + b"\0" * 5)
    assert read_npy(tmp_path / "a.npy", mmap=mmap).shape == (3, 4)
    with pytest.raises(
        OrdtoolError, match=r"another array stands behind the array of shape \(3, 4\)"
    ) as told:
        read_npy(tmp_path / "two.npy", mmap=mmap)
    assert "numpy.concatenate" in told.value.hint
    with pytest.raises(OrdtoolError, match="5 bytes stand behind the array"):
        read_npy(tmp_path / "tail.npy", mmap=mmap)
    save(tmp_path / "none.npy", np.ones((0, 4)))
    assert read_npy(tmp_path / "none.npy", mmap=mmap).shape == (0, 4)


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (100, 4",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999, 4)}",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4)}",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': 'ab'}",
        b"{'descr': 7, 'fortran_order': False, 'shape': (1, 4)}",
        b"{'descr': '<f4'}",
        b"[",
        b"\xff\xfe",
        b"(" * 3000,
    ],
)
def test_a_damaged_header_is_one_line(tmp_path, mmap, header):
    text = header.ljust(118) + b"\n"
    (tmp_path / "x.npy").write_bytes(
        b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + b"\0" * 1600
    )
    with pytest.raises(OrdtoolError, match="truncated or damaged NPY file"):
        read_npy(tmp_path / "x.npy", mmap=mmap)


@pytest.mark.parametrize("mmap", [True, False])
def test_bad_files_say_what_they_are(tmp_path, mmap):
    for name, message in bad_files(tmp_path).items():
        with pytest.raises(OrdtoolError, match=message):
            read_npy(tmp_path / name, mmap=mmap)


def test_stdin_is_spooled_and_mapped(tmp_path, monkeypatch):
    array = np.arange(12, dtype="float64").reshape(4, 3)
    buffer = io.BytesIO()
    np.save(buffer, array)
    buffer.seek(0)
    pipe = type("Pipe", (), {"buffer": buffer, "isatty": lambda self: False})()
    monkeypatch.setattr(sys, "stdin", pipe)
    back = read_npy("-")
    assert isinstance(back, np.memmap)
    np.testing.assert_array_equal(back, array)
