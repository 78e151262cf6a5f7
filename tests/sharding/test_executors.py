"""This process, and several: the same bytes, whoever does the work and whatever happens to them."""

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ordtool.errors import OrdtoolError, UsageError
from ordtool.progress import Silent
from ordtool.sharding.plan import Shard
from ordtool.sharding.run import Scale, ShardBar

LINES = [f"line {k}" for k in range(95)]


@pytest.fixture
def text(tmp_path):
    def write(*more, name="a.txt"):
        lines = [*LINES, *more]
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
        return name

    return write


@pytest.fixture(autouse=True)
def ranges_of_small_files(monkeypatch):
    from ordtool.sharding import plan

    monkeypatch.setattr(plan, "_SMALL_BYTES", 1)


def left(folder):
    return sorted(name for name in os.listdir(folder) if name not in ("a.txt", "b.jsonl", "one", "two"))


@pytest.mark.parametrize("format", ["jsonl", "csv", "parquet", "arrow"])
def test_the_same_bytes(shout, text, tmp_path, format):
    (tmp_path / "b.jsonl").write_text('{"id": 1, "text": "an object"}\n' * 30)
    inputs = "b.jsonl" if format == "csv" else [text(), "b.jsonl"]
    one = shout(inputs, "one", format=format, first=2)
    two = shout(inputs, "two", format=format, first=2, workers=2)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    for run in (one, two):
        assert run.totals.records == (30 if format == "csv" else 125)
        assert run.heard.moved == pytest.approx(run.heard.total)
    assert left(tmp_path) == [] and not multiprocessing.active_children()
    assert two.heard.notes == ["loaded"] * (len(two.heard.notes))


def test_a_worker_that_dies_is_replaced(shout, text, tmp_path):
    name = text("die a", "die b", *LINES)
    two = shout(name, "two", workers=2)
    died = [message for message in two.heard.warnings if "was killed by SIGKILL" in message]
    assert len(died) == 2 and all("is done again" in message for message in died)
    shout(name, "one")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize(
    ("word", "why"), [("poison", "was killed by SIGKILL"), ("bug", "RuntimeError: a bug")]
)
def test_a_shard_that_fails_three_times_ends_the_run(shout, text, tmp_path, word, why):
    name = text(word)
    with pytest.raises(OrdtoolError, match=rf"shard 9 \(.*a.txt from line 91 on\) failed 3 times: .*{why}"):
        shout(name, "two", workers=2)
    lines = (tmp_path / "two.partial").read_bytes().splitlines()
    assert 50 <= len(lines) <= 90 and len(lines) % 10 == 0  # those done ahead of their turn are parts
    assert not multiprocessing.active_children()


def test_a_model_that_is_not_there_is_said_once(shout, text):
    with pytest.raises(OrdtoolError, match="no such model"):
        shout(text(), "two", workers=2, lost=True)


def test_more_processes_than_a_machine_takes_are_refused():
    assert Scale(workers=32).workers == 32
    with pytest.raises(UsageError, match="`workers` 1,000,000"):
        Scale(workers=1_000_000)


def test_a_bar_shows_what_is_known_of_a_record_under_way():
    class Heard(Silent):
        def advance(self, amount=1, **stats):
            told.append((amount, stats))

    told = []
    bar = ShardBar(Heard(), "writing", "texts")
    bar.begin(100, 0)
    bar.enter(Shard(0, 0, count=4, bytes=100))
    bar.advance(0, tokens="64")
    bar.advance(2)
    assert told == [(0, {"tokens": "64"}), (50, {})]


@pytest.mark.parametrize("workers", [None, 2])
def test_bad_records(shout, text, tmp_path, workers):
    name = text("bad", "good", "bad", "more")
    with pytest.raises(OrdtoolError, match="a.txt:96: bad"):
        shout(name, "one", workers=workers)
    assert (tmp_path / "one.partial").read_bytes().count(b"\n") == 95
    found = shout(name, "one", workers=workers, skips=True, resume=True)
    assert found.totals.records == 97 and found.totals.bad.count == 2
    assert [error.message.rpartition("/")[2] for error in found.totals.bad.first] == [
        "a.txt:96: bad",
        "a.txt:98: bad",
    ]
    shout(name, "two", skips=True)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize(
    "damage",
    [{"counts": 1e-320}, {"counts": {"words": "9"}}, {"messages": None}, {"shards": -1}],
    ids=str,
)
def test_a_damaged_state_is_one_line(shout, text, tmp_path, damage):
    name = text(*LINES, *LINES)
    with pytest.raises(KeyboardInterrupt):
        shout(name, "out", stop=7)
    record = tmp_path / "out.partial.json"
    found = json.loads(record.read_text())
    record.write_text(json.dumps(found | {"state": damage and found["state"] | damage}))
    with pytest.raises(OrdtoolError, match="out.partial.json: damaged"):
        shout(name, "out", resume=True)


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
@pytest.mark.parametrize("begun", [None, 2])
def test_gone_on_with_by_others(shout, text, tmp_path, format, begun):
    name = text(*LINES, *LINES)
    shout(name, "one", format=format)
    with pytest.raises(KeyboardInterrupt):
        shout(name, "two", format=format, workers=begun, stop=7)
    assert not (tmp_path / "two").exists()
    with pytest.raises(OrdtoolError, match="an interrupted run left this"):
        shout(name, "two", format=format)
    resumed = shout(name, "two", format=format, workers=None if begun else 2, resume=True)
    assert 70 <= resumed.totals.before <= 80 and resumed.totals.records == 285
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert left(tmp_path) == []


def test_warnings_are_said_once(shout, text):
    assert shout(text("warn", *LINES, "warn"), "two", workers=2).heard.warnings == ["mind this"]


DRIVER = """
import sys
from pathlib import Path
from toy import Shout
from ordtool.progress import SILENT
from ordtool.sharding.plan import Plan
from ordtool.sharding.records import RecordReader
from ordtool.sharding.run import Scale, open_executor

if __name__ == "__main__":
    work = Shout(Path("."), wait=60)
    plan = Plan([sys.argv[1]], RecordReader("text"), work.cut)
    with open_executor(Scale(2), work, SILENT) as executor:
        print("ready", flush=True)
        next(executor.answers(plan.shards(), parts=None, settled=None, settles=False))
"""
SLEEPERS = """
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from ordtool.parallel import end_with_parent

if __name__ == "__main__":
    with ProcessPoolExecutor(2, get_context("spawn"), end_with_parent) as pool:
        list(pool.map(abs, range(100)))
        print("ready", flush=True)
        time.sleep(60)
"""


def living_children(number):
    """The processes that a process began, without those that have ended."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(parent) == number and state != "Z":
                found.append(int(folder.name))
    return found


def lives(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("program", [DRIVER, SLEEPERS], ids=["workers", "pool"])
def test_no_worker_outlives_a_driver_that_is_killed(text, tmp_path, program):
    (tmp_path / "program.py").write_text(program)
    places = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    driver = subprocess.Popen(
        [sys.executable, "program.py", text()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": places},
        stdout=subprocess.PIPE,
    )
    with driver.stdout as said:
        assert said.readline() == b"ready\n"
        workers = living_children(driver.pid)
        assert len(workers) >= 2
        driver.kill()
        driver.wait()
    end = time.monotonic() + 10
    while (left := [number for number in workers if lives(number)]) and time.monotonic() < end:
        time.sleep(0.05)
    for number in left:
        os.kill(number, signal.SIGKILL)
    assert not left
