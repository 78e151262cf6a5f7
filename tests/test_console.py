"""What a person sees on a terminal: bars that give way to data, control characters spelt out, tables that fit."""

import io
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console

from ordtool import console
from ordtool.cli.app import interrupts_arrive
from ordtool.progress import close_bars, counted, hold_bars


@pytest.fixture
def terminal(monkeypatch):
    """Stand a terminal of 80 columns for stderr; what it was sent can be read."""
    hold_bars(False)
    sent = io.StringIO()
    monkeypatch.setattr(console, "stderr", Console(file=sent, force_terminal=True, width=80, soft_wrap=True))
    yield sent
    hold_bars(False)
    close_bars()


def test_a_bar_ends_with_the_first_data_in_a_pipe(terminal, monkeypatch):
    reader, writer = os.pipe()
    progress = console.RichProgress()
    with open(reader), open(writer, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        progress.start("embedding", 3, "texts")
        assert "embedding" in terminal.getvalue()
        console.write_line("{}")
        before = terminal.getvalue()
        assert before.endswith("\x1b[1A\x1b[2K"), "the line isn't erased"
        progress.start("embedding", 3, "texts")
        progress.advance(1)
        progress.close()
        assert terminal.getvalue() == before


def test_a_bar_stays_beside_data_in_a_file(terminal, tmp_path, monkeypatch):
    progress = console.RichProgress()
    with open(tmp_path / "out", "w") as file:
        monkeypatch.setattr(sys, "stdout", file)
        progress.start("embedding", 3, "texts")
        console.write_line("{}")
        before = terminal.getvalue()
        progress.start("again", 3, "texts")
    assert "again" in terminal.getvalue().removeprefix(before)


def test_a_bar_says_how_much_is_done_and_fits_on_a_line(terminal):
    progress = console.RichProgress()
    progress.start("parsing", 1_234_567, "B")
    progress.advance(400_000)
    progress.close()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert re.search(r"parsing \S+ +32% 400\.0k/1\.23M B .*\d:\d\d:\d\d", shown)


def test_the_cursor_is_shown_after_an_error(terminal, run_in_process, tmp_path):
    (tmp_path / "gold.mrg").write_text("(S (NP (DT The) (NN cat)) (VP (VBD sat)))\n(S (NP (DT The)")
    (tmp_path / "trees.txt").write_text("((The cat) sat)\n")
    done = run_in_process("score", "trees", "trees.txt", "gold.mrg")
    assert done.returncode == 1
    assert re.findall(r"\x1b\[\?25[hl]", terminal.getvalue())[-2:] == ["\x1b[?25l", "\x1b[?25h"]
    assert "error:" in terminal.getvalue().rpartition("\x1b[?25h")[2]


def test_control_characters_are_spelt_out(terminal):
    title = "\x1b]0;mine\x07"
    console.error(f"{title}: can't be read", f"{title}?")
    console.note(f"a\tb{title}[bold]\x9b\udcff")
    progress = console.RichProgress()
    progress.start(title, 1, "B")
    shown = terminal.getvalue()
    assert "\x1b]0" not in shown
    assert shown.count(r"\x1b]0;mine\x07") >= 4
    assert r"[bold]\x9b\udcff" in shown


def test_notes_break_between_words(terminal):
    path = "/home/someone/" + "long-name/" * 9
    console.warn(
        f"twenty texts of this file were cut, since {path} reads 512 tokens and no more than that, as it says"
    )
    lines = terminal.getvalue().split("\n")
    assert any(path in line for line in lines)
    assert all(len(line) <= 80 + 20 for line in lines if path not in line)
    assert "".join(lines).count("  ") >= 1


def test_ctrl_c_while_it_is_loaded():
    code = (
        "import os, signal, sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'typer': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "from ordtool.__main__ import main\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGINT
    assert done.stderr == ""


def test_one_is_no_plural():
    assert counted(1, "text") == "1 text"
    assert counted(2000, "class", "classes") == "2,000 classes"


def test_ctrl_c_while_an_object_is_deleted():
    class Interrupted:
        def __del__(self):
            raise KeyboardInterrupt

    end = time.monotonic() + 20
    with interrupts_arrive(), pytest.raises(KeyboardInterrupt):
        Interrupted()
        while time.monotonic() < end:
            pass
