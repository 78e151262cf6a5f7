"""Parquet and Arrow, as pyarrow and the package `datasets` write them, in and out."""

import datetime
import gzip
import io
import json

import pytest

from ordtool.errors import OrdtoolError
from ordtool.io import arrow
from ordtool.io.inputs import open_input
from ordtool.io.tables import rows_of
from ordtool.io.text import read_records

pyarrow = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

ROWS = [
    {"text": f"text {k}", "id": k, "more": {"tags": ["a", "é"][: k % 3], "score": k / 4}} for k in range(3000)
]


def written(path, rows, kind):
    table = pyarrow.Table.from_pylist(rows)
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=700)
    elif kind == "file":
        with pyarrow.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=900)
    else:
        with pyarrow.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=900)
    return path


@pytest.mark.parametrize("kind", ["parquet", "file", "stream"])
@pytest.mark.parametrize("name", ["t.arrow", "t.bin", "t.gz"])
def test_rows_come_back_by_name_or_by_first_bytes(tmp_path, kind, name):
    path = written(tmp_path / name, ROWS, kind)
    if name.endswith("gz"):
        path.write_bytes(gzip.compress(path.read_bytes()))
    records = list(read_records(path))
    assert [record.data for record in records] == ROWS
    assert [record.line for record in records[:2]] == [1, 2] and records[5].text == "text 5"
    with open_input(path) as stream:
        values = [row.values for row in rows_of(stream, ("text",), optional=("id", "none"))]
    assert values[7] == ["text 7", 7, None]


def test_what_is_wrong_with_a_row_is_said_with_its_number(tmp_path):
    path = written(tmp_path / "t.parquet", [{"text": "a"}, {"text": None}, {"text": "b"}], "parquet")
    with pytest.raises(OrdtoolError, match="t.parquet:2: field 'text' must be a string, found null"):
        list(read_records(path))
    bad = []
    assert [record.text for record in read_records(path, on_error=bad.append)] == ["a", "b"] and len(bad) == 1
    with pytest.raises(OrdtoolError, match="no column 'body'"):
        list(read_records(path, "body"))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(OrdtoolError, match="damaged, or no table"):
        list(read_records(path))


def test_values_that_json_does_not_have(tmp_path):
    day = datetime.datetime(2024, 2, 29, 12, 30)
    row = {
        "text": "a",
        "when": day,
        "long": datetime.timedelta(seconds=90),
        "raw": b"\xc3\xa9",
        "picture": b"\xff\xd8",
    }
    [record] = read_records(written(tmp_path / "t.parquet", [row], "parquet"))
    assert record.data == {
        "text": "a",
        "when": "2024-02-29T12:30:00",
        "long": 90.0,
        "raw": "é",
        "picture": None,
    }


def test_a_folder_of_a_dataset(tmp_path, run_in_process):
    folder = tmp_path / "data"
    folder.mkdir()
    for number, rows in enumerate((ROWS[:10], ROWS[10:15])):
        written(folder / f"data-{number:05d}-of-00002.arrow", rows, "stream")
    files = [{"filename": f"data-{number:05d}-of-00002.arrow"} for number in (1, 0)]
    (folder / "state.json").write_text(json.dumps({"_data_files": files}))
    (folder / "dataset_info.json").write_text("{}")
    done = run_in_process("embed", "-m", "static", "-q", "data", "--json", "--dims", 1)
    found = [json.loads(line)["id"] for line in done.stdout.splitlines()]
    assert found == [*range(10, 15), *range(10)]
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["data"]}')
    with pytest.raises(OrdtoolError, match="several parts") as caught:
        arrow.dataset_files(tmp_path)
    assert caught.value.hint == "name one: data"
    (folder / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(OrdtoolError, match="file data-00001-of-00002.arrow is missing"):
        arrow.dataset_files(folder)


@pytest.mark.parametrize("format", arrow.FORMATS)
def test_pieces_become_one_table(format):
    pieces = [
        [{"text": "a", "n": None, "tags": [], "deep": {"x": 1}}],
        [{"text": "b", "n": 3, "tags": ["t"], "deep": {"x": 2}}],
        [{"text": "c", "n": 2.5, "new": True}],
    ]
    spool, target = io.BytesIO(b"".join(map(arrow.stream_bytes, pieces))), io.BytesIO()
    arrow.write_table(spool, target, format)
    target.seek(0)
    table = pq.read_table(target) if format == "parquet" else pyarrow.ipc.open_file(target).read_all()
    assert table.to_pylist() == [
        {"text": "a", "n": None, "tags": [], "deep": {"x": 1}, "new": None},
        {"text": "b", "n": 3.0, "tags": ["t"], "deep": {"x": 2}, "new": None},
        {"text": "c", "n": 2.5, "tags": None, "deep": None, "new": True},
    ]


def test_values_of_several_kinds_are_refused():
    with pytest.raises(OrdtoolError, match="a.txt:1 and after: the key 'n' has values of several types"):
        arrow.stream_bytes([{"n": 1}, {"n": "x"}], where="a.txt:1")
    pieces = arrow.stream_bytes([{"n": 1}]) + arrow.stream_bytes([{"n": "x"}])
    with pytest.raises(OrdtoolError, match="a key has values of several types"):
        arrow.write_table(io.BytesIO(pieces), io.BytesIO(), "parquet")


def test_groups_do_not_depend_on_the_pieces(monkeypatch):
    monkeypatch.setattr(arrow, "_GROUP_ROWS", 64)
    outputs = set()
    for cuts in ((0, 300), (0, 1, 63, 64, 65, 200, 300), (0, 128, 300)):
        parts = [ROWS[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]
        target = io.BytesIO()
        arrow.write_table(io.BytesIO(b"".join(map(arrow.stream_bytes, parts))), target, "parquet")
        outputs.add(target.getvalue())
        assert pq.read_table(target).to_pylist() == ROWS[:300]
    assert len(outputs) == 1


def test_parse_reads_and_writes_tables(tmp_path, run_in_process, parsers):
    written(tmp_path / "t.parquet", [{"text": "It ran.", "id": 7}, {"text": "", "id": 8}], "parquet")
    (tmp_path / "t.txt").write_text("It ran.\n\n")
    command = ["parse", "-m", parsers(), "-q"]
    assert run_in_process(*command, "t.parquet", "-o", "out.parquet").returncode == 0
    lines = run_in_process(*command, "t.txt").stdout.splitlines()
    found = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["id"] for row in found] == [7, 8]
    assert [row["tree"] for row in found] == [json.loads(line)["tree"] for line in lines]
    said = run_in_process(*command, "t.parquet", "--input", "arrow", "--format", "arrow")
    assert pyarrow.ipc.open_file(said.stdout).read_all().to_pylist() == found
