"""Outputs that are no regular files, `-o >(command)`, `-o /dev/stdout`, a named pipe, and a stdout that is closed."""

import contextlib
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from ordtool.errors import OrdtoolError, UsageError
from ordtool.io.atomic import atomic_output, check_directory, check_output
from ordtool.io.resumable import resumable_lines

COMMANDS = {
    "parse": "parse a.txt",
    "svg": "parse a.txt -f svg",
    "npy": "embed a.txt -m static",
    "npy, rows unknown": "embed a.txt -m static --on-error skip",
    "jsonl": "embed a.txt -m static --format jsonl",
    "whitened": "embed a.txt -m static --whiten --dims 2",
    "whiten": "whiten a.npy",
    "generate": "generate a.txt -m tinylm --max-new-tokens 2",
    "score": "score text a.txt a.txt",
}


@pytest.fixture(autouse=True)
def inputs(tmp_path):
    (tmp_path / "a.txt").write_text("The cat sat.\nA dog ran home.\nRivers run.\n")
    vectors = np.random.default_rng(0).standard_normal((20, 5))
    np.save(tmp_path / "a.npy", vectors[:, :3])
    np.save(tmp_path / "b.npy", vectors[:, 3:])


@contextlib.contextmanager
def taken(path):
    """Reads what is written to a pipe, as `bytes` in the list that is yielded."""
    found = []

    def read():
        with open(path, "rb") as file:
            found.append(file.read())

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    yield found
    thread.join(20)


@pytest.mark.parametrize("case", COMMANDS)
def test_the_same_into_a_file_and_any_pipe(case, run_in_process, tmp_path):
    words = COMMANDS[case].split()
    assert run_in_process(*words, "-o", "whole").returncode == 0
    expected = (tmp_path / "whole").read_bytes()
    assert expected
    reading, writing = os.pipe()
    with taken(reading) as found:
        done = run_in_process(*words, "-o", f"/dev/fd/{writing}")
        os.close(writing)
    assert done.returncode == 0, done.stderr
    assert found == [expected]
    os.mkfifo(tmp_path / "fifo")
    with taken(tmp_path / "fifo") as found:
        assert run_in_process(*words, "-o", "fifo").returncode == 0
    assert found == [expected]
    assert run_in_process(*words, "-o", "/dev/stdout").stdout == expected
    assert sorted(os.listdir(tmp_path)) == ["a.npy", "a.txt", "b.npy", "fifo", "whole"]


def test_in_a_shell(tmp_path):
    line = f"{sys.executable} -m ordtool embed a.txt -m static -o >(cat > copy.npy; echo >&2 end)"
    subprocess.run(["bash", "-c", line], cwd=tmp_path, timeout=120, check=True, capture_output=True)
    assert np.load(tmp_path / "copy.npy").shape == (3, 240)


def test_dev_stdout_writes_where_a_redirection_stands(tmp_path):
    """A shell has opened the file, and may have written to it."""
    line = f"(echo first; {sys.executable} -m ordtool score text a.txt a.txt -o /dev/stdout) > out"
    subprocess.run(["bash", "-c", line], cwd=tmp_path, timeout=120, check=True, capture_output=True)
    first, row = (tmp_path / "out").read_text().splitlines()
    assert first == "first" and '"bleu": 100' in row


@pytest.mark.parametrize("command", ["embed a.txt -m static", "generate a.txt -m tinylm"])
def test_a_pipe_cannot_be_gone_on_with(command, fails_in_process):
    for path in ("/dev/fd/2", "/dev/null", "/dev/stdout"):
        message = fails_in_process(*command.split(), "-o", path, "--resume", status=2)
        assert "--resume needs an output file" in message


def test_a_pipe_is_no_folder(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", "/dev/stdout", "-"):
        with pytest.raises(OrdtoolError, match="is no folder, and the output is one"):
            check_directory(path)


def test_an_open_file_is_written_where_it_stands(tmp_path):
    with open(tmp_path / "out", "wb") as file:
        file.write(b"first\n")
        file.flush()
        path = f"/dev/fd/{file.fileno()}"
        check_output(path)
        with atomic_output(path) as output:
            output.write(b"second\n")
        with resumable_lines(path, inputs=[], settings={}) as lines:
            lines.write("third")
        with pytest.raises(UsageError), resumable_lines(path, inputs=["a"], settings={}, resume=True):
            pass
    assert (tmp_path / "out").read_text() == "first\nsecond\nthird\n"


@pytest.mark.parametrize(
    "words", ["embed a.txt -m static", "score text a.txt a.txt", "parse a.txt", "--version"]
)
def test_a_closed_stdout_is_named(words, tmp_path):
    line = f"{sys.executable} -m ordtool {words} >&-"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, timeout=120, check=False)
    assert done.returncode == 1, done.stderr
    assert b"error: stdout is closed" in done.stderr and b"this is a bug" not in done.stderr


def test_a_closed_stdout_does_not_matter_with_an_output(tmp_path):
    line = f"{sys.executable} -m ordtool embed a.txt -m static -o out.npy >&-"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "out.npy").shape == (3, 240)
