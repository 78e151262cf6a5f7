"""Plans: every record is in one shard, whatever the inputs are, and numbered as in one stream."""

import gzip
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ordtool.errors import OrdtoolError
from ordtool.io.text import read_records
from ordtool.sharding import plan as planning
from ordtool.sharding.plan import Cut, Plan, input_paths
from ordtool.sharding.records import ENDINGS, RecordReader

READER = RecordReader("text")


def read(shard):
    if shard.source is None:
        return shard.records
    with shard.source.open() as stream:
        return list(READER.read(stream, shard.source.kind, None))


def places(records):
    return [(record.source, record.line, record.text) for record in records]


@pytest.fixture(autouse=True)
def ranges_of_small_files(monkeypatch):
    monkeypatch.setattr(planning, "_SMALL_BYTES", 1)


@given(
    lines=st.lists(st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), max_size=9)),
    most=st.integers(1, 9),
    first=st.none() | st.integers(1, 9),
    heaviest=st.integers(1, 40),
    end=st.sampled_from(["", "\n", "\r\n"]),
)
def test_ranges_hold_every_line_once(tmp_path_factory, lines, most, first, heaviest, end):
    path = tmp_path_factory.mktemp("plan") / "a.txt"
    path.write_bytes(("x" + "\n".join(lines) + end).encode())
    plan = Plan([str(path)], READER, Cut(most, heaviest, first))
    shards = list(plan.shards())
    found = [record for shard in shards for record in read(shard)]
    assert places(found) == places(read_records(path))
    assert [shard.number for shard in shards] == list(range(len(shards)))
    assert sum(shard.bytes for shard in shards) == plan.bytes == path.stat().st_size
    for shard in shards:
        records = read(shard)
        assert 1 <= len(records) <= Cut(most, heaviest, first).size(shard.number)
        assert [shard.index(record, k) for k, record in enumerate(records)] == [
            shard.base + k for k in range(len(records))
        ]
    assert [shard.base for shard in shards] == np.cumsum([0] + [s.count for s in shards])[:-1].tolist()
    assert list(plan.shards(2)) == shards[2:]


def test_all_kinds_of_inputs_together(tmp_path):
    objects = [{"text": f"object {k}", "id": k} for k in range(25)]
    (tmp_path / "a.txt").write_text("".join(f"line {k}\n" for k in range(25)))
    (tmp_path / "b.jsonl").write_text(
        "".join(json.dumps(one) + "\n" * (1 + one["id"] % 2) for one in objects)
    )
    (tmp_path / "c.json").write_text(json.dumps(objects, indent=1))
    (tmp_path / "d.csv").write_text('id,text\n1,"a, b"\n2,"two\nlines"\n')
    (tmp_path / "e.txt.gz").write_bytes(gzip.compress(b"packed 1\npacked 2\n"))
    (tmp_path / "f.conllu").write_text("# text = It ran\n1\tIt" + "\t_" * 8 + "\n2\tran" + "\t_" * 8 + "\n\n")
    paths = [str(tmp_path / name) for name in ("a.txt", "b.jsonl", "c.json", "d.csv", "e.txt.gz", "f.conllu")]
    shards = list(Plan(paths, READER, Cut(10)).shards())
    assert places(record for shard in shards for record in read(shard)) == places(read_records(paths))
    kinds = [shard.source.kind for shard in shards if shard.source]
    assert kinds == ["text"] * 3 + ["jsonl"] * 4
    parts = [Plan(paths, READER, Cut(10), part=(k, 3)) for k in (1, 2, 3)]
    found = [record for part in parts for shard in part.shards() for record in read(shard)]
    assert places(found) == places(read_records(paths))


def test_many_packed_files_are_a_shard_each(tmp_path):
    for k in range(20):
        (tmp_path / f"{k:02d}.txt.gz").write_bytes(gzip.compress(f"text {k}\nmore\n".encode()))
    paths = input_paths([str(tmp_path)], ENDINGS)
    shards = list(Plan(paths, READER, Cut(10)).shards())
    assert [shard.source.path for shard in shards] == paths == sorted(paths) and len(paths) == 20
    assert places(record for shard in shards for record in read(shard)) == places(read_records(paths))


def test_bad_records_stand_with_their_shard(tmp_path):
    (tmp_path / "a.json").write_text('[{"text": "one"},\n{"text": 2},\n{"text": "three"},\n{"text": "four"}]')
    path = [str(tmp_path / "a.json")]
    [shard] = Plan(path, READER, Cut(10), skip=True).shards()
    assert [record.text for record in shard.records] == ["one", "three", "four"]
    assert ["a.json:2" in failure.message for failure in shard.skipped] == [True]
    [stopped] = Plan(path, READER, Cut(10)).shards()
    assert [record.text for record in stopped.records] == ["one"]
    assert "a.json:2" in stopped.error.message and isinstance(stopped.error.error(), OrdtoolError)


def test_folders_and_patterns(tmp_path):
    for name in ("b.txt", "a.jsonl", "notes.md", ".hidden.txt"):
        (tmp_path / name).write_text("{}\n")
    names = [path.rpartition("/")[2] for path in input_paths([str(tmp_path)], ENDINGS)]
    assert names == ["a.jsonl", "b.txt"]
    assert input_paths([f"{tmp_path}/*.txt"]) == [f"{tmp_path}/b.txt"]
    with pytest.raises(OrdtoolError, match="no file has such a name"):
        input_paths([f"{tmp_path}/*.csv"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(OrdtoolError, match="no file in it ends in"):
        input_paths([str(tmp_path / "empty")], ENDINGS)
