import gzip
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ordtool.errors import BadRecords, OrdtoolError
from ordtool.io.arrays import array_lines
from ordtool.io.text import read_records
from ordtool.progress import warn_each


@pytest.fixture
def write(tmp_path):
    def call(name: str, data: bytes):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return call


def texts(path, **kwargs):
    return [record.text for record in read_records([path], **kwargs)]


def test_a_text_a_line_and_empty_lines_stay(write):
    path = write("a.txt", b"one\n\nthree\r\nfour")
    records = list(read_records([path]))
    assert [r.text for r in records] == ["one", "", "three", "four"]
    assert records[2].where == f"{path}:3"


def test_only_the_line_feed_ends_a_line(write):
    line = "a\u2028b\u0085c\x0bd\x0ce\u2029f\rg"
    assert texts(write("a.txt", f"{line}\nnext\n".encode())) == [line, "next"]


def test_byte_order_mark_is_dropped(write):
    assert texts(write("a.txt", b"\xef\xbb\xbfone\n")) == ["one"]


def test_empty_file_has_no_records(write):
    assert texts(write("a.txt", b"")) == []


def test_gzip_is_known_by_its_first_bytes(write):
    assert texts(write("a.data", gzip.compress(b"one\ntwo\n"))) == ["one", "two"]
    assert texts(write("a.jsonl.gz", gzip.compress(b'{"text": "one"}\n'))) == ["one"]


def test_damaged_gzip(write):
    path = write("a.gz", gzip.compress(b"one\n" * 10000)[:-12])
    with pytest.raises(OrdtoolError, match="damaged gzip"):
        texts(path)


def test_jsonl_keeps_keys_in_order(write):
    path = write("a.jsonl", b'{"id": 7, "text": "one", "z": null, "a": [1]}\n\n{"text": "two"}\n')
    records = list(read_records([path]))
    assert list(records[0].data) == ["id", "text", "z", "a"]
    assert [(r.text, r.line) for r in records] == [("one", 1), ("two", 3)]


def test_another_field(write):
    assert texts(write("a.jsonl", b'{"body": "one"}\n'), field="body") == ["one"]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b"fine\nbad \xff byte\n", "a.txt:2: invalid UTF-8 .byte 0xff at column 5"),
        ("a.txt", "text".encode("utf-16"), "a.txt:1: invalid UTF-8.*UTF-16"),
        ("a.txt", b"%PDF-1.5\n%\xd0\xd4\n", "a.txt: this is a PDF, and text is needed"),
        ("a.docx", b"PK\x03\x04\x14\xff\n", "a.docx:1: invalid UTF-8.*zip archive, as .docx"),
        ("a.jsonl", b'{"text": "ok"}\n{"text": \n', "a.jsonl:2: malformed JSON"),
        ("a.jsonl", b"[1]\n", "a.jsonl:1: expected a JSON object, found list"),
        ("a.jsonl", b'{"title": "x", "id": 1}\n', "a.jsonl:1: no field 'text' .keys: title, id.*`field`"),
        ("a.jsonl", b'{"text": 3}\n', "a.jsonl:1: field 'text' must be a string, found int"),
        ("a.jsonl", b'{"text": ' + b"[" * 100_000 + b"\n", "a.jsonl:1: malformed JSON"),
    ],
)
def test_bad_records_name_file_and_line(write, name, data, message):
    with pytest.raises(OrdtoolError, match=message):
        texts(write(name, data))


def test_skipping_keeps_the_good_ones(write):
    path = write("a.jsonl", b'{"text": "one"}\nnot json\n{"text": "three"}\n')
    errors: list[OrdtoolError] = []
    assert texts(path, on_error=errors.append) == ["one", "three"]
    assert len(errors) == 1


def test_a_million_bad_records_take_no_more_memory_than_a_few():
    bad = BadRecords()
    for line in range(1_000_000):
        bad.append(OrdtoolError(f"a.txt:{line}: bad"))
    assert (bad.count, len(bad.first)) == (1_000_000, BadRecords.LISTED)
    told = Told()
    warn_each(bad.report(), told)
    assert told[:2] == ["1,000,000 bad records skipped", "a.txt:0: bad"]
    assert told[-1] == "and 999,980 more"
    warn_each(BadRecords().report(), told := Told())
    assert told == []


class Told(list):
    warn = list.append


def test_missing_and_folder(tmp_path):
    with pytest.raises(OrdtoolError, match="no such file"):
        texts(tmp_path / "nothing.txt")
    with pytest.raises(OrdtoolError, match="is a folder") as error:
        texts(tmp_path)
    assert error.value.hint == "name a file"
    for name in ("a.txt", "b.txt", "c.md", ".hidden"):
        (tmp_path / name).write_text("")
    with pytest.raises(OrdtoolError, match="is a folder") as error:
        texts(tmp_path)
    assert error.value.hint == f"name its 2 .txt files: {tmp_path}/*.txt"


