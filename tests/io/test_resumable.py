"""Outputs of lines: what an interruption leaves, and what a second run may do with it."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ordtool.errors import OrdtoolError
from ordtool.io import resumable
from ordtool.io.resumable import reading_back, resumable_lines

# Writes records for ever and kills itself after the third.
KILLED = """
import os, signal, sys
from ordtool.io.resumable import resumable_lines

with resumable_lines(sys.argv[1], inputs=[sys.argv[2]], settings={"a": 1}) as lines:
    for done in range(1, 4):
        lines.write(f"record {done}")
        lines.save(done)
        lines.sync()
    lines.write("torn")
    lines.file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def source(tmp_path):
    (tmp_path / "in.txt").write_text("1\n2\n3\n4\n5\n")
    return tmp_path / "in.txt"


@pytest.fixture
def write(tmp_path, source):
    """`write(5)` writes five records to `out`, or goes on with them; `stop=3` ends the run with an error after three."""

    def call(count=5, stop=None, out="out", **options):
        options = {"inputs": [source], "settings": {"a": 1}} | options
        with resumable_lines(tmp_path / out, **options) as lines:
            for done in range(lines.done + 1, count + 1):
                lines.write(f"record {done}")
                lines.save(done)
                if done == stop:
                    raise RuntimeError("stopped")

    return call


def stopped(write, **options):
    with pytest.raises(RuntimeError, match="stopped"):
        write(**options)


WHOLE = "".join(f"record {k}\n" for k in range(1, 6))


def test_a_killed_run_is_gone_on_with(tmp_path, source, write):
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "out", source], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "out.partial").read_text().endswith("torn\n")
    with pytest.raises(OrdtoolError, match="an interrupted run left this"):
        write()
    write(resume=True)
    assert (tmp_path / "out").read_text() == WHOLE
    assert sorted(os.listdir(tmp_path)) == ["in.txt", "out"]


def test_a_shortened_partial_is_refused(tmp_path, write):
    stopped(write, stop=4)
    os.truncate(tmp_path / "out.partial", 12)
    with pytest.raises(OrdtoolError, match="has 12 bytes, and the interrupted run had written 36"):
        write(resume=True)
    assert (tmp_path / "out.partial").stat().st_size == 12
    assert not (tmp_path / "out").exists()


def test_the_data_is_on_the_disk_before_its_record(tmp_path, write, monkeypatch):
    """Where power fails at any moment, the record never says more than the disk holds."""
    synced, records = [0], []
    fsync, replace = os.fsync, os.replace

    def syncing(descriptor):
        fsync(descriptor)
        if os.path.samestat(os.fstat(descriptor), os.stat(tmp_path / "out.partial")):
            synced.append(os.fstat(descriptor).st_size)

    def replacing(old, new):
        if str(new).endswith(".json"):
            records.append(json.loads(Path(old).read_text())["bytes"])
            assert records[-1] <= synced[-1]
        replace(old, new)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(os, "replace", replacing)
    monkeypatch.setattr(resumable, "_SYNC_EVERY", 0)
    write()
    assert records == [0, 9, 18, 27, 36, 45]


DAMAGED = {
    "no JSON": "{",
    "nothing": "",
    "a list": "[]",
    "no bytes": {"input": None, "settings": {}, "done": 3},
    "text for a number": {"bytes": "36"},
    "a negative number": {"bytes": -1},
    "true for a number": {"done": True},
    "a list for settings": {"settings": []},
    "a number for the input": {"input": 3},
    "deep": "[" * 100_000,
    "a wide number": '{"done": ' + "9" * 5000 + "}",
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_record_is_one_line(tmp_path, write, damage):
    stopped(write, stop=4)
    record = tmp_path / "out.partial.json"
    if isinstance(damage, dict):
        kept = {} if len(damage) > 1 else json.loads(record.read_text())
        damage = json.dumps(kept | damage)
    record.write_text(damage)
    with pytest.raises(OrdtoolError, match="missing or damaged") as caught:
        write(resume=True)
    assert "`force`" in caught.value.hint
    write(force=True)
    assert (tmp_path / "out").read_text() == WHOLE


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"force": True}], ids=str)
def test_a_second_run_is_told_who_writes(tmp_path, write, source, options):
    with resumable_lines(tmp_path / "out", inputs=[source], settings={"a": 1}) as lines:
        lines.write("record 1")
        lines.save(1)
        with pytest.raises(OrdtoolError, match="another run is writing this") as caught:
            write(**options)
        assert f"process {os.getpid()} on {socket.gethostname()}, since 20" in caught.value.message
    assert (tmp_path / "out").read_text() == "record 1\n"
    assert sorted(os.listdir(tmp_path)) == ["in.txt", "out"]


def test_a_run_that_did_nothing_leaves_nothing(tmp_path, write, source):
    with (
        pytest.raises(RuntimeError),
        resumable_lines(tmp_path / "out", inputs=[source], settings={"a": 1}) as lines,
    ):
        lines.write("never saved")
        raise RuntimeError
    assert os.listdir(tmp_path) == ["in.txt"]
    # As a kill leaves it: before, and after, the first position was written.
    (tmp_path / "out.partial").touch()
    write()
    (tmp_path / "more.partial").write_text("a header")
    record = {"input": "x", "settings": {"a": 2}, "done": 0, "bytes": 0}
    (tmp_path / "more.partial.json").write_text(json.dumps(record))
    write(out="more")
    assert (tmp_path / "out").read_text() == (tmp_path / "more").read_text() == WHOLE


def test_a_link_is_gone_on_with(tmp_path, write):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere" / "real")
    stopped(write, stop=2)
    write(resume=True)
    assert (tmp_path / "elsewhere" / "real").read_text() == WHOLE
    assert os.listdir(tmp_path / "elsewhere") == ["real"]


def test_what_a_resumed_run_is_held_to(tmp_path, write, source):
    stopped(write, stop=2)
    with pytest.raises(OrdtoolError, match="other settings \\(a\\)") as caught:
        write(resume=True, settings={"a": 2})
    assert "a was 1, is 2" in caught.value.hint
    source.write_text("other")
    with pytest.raises(OrdtoolError, match="the input has changed"):
        write(resume=True)


@pytest.mark.parametrize("length", [240, 255, 300])
def test_a_long_name_is_one_line(tmp_path, write, length):
    with pytest.raises(OrdtoolError, match="the name is too long"):
        write(out="n" * length)
    with pytest.raises(OrdtoolError, match="name is too long"):
        write(out=f"{'n' * 300}/out")
    write(out="n" * 233)


@pytest.mark.parametrize("line", [b"\xa3", b"{", b"[" * 100_000, b"null", b'{"other": 1}'])
def test_damaged_lines_are_one_line(tmp_path, line):
    (tmp_path / "out").write_bytes(line)
    with pytest.raises(OrdtoolError, match="out: damaged: what the interrupted run wrote"):
        with reading_back(tmp_path / "out"), open(tmp_path / "out", encoding="utf-8") as file:
            [json.loads(each)["output"] for each in file]


def test_a_folder_that_another_command_left_is_replaced_by_force_alone(tmp_path, write):
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "run.json").touch()
    for options in ({}, {"resume": True}):
        with pytest.raises(OrdtoolError, match="interrupted run"):
            write(**options)
    write(force=True)
    assert (tmp_path / "out").read_text() == WHOLE
    assert sorted(os.listdir(tmp_path)) == ["in.txt", "out"]
