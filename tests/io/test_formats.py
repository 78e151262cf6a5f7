import csv
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ordtool.errors import OrdtoolError, UsageError
from ordtool.io.formats import SUFFIXES, RowLines, csv_line, output_format

VECTORS = ("npy", "jsonl", "parquet")


@pytest.mark.parametrize(
    ("path", "expected"),
    {
        None: "npy",
        "-": "npy",
        "/dev/stdout": "npy",
        "out": "npy",
        "some.folder/out": "npy",
        "x.npy": "npy",
        "X.NPY": "npy",
        "a.b.jsonl": "jsonl",
        "x.ndjson": "jsonl",
        "x.parquet": "parquet",
    }.items(),
)
def test_a_name_says_the_format(path, expected):
    assert output_format(path, VECTORS) == expected


@pytest.mark.parametrize(
    "path", ["x.csv", "x.pt", "x.npz", "x.conllu", "x.html", "x.txt", "x.npy.gz", "x.safetensors"]
)
def test_no_format_is_written_under_the_name_of_another(path):
    with pytest.raises(UsageError, match=r"isn't written here.*\.npy, \.jsonl, .*\.parquet"):
        output_format(path, VECTORS)


def test_a_format_that_is_named_is_written_under_any_name():
    assert output_format("x.pt", VECTORS, "jsonl") == "jsonl"
    with pytest.raises(UsageError, match="did you mean 'parquet'"):
        output_format("x.npy", VECTORS, "parket")


def test_no_suffix_stands_for_two_formats():
    endings = [ending for group in SUFFIXES.values() for ending in group]
    assert len(endings) == len(set(endings))


cells = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers(), max_size=3)


@settings(max_examples=30)
@given(
    st.lists(
        st.fixed_dictionaries({"text": st.text(), "score": st.floats(allow_nan=False), "x": cells}),
        max_size=4,
    )
)
def test_tables_are_read_back_with_the_same_text_and_numbers(records):
    rows = RowLines("csv")
    table = "".join(line + "\r\n" for record in records for line in rows.lines(record))
    read = list(csv.DictReader(io.StringIO(table, newline="")))
    assert [row["text"] for row in read] == [record["text"] for record in records]
    if all(abs(record["score"]) != float("inf") for record in records):
        assert [float(row["score"]) for row in read] == [record["score"] for record in records]
    for row, record in zip(read, records, strict=True):
        value = record["x"]
        expected = value if isinstance(value, str) else "" if value is None else json.dumps(value)
        assert row["x"] == expected


def test_a_table_that_is_gone_on_with_keeps_its_columns():
    rows = RowLines("csv", ["b", "a,c"])
    assert list(rows.lines({"a,c": 1, "b": "é"})) == ["é,1"]
    assert list(rows.lines({"b": 2})) == ["2,"]


def test_a_key_without_a_column_is_an_error():
    rows = RowLines("csv")
    assert list(rows.lines({"a": 1})) == ["a", "1"]
    with pytest.raises(OrdtoolError, match=r"key 'b' is new.*-o out\.jsonl"):
        list(rows.lines({"a": 1, "b": 2}))


def test_json_has_null_and_a_table_nothing_for_what_is_no_number():
    assert csv_line([float("inf"), "null"]) == ",null"
    assert list(RowLines("jsonl").lines({"a": float("nan"), "b": "é"})) == ['{"a": null, "b": "é"}']