class Pipe:
    """A stdin that is no terminal."""

    def __init__(self, data: bytes) -> None:
        self.buffer = io.BufferedReader(io.BytesIO(data))

    def isatty(self) -> bool:
        return False


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"one\ntwo\n", ["one", "two"]),
        (b'{"text": "one"}\n{"text": "two"}\n', ["one", "two"]),
        (b'[{"text": "one"}, {"text": "two"}]', ["one", "two"]),
        (b"{not json\n", ["{not json"]),
        (gzip.compress(b"one\n"), ["one"]),
    ],
    ids=[
        "lines",
        "objects",
        "array",
        "no object",
        "gzip",
    ],  # gzip writes the time: no name for a test
)
def test_stdin_is_looked_at(monkeypatch, data, expected):
    monkeypatch.setattr("sys.stdin", Pipe(data))
    assert [r.text for r in read_records([])] == expected


def test_terminal_is_refused_with_an_example(monkeypatch):
    class Terminal(Pipe):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal(b""))
    with pytest.raises(OrdtoolError) as caught:
        list(read_records([]))
    assert caught.value.exit_code == 2
    assert "ordtool parse" in caught.value.hint


OBJECTS = b'{"text": "one", "id": 1}\n\n{"text": "two", "id": 2}\n'
ARRAYS = [
    b'[{"text": "one", "id": 1}, {"text": "two", "id": 2}]',
    b'[\n  {\n    "text": "one",\n    "id": 1\n  },\n  {"text": "two", "id": 2}\n]\n',
    b'\n[ { "text" : "one", "id":1\n},{"text":"two","id":2} ]',
]


@pytest.mark.parametrize("data", [OBJECTS, *ARRAYS, b"\xef\xbb\xbf" + OBJECTS, b"\xef\xbb\xbf" + ARRAYS[0]])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.txt", "a", "a.json.gz", "pipe"])
def test_objects_are_known_by_what_they_are_whatever_their_file_is_called(write, monkeypatch, name, data):
    if name == "pipe":
        monkeypatch.setattr("sys.stdin", Pipe(data))
    path = "-" if name == "pipe" else write(name, gzip.compress(data) if name.endswith(".gz") else data)
    assert [(r.text, r.data) for r in read_records(path)] == [
        ("one", {"text": "one", "id": 1}),
        ("two", {"text": "two", "id": 2}),
    ]


@pytest.mark.parametrize("name", ["a.json", "a.txt", "a", "pipe"])
def test_objects_without_the_field_are_no_text(write, monkeypatch, name):
    data = b'{"sentence": "one"}\n'
    monkeypatch.setattr("sys.stdin", Pipe(data))
    with pytest.raises(OrdtoolError, match="1: no field 'text' .keys: sentence"):
        texts("-" if name == "pipe" else write(name, data))


@pytest.mark.parametrize(
    "text", ["{not json", "[1] A note", "[Music]", "[", "[\nand more", "{", "{x} and {y}"]
)
def test_prose_in_brackets_is_text(write, text):
    assert texts(write("a.txt", text.encode())) == text.split("\n")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'[\n{"text": "one"},\n\n{"text": 2}\n]', "a.json:4: field 'text' must be a string"),
        (b'[\n{"text": "one"},\n{"text": \n', "a.json:3: malformed JSON"),
        (b'[{"text": "one"}\n,', "a.json:2: the file ends inside of a JSON array"),
        (b'[{"text": "one"} {"text": "two"}]', "a.json:1: malformed JSON"),
        (b'[{"text": "one"}]\n[]x', "a.json:2: malformed JSON"),
        (b'["one", "two"]', "a.json:1: expected a JSON object, found str"),
        (b"one\ntwo\n", "a.json:1: malformed JSON"),
    ],
)
def test_bad_arrays_name_file_and_line(write, data, message):
    with pytest.raises(OrdtoolError, match=message):
        texts(write("a.json", data))


def test_text_that_is_asked_for_is_text(write):
    data = b'[\n{"text": "one"}\n]'
    assert texts(write("a.json", data), format="text") == data.decode().split("\n")


NAMES = st.text('ab,[]{}"\\\n\té', max_size=4)
VALUES = st.recursive(
    st.integers() | NAMES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.dictionaries(NAMES, VALUES, min_size=1, max_size=3), max_size=4),
    st.sampled_from([None, 0, 2]),
)
def test_any_array_is_its_objects(found, indent):
    lines = json.dumps(found, indent=indent, ensure_ascii=False).encode().split(b"\n")
    assert [json.loads(line) for line in array_lines(lines, "a.json") if line.strip()] == found
