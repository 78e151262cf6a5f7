"""The one reader of CSV and TSV, and that every reader of tables passes over blank rows."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ordtool.embedding.pairs import read_pairs as read_similarity_pairs
from ordtool.errors import OrdtoolError
from ordtool.io.inputs import open_input, separator_of
from ordtool.io.tables import find_columns, rows_of, table_rows
from ordtool.io.text import read_records
from ordtool.seq2seq.data import read_pairs
from ordtool.tuning.data import Fields, read_examples


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
        assert [row.values for row in rows_of(stream, ("text",), on_error=bad.append)] == [["one"], ["two"]]
    assert not bad
    assert [record.where for record in read_records(path)] == [f"{path}:5", f"{path}:6"]
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
    assert "counts the columns" in caught.value.hint


@pytest.mark.parametrize("name", ["a.tsv", "a.csv"])
def test_a_head_is_no_pair(name, tmp_path):
    separator = separator_of(name)
    path = tmp_path / name
    path.write_text(f"Source{separator}Target\na cat{separator}A CAT\n")
    assert [(pair.source, pair.target) for pair in read_pairs(path, "source", "target")] == [
        ("a cat", "A CAT")
    ]
    path.write_text(f"question{separator}answer\na cat{separator}A CAT\n")
    with pytest.raises(OrdtoolError, match="no column 'source'"):
        list(read_pairs(path, "source", "target"))


def rows(tmp_path, content, *names, name="a.jsonl", **options):
    path = tmp_path / name
    path.write_bytes(content)
    with open_input(path) as stream:
        return [
            (row.line, row.values, row.data, row.headless)
            for row in rows_of(stream, names, hint="so", **options)
        ]


def test_every_form_has_the_same_fields(tmp_path):
    """CSV, TSV and JSON lines, gzip or not; what wasn't asked for comes along."""
    import gzip

    found = rows(tmp_path, b'{"id": "7", "text": "a, b", "label": "x"}\n', "text", "label")
    assert found == [(1, ["a, b", "x"], {"id": "7", "text": "a, b", "label": "x"}, False)]
    csv_text, tsv_text = b'id,Text,label\n7,"a, b",x\n', b"\xef\xbb\xbfid\tText\tlabel\r\n7\ta, b\tx\r\n"
    for content, name in ((csv_text, "a.csv"), (tsv_text, "a.tsv"), (gzip.compress(csv_text), "a.csv.gz")):
        assert rows(tmp_path, content, "text", "label", name=name) == [
            (2, ["a, b", "x"], {"id": "7", "Text": "a, b", "label": "x"}, False)
        ]


def test_columns_without_a_head(tmp_path):
    content = b"one,x,8\ntwo,y,9\n"
    assert rows(tmp_path, content, "text", "label", name="a.csv") == [
        (1, ["one", "x"], {"text": "one", "label": "x", "3": "8"}, True),
        (2, ["two", "y"], {"text": "two", "label": "y", "3": "9"}, False),
    ]
    assert rows(tmp_path, content, "3", "1", name="a.csv")[1] == (
        2, ["9", "two"], {"1": "two", "2": "y", "3": "9"}, False,
    )  # fmt: skip
    assert rows(tmp_path, content, name="a.csv") == [(2, [], {"one": "two", "x": "y", "8": "9"}, False)]


def test_optional_fields_may_be_missing(tmp_path):
    objects = b'{"text": "one", "label": "x"}\n{"text": "two", "label": null}\n{"text": "three"}\n'
    assert [v for _, v, _, _ in rows(tmp_path, objects, "text", optional=["label"])] == [
        ["one", "x"], ["two", None], ["three", None],
    ]  # fmt: skip
    table = b"text\tlabel\none\tx\ntwo\n"
    assert [v for _, v, _, _ in rows(tmp_path, table, "text", optional=["label"], name="a.tsv")] == [
        ["one", "x"], ["two", None],
    ]  # fmt: skip
    assert [v for _, v, _, _ in rows(tmp_path, b"text\none\n", "text", optional=["label"], name="a.tsv")] == [
        ["one", None]
    ]


@pytest.mark.parametrize(
    ("name", "content", "bad", "good"),
    [
        ("a.jsonl", b'{"text": "a"}\n\xff\nnot json\n[1]\n{"x": 1}\n{"text": null}\n{"text": "b"}\n', "23456", [1, 7]),
        ("a.csv", b"id,text\n1,a\n2,\xff\n3\n4,b\n", "34", [2, 5]),
        ("a.tsv", b"id\ttext\n1\ta\n\xff\n3\n4\tb\n", "34", [2, 5]),
    ],
)  # fmt: skip
def test_bad_rows_are_named_and_left_out(tmp_path, name, content, bad, good):
    errors = []
    assert [line for line, *_ in rows(tmp_path, content, "text", name=name, on_error=errors.append)] == good
    assert [error.message.split(":")[1] for error in errors] == list(bad)
    with pytest.raises(OrdtoolError, match=f"{name}:{bad[0]}: "):
        rows(tmp_path, content, "text", name=name)


def test_a_table_is_read_as_it_comes(tmp_path):
    """One row in, one row out: nothing is held."""
    path = tmp_path / "a.csv"
    path.write_text("text\n" + "a line\n" * 50_000)
    with open_input(path) as stream:
        found = rows_of(stream, ("text",))
        next(found)
        assert stream.consumed < 1000


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_texts_come_from_a_column(tmp_path, name):
    path, cut = tmp_path / name, separator_of(name)
    path.write_text(f"id{cut}body\n1{cut}The cat sat.\n2{cut}It rains.\n")
    assert [(r.line, r.text, r.data) for r in read_records(path, "body")] == [
        (2, "The cat sat.", {"id": "1", "body": "The cat sat."}),
        (3, "It rains.", {"id": "2", "body": "It rains."}),
    ]
    assert [r.text for r in read_records(path, "2")][1:] == ["The cat sat.", "It rains."]
    with pytest.raises(OrdtoolError, match="no column 'text'.*columns: id, body") as caught:
        list(read_records(path))
    assert "`field`" in caught.value.hint and "pipe" in caught.value.hint
    assert [r.text for r in read_records(path, format="text")][0] == f"id{cut}body"
    path.write_text("The cat sat.\nIt rains.\n")  # lines of text under a table's name
    with pytest.raises(OrdtoolError, match="no column 'text'"):
        list(read_records(path))
