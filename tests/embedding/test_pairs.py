"""Pair files as people publish them."""

import gzip
import json

import pytest

from ordtool.embedding.pairs import Pair, read_pairs
from ordtool.errors import OrdtoolError, UsageError

PAIRS = [
    Pair("A man eats.", 'Someone says "hi", twice.', 4.5),
    Pair("雨が降る。", "It rains\u2028here.", 0.0),
]


def csv_text(header=""):
    return header + 'A man eats.,"Someone says ""hi"", twice.",4.5\n雨が降る。,It rains\u2028here.,0\n'


def tsv_text(header=""):
    return header + 'A man eats.\tSomeone says "hi", twice.\t4.5\n雨が降る。\tIt rains\u2028here.\t0\n'


def jsonl_text(names=("sentence1", "sentence2", "score")):
    rows = [(pair.left, pair.right, pair.score) for pair in PAIRS]
    return "".join(json.dumps({"id": 1, **dict(zip(names, row, strict=True))}) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", csv_text()),
        ("a.csv", csv_text("sentence1,sentence2,score\n")),
        ("a.csv", csv_text("sentence1,sentence2,similarity_score\n").replace("\n", "\r\n")),
        ("a.csv", "\ufeff" + csv_text("text1,text2,label\n")),
        ("a.csv", csv_text("premise,hypothesis,how alike\n")),
        ("a.tsv", tsv_text()),
        ("a.tsv", tsv_text("s1\ts2\tgold\n")),
        ("a.csv", tsv_text()),
        ("a.txt", csv_text() + "\n\n"),
        ("a.jsonl", jsonl_text()),
        ("a.txt", jsonl_text(("sentence_A", "sentence_B", "relatedness_score"))),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_every_form_gives_the_same_pairs(tmp_path, name, content):
    (tmp_path / name).write_bytes(content.encode())
    assert read_pairs(tmp_path / name) == PAIRS
    (tmp_path / "z.gz").write_bytes(gzip.compress(content.encode()))
    assert read_pairs(tmp_path / "z.gz") == PAIRS


def test_columns_by_name_and_by_position(tmp_path):
    """The original STS benchmark has seven columns and no header, scores in the fifth."""
    (tmp_path / "a").write_text(
        "main\tMSR\t2012\t0001\t4.5\tA b.\tC d.\nmain\tMSR\t2012\t0002\t1\tE.\tF.\textra\n"
    )
    expected = [Pair("A b.", "C d.", 4.5), Pair("E.", "F.", 1.0)]
    assert read_pairs(tmp_path / "a", columns=("6", "7", "5")) == expected
    (tmp_path / "b.csv").write_text("n,gold mark,x,y\n1,4.5,A b.,C d.\n2,1,E.,F.\n")
    assert read_pairs(tmp_path / "b.csv", columns=("x", "y", "gold mark")) == expected
    assert read_pairs(tmp_path / "b.csv", columns=("3", "4", "2")) == expected
    (tmp_path / "c.jsonl").write_text('{"u": "A b.", "v": "C d.", "w": "4.5"}\n')
    assert read_pairs(tmp_path / "c.jsonl", columns=("u", "v", "w")) == expected[:1]


def test_a_quoted_cell_may_span_lines(tmp_path):
    (tmp_path / "a.csv").write_text('"A\nB",C,1\nD,E,x\n')
    with pytest.raises(OrdtoolError, match=r"a.csv:3: the score must be a number, found 'x'"):
        read_pairs(tmp_path / "a.csv")
    bad = []
    assert read_pairs(tmp_path / "a.csv", on_error=bad.append) == [Pair("A\nB", "C", 1.0)]
    assert len(bad) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "no pairs in it"),
        ("a.csv", b"sentence1,sentence2,score\n", "no pairs in it"),
        ("a.csv", b"A,B,1\nC,D\n", ":2: 2 column(s), and 3 are needed"),
        ("a.csv", b"A,B,1\nC,D,nan\n", ":2: the score must be a number, found 'nan'"),
        ("a.csv", b'A,"B"x,1\n', ":1: malformed CSV"),
        ("a.csv", b"A,B\n", "no columns sentence1, sentence2 and score"),
        ("a.csv", b"id,left text,right text,mark\n1,A,B,2\n", "no columns sentence1, sentence2 and score"),
        ("a.csv", b"A,\xff,1\n", ":1: invalid UTF-8"),
        ("a.jsonl", b'{"sentence1": "A", "score": 1}\n', ":1: no field 'sentence2' (keys: sentence1, score)"),
        (
            "a.jsonl",
            b'{"sentence1": "A", "sentence2": 3, "score": 1}\n',
            ":1: a sentence must be a string, found int",
        ),
        (
            "a.jsonl",
            b'{"sentence1": "A", "sentence2": "B", "score": true}\n',
            ":1: the score must be a number",
        ),
        ("a.jsonl", b'{"sentence1": \n', ":1: malformed JSON"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_bad_files_name_the_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(OrdtoolError) as caught:
        read_pairs(tmp_path / name)
    assert message in caught.value.message


def test_bad_columns(tmp_path):
    (tmp_path / "a.csv").write_text("sentence1,sentence2,score\nA,B,1\n")
    with pytest.raises(UsageError, match="three columns are needed, got 2"):
        read_pairs(tmp_path / "a.csv", columns=("1", "2"))
    with pytest.raises(OrdtoolError, match="no column 'left' "):
        read_pairs(tmp_path / "a.csv", columns=("left", "sentence2", "score"))
    with pytest.raises(OrdtoolError, match="no such file"):
        read_pairs(tmp_path / "b.csv")


def test_bad_lines_are_skipped_when_asked(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(
        b'{"sentence1": "A", "sentence2": "B", "score": 1}\nnot json\n\xff\n'
        b'{"sentence1": "A", "score": 1}\n{"sentence1": "C", "sentence2": "D", "score": 2}\n'
    )
    bad = []
    pairs = read_pairs(tmp_path / "a.jsonl", on_error=bad.append)
    assert [pair.left for pair in pairs] == ["A", "C"]
    assert [error.message.split(":")[1] for error in bad] == ["2", "3", "4"]
