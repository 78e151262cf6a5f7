"""Parsing in several processes, as a person and a pipe meet it."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from ordtool.errors import OrdtoolError
from ordtool.parsing.config import ParseConfig
from ordtool.parsing.files import ParseFilesConfig, parse_files
from ordtool.parsing.parser import Parser
from ordtool.parsing.work import default_workers
from ordtool.sharding.run import Scale

LINES = [f"Line {k} has {'very ' * (k % 7)}few words ({k})." for k in range(5000)]


@pytest.fixture
def config(parsers):
    return ParseConfig(model=(str(parsers()),), dtype="float32", device="cpu")


def parsed(folder, config, workers, **options):
    files = ParseFilesConfig(
        ("a.txt",), Path("out"), parse=config, scale=Scale(workers), force=True, **options
    )
    os.chdir(folder)
    parse_files(files)
    return (folder / "out").read_text().splitlines()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_same_lines_in_the_same_order(config, tmp_path):
    some = LINES[:2100]  # several shards a worker: they begin small
    (tmp_path / "a.txt").write_text("\n".join(some) + "\n")
    lines = parsed(tmp_path, config, 2, format="brackets")
    assert lines == [parse.tree for parse in Parser(config).parse(some)]


def test_what_was_read_before_an_error_is_parsed(config, tmp_path):
    (tmp_path / "a.txt").write_bytes("\n".join(LINES[:2100]).encode() + b"\n\xff\n" + b"more\n" * 500)
    with pytest.raises(OrdtoolError, match="a.txt:2101: invalid UTF-8"):
        parsed(tmp_path, config, 2, format="brackets")
    assert (tmp_path / "out.partial").read_bytes().count(b"\n") == 2100


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_parent(launcher, parsers, tmp_path, ending):
    text = tmp_path / "a.txt"
    text.write_text("\n".join(LINES * 20))
    words = ["-m", "ordtool", "parse", "-m", parsers(), text, "--workers", 2]
    read_out, write_out = os.pipe()
    with open(os.devnull, "r+b") as nothing, open(read_out, "rb") as file:
        parent = launcher.start(
            words, stdin=nothing.fileno(), stdout=write_out, stderr=nothing.fileno(), cwd=tmp_path
        )
        os.close(write_out)
        assert file.read(100)
        listed = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text()
        children = [int(pid) for pid in listed.split()]
        assert len(children) >= 2
        parent.send_signal(ending)
        parent.wait()
    deadline = time.monotonic() + 30
    while any(map(_lives, children)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(_lives, children))


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_reader_that_leaves_is_no_error(launcher, parsers, tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(LINES))
    words = ["-m", "ordtool", "parse", "-m", parsers(), "a.txt", "--workers", 2, "--format", "brackets"]
    line, status, errors = launcher.run_before_head(words, cwd=tmp_path)
    assert line.endswith(b"\n") and (status, errors) == (141, "")


def test_drawing_and_several_processes_do_not_go_together(fails_in_process, parsers, tmp_path):
    (tmp_path / "a.txt").write_text("A line.\n")
    message = fails_in_process(
        "parse", "-m", parsers(), "a.txt", "--workers", 2, "--format", "tree", status=2
    )
    assert "--workers 2 needs" in message


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [(["-m", "nosuchmodel"], 2, "nosuchmodel"), (["--builder", "papper"], 2, "paper")],
)
def test_what_keeps_a_worker_from_starting_is_said_once(
    fails_forked, parsers, tmp_path, options, status, said
):
    (tmp_path / "a.txt").write_text("A line.\n")
    model = [] if "-m" in options else ["-m", parsers()]
    assert said in fails_forked("parse", *model, "a.txt", "--workers", 2, *options, status=status)


def test_default_workers_are_the_cores_or_the_threads():
    assert default_workers(3) == 3
    assert 1 <= default_workers() <= min(16, os.cpu_count() or 1)
