"""The one reader of CSV and TSV, and that every reader of tables passes over blank rows."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ordtool.embedding.pairs import read_pairs as read_similarity_pairs
from ordtool.errors import OrdtoolError
from ordtool.io.inputs import open_input
from ordtool.io.tables import find_columns, separator_of, table_rows
from ordtool.seq2seq.data import read_pairs
from ordtool.tuning.data import Fields, read_examples, read_table


@pytest.mark.parametrize(
    ("name", "separator"),
    [("a.csv", ","), ("a.CSV.gz", ","), ("a.tsv", "\t"), ("a.b.tab", "\t"), ("a.csv.txt", None), ("csv", None), ("a", None)],
)  # fmt: skip
def test_names_say_what_separates(name, separator):
    assert separator_of(name) == separator


def test_a_quoted_cell_may_go_on_in_the_next_line():
    lines = ["a,b", '"one', 'two","say ""x"""', "", " , ", "c,d"]
    rows = list(table_rows(lines, ",", "t"))
    assert rows == [(1, ["a", "b"]), (2, ["one\ntwo", 'say "x"']), (6, ["c", "d"])]


def test_a_tsv_has_no_quotes():
    assert list(table_rows(['"a\tb"', "", "c"], "\t", "t")) == [(1, ['"a', 'b"']), (3, ["c"])]


@pytest.mark.parametrize("bad", ['"open,1', '"a"b,1'])
def test_wrong_quotes_name_their_line(bad):
    with pytest.raises(OrdtoolError, match="t:2: malformed CSV"):
        list(table_rows(["a,b", bad, "c,d"], ",", "t"))


CELL = st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.just("\n"), max_size=8)


@given(st.lists(st.lists(CELL, min_size=2, max_size=3), max_size=5))
def test_what_python_writes_is_read(rows):
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    found = [cells for _, cells in table_rows(file.getvalue().removesuffix("\n").split("\n"), ",", "t")]
    assert found == [row for row in rows if any(cell.strip() for cell in row)]


@pytest.mark.parametrize("separator", [",", "\t"])
def test_blank_rows_are_passed_over_by_every_reader(separator, tmp_path):
    def write(*rows):
        path = tmp_path / ("a.csv" if separator == "," else "a.tsv")
        path.write_text(
            "\n".join(["", separator.join(rows[0]), "", separator, *map(separator.join, rows[1:]), "", ""])
        )
        return path

    path = write(["text", "label"], ["one", "x"], ["two", "y"])
    fields = Fields()
    assert [(e.text, e.where) for e in read_examples([path], fields)] == [
        ("one", f"{path}:5"),
        ("two", f"{path}:6"),
    ]
    bad: list[OrdtoolError] = []
    with open_input(path) as stream:
        assert [row.text for row in read_table(stream, fields, bad.append)] == ["one", "two"]
    assert not bad
    path = write(["source", "target"], ["one", "x"], ["two", "y"])
    assert [pair.target for pair in read_pairs(path)] == ["x", "y"]
    path = write(["sentence1", "sentence2", "score"], ["one", "x", "1"], ["two", "y", "2"])
    assert [pair.score for pair in read_similarity_pairs(path)] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("row", "names", "wanted"),
    [
        (["text", "label"], ["text", "label"], ([0, 1], True)),
        (["Label", "id", "TEXT"], ["text", "label"], ([2, 0], True)),
        (["Text", "text"], ["text"], ([1], True)),
        (["a fine film", "pos"], ["text", "label"], ([0, 1], False)),
        (["review", "pos"], ["text", "label"], ([0, 1], False)),
        (["text", "label"], ["1", "2"], ([0, 1], False)),
    ],
)
def test_where_columns_are(row, names, wanted):
    assert find_columns(row, names, "a.csv:1") == wanted


@pytest.mark.parametrize(
    ("row", "names"),
    [
        (["review", "rating"], ["text", "label"]),
        (["Text", "sentiment"], ["text", "label"]),
        (["sentence"], ["text"]),
    ],
)
def test_a_head_without_the_columns_is_no_record(row, names):
    with pytest.raises(OrdtoolError, match="a.csv:1: no column") as caught:
        find_columns(row, names, "a.csv:1")
    assert "--field 1" in caught.value.hint


@pytest.mark.parametrize("name", ["a.tsv", "a.csv"])
def test_a_head_is_no_pair(name, tmp_path):
    separator = separator_of(name)
    path = tmp_path / name
    path.write_text(f"Source{separator}Target\na cat{separator}A CAT\n")
    assert [(pair.source, pair.target) for pair in read_pairs(path, "source", "target")] == [
        ("a cat", "A CAT")
    ]
    path.write_text(f"question{separator}answer\na cat{separator}A CAT\n")
    with pytest.raises(OrdtoolError, match="no field 'source'"):
        list(read_pairs(path, "source", "target"))
