"""Outputs of vectors: what is written in each format, and what is read back of it."""

import io
import json

import numpy as np
import pytest

from ordtool.embedding.outputs import FORMATS, to_precision, vector_bytes, vector_form
from ordtool.errors import OrdtoolError
from ordtool.io.text import Record
from ordtool.sharding.run import open_form

ROWS = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
RECORDS = [Record("a.txt", n, f'text "{n}",\r\nof two lines') for n in range(1, 8)]


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
@pytest.mark.parametrize("format", FORMATS)
def test_pieces_are_the_whole_and_come_back(tmp_path, format, precision):
    rows = to_precision(ROWS, precision)
    for name, cuts in (("whole", (0, 7)), ("pieces", (0, 2, 3, 7))):
        form, columns = vector_form(format, 3, precision), None
        with open(tmp_path / name, "w+b") as target, open_form(target, form, 7) as file:
            for start, stop in zip(cuts, cuts[1:], strict=False):
                part = RECORDS[start:stop], rows[start:stop]
                data, columns = vector_bytes(format, *part, precision, columns)
                file.write(data)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "pieces").read_bytes()
    texts, found = read(tmp_path / "whole", format)
    assert texts in ([], [record.text for record in RECORDS])
    exact = np.array(found, dtype=rows.dtype)
    np.testing.assert_allclose(exact, rows, rtol=1e-3 if precision == "float16" else 0, atol=0)


def read(path, format):
    import csv

    import pyarrow.feather
    import pyarrow.parquet

    if format == "npy":
        return [], np.load(path)
    if format == "csv":
        table = list(csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8"), newline="")))
        return [r["text"] for r in table], [[float(r[f"vector_{k}"]) for k in range(3)] for r in table]
    if format == "jsonl":
        table = list(map(json.loads, path.read_text().splitlines()))
    else:
        reader = pyarrow.parquet.read_table if format == "parquet" else pyarrow.feather.read_table
        table = reader(path).to_pylist()
    return [row["text"] for row in table], [row["vector"] for row in table]


def test_rows_that_are_lost_are_noticed(tmp_path):
    with open(tmp_path / "x", "w+b") as file:
        vector_form("npy", 3, "float32").begin(file, 0)
        with pytest.raises(OrdtoolError, match="7 vectors are not in it"):
            vector_form("npy", 3, "float32").begin(file, 7)


def test_int8_keeps_directions_and_zero_rows():
    narrow = to_precision(np.array([[3.0, -1.5], [0, 0]], np.float32), "int8")
    assert narrow.tolist() == [[127, -64], [0, 0]]
    with pytest.raises(OrdtoolError, match="beyond float16"):
        to_precision(np.float32([[1e5]]), "float16")
