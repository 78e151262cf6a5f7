"""The error boundary and the manners of the whole command."""

import os
import resource
import signal
import subprocess
import sys
import time
from importlib.metadata import version

import pytest

import ordtool
import ordtool.cli.app
from ordtool.models.releases import installed_releases, untested_releases


def test_version(run):
    done = run("--version")
    libraries = [f"{name} {version(name)}" for name in ("torch", "transformers")]
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.decode().splitlines() == [f"ordtool {ordtool.__version__}", *libraries]


def _pretend(folder, name, release, *requires):
    """Put metadata of another release of a distribution into `folder`, which will stand first on the path."""
    info = folder / f"{name}-{release}.dist-info"
    info.mkdir(parents=True)
    lines = [f"Name: {name}", f"Version: {release}", *(f"Requires-Dist: {line}" for line in requires)]
    (info / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", *lines, ""]))


@pytest.mark.parametrize(
    ("torch", "transformers", "named"),
    [
        ("2.13.1+cpu", "5.24.9", None),
        ("2.13.0", "6.1.0", "transformers 6.1.0 (tested: >=5.0,<5.25)"),
        (
            "2.14.0a0",
            "5.0rc3",
            "torch 2.14.0a0 (tested: >=2.6,<2.14) and transformers 5.0rc3 (tested: >=5.0,<5.25)",
        ),
    ],
)
def test_an_untested_release_is_said_once(torch, transformers, named, run_in_process, tmp_path, monkeypatch):
    found = tmp_path / "found"
    _pretend(found, "torch", torch)
    _pretend(found, "transformers", transformers)
    _pretend(
        found, "ordtool", "0.1", "torch>=2.6,<2.14", "transformers<5.25,>=5.0", "numpy", 'x; extra == "y"'
    )
    monkeypatch.syspath_prepend(str(found))
    untested_releases.cache_clear()
    try:
        done = run_in_process("parse", "missing.txt")
        shown, light = run_in_process("--version"), run_in_process("score", "trees", "missing.txt", "gold")
    finally:
        untested_releases.cache_clear()
    first, *rest = done.stderr.splitlines()
    if named:
        assert first == f"warning: ordtool was not tested with {named}"
        first, *rest = rest
    assert first.startswith("error: ") and "warning" not in "".join(rest)
    assert f"torch {torch}\ntransformers {transformers}\n".encode() in shown.stdout
    assert shown.stderr == "" and "warning" not in light.stderr


def test_where_ordtool_is_not_installed_any_release_will_do(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert untested_releases.__wrapped__() == ()
    assert installed_releases() == {"torch": None, "transformers": None}


def test_help_is_quick_and_lists_every_command(run):
    from ordtool.cli.app import COMMANDS

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    for name in COMMANDS:
        assert f" {name} " in done.stdout.decode()
    # Seconds of the processor, which a busy machine does not stretch: 0.3 here, where importing torch takes 1.6.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


def test_unknown_command_suggests(fails_in_process):
    assert "parse" in fails_in_process("prase", status=2)


def test_unknown_option_names_the_help(fails_in_process):
    assert "ordtool parse --help" in fails_in_process("parse", "--no-such-option", status=2)


def test_missing_file_has_no_traceback_but_debug_shows_it(fails_in_subprocess, run):
    fails_in_subprocess("parse", "missing.txt")
    for argv in (("--debug", "parse", "missing.txt"), ("parse", "missing.txt", "--debug")):
        done = run(*argv)
        assert done.returncode == 1
        assert "Traceback" in done.stderr


@pytest.mark.parametrize(
    "command",
    [["parse"], ["embed"], ["whiten"], ["generate"], ["extrapolate"]],
    ids=lambda command: command[0],
)
def test_a_name_that_is_too_long_is_no_bug(command, fails_in_process, tmp_path):
    name = "a" * 300
    message = fails_in_process(*command, name)
    assert name in message.replace("\n", "") and "bug" not in message


def test_similar_file_is_suggested(fails_in_process, tmp_path):
    (tmp_path / "sentences.txt").write_text("A cat sat.\n")
    assert "did you mean sentences.txt" in fails_in_process("parse", "sentence.txt")


def test_full_stdout_is_an_error_not_a_traceback(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ordtool", "models", "list", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")


def test_broken_pipe_is_silent_and_141(tmp_path):
    # Many lines, so that the writer meets the closed pipe.
    text = tmp_path / "many.txt"
    text.write_text("The cat sat on the mat .\n" * 3000)
    command = f"{sys.executable} -m ordtool parse {text} --json | head -n 1; echo status ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout.endswith("status 141\n")
    assert done.stdout.count("\n") == 2
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you"),
            "out of memory",
        ),
        (RuntimeError("Storage size calculation overflowed with sizes=[9]"), "out of memory"),
        (RuntimeError("mat1 and mat2"), "unexpected: RuntimeError: mat1 and mat2"),
    ],
)
def test_memory_that_runs_out_is_no_bug(error, said, fails_in_process, monkeypatch):
    def fail():
        raise error

    monkeypatch.setattr("ordtool.models.entries.catalogue", fail)
    assert f"error: {said}\n" in fails_in_process("models", "show", "static")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_a_command_without_a_traceback(number, status):
    # stdin stays open, so the command waits for text until it is interrupted.
    process = subprocess.Popen(
        [sys.executable, "-m", "ordtool", "parse"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    time.sleep(3)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode in (status, -number)  # or it had not begun
    assert "Traceback" not in stderr


TALKATIVE = """
import logging, sys, warnings

def talk():
    warnings.warn("a name will go", FutureWarning, stacklevel=1)
    logging.getLogger("some.package").warning("so much advice")
    print("data")

if __name__ == "__main__":
    from ordtool.cli.app import COMMANDS, main
    COMMANDS["talk"] = "talkative:talk"
    main()
"""


@pytest.mark.parametrize("debug", [False, True])
def test_what_libraries_say_is_shown_by_debug_alone(tmp_path, debug):
    (tmp_path / "talkative.py").write_text(TALKATIVE)
    options = ["--debug"] if debug else []
    done = subprocess.run(
        [sys.executable, "talkative.py", "talk", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "data\n")
    said = ["FutureWarning: a name will go" in done.stderr, "so much advice" in done.stderr]
    assert said == [debug, debug] and bool(done.stderr) == debug


def test_a_warning_that_is_an_error_stays_one(tmp_path, run_in_process, monkeypatch):
    (tmp_path / "talkative.py").write_text(TALKATIVE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(ordtool.cli.app.COMMANDS, "talk", "talkative:talk")
    done = run_in_process("talk")
    assert done.returncode == 1
    assert "FutureWarning: a name will go" in done.stderr
