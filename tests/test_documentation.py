"""The examples in the README and in docs/ are run as written.

A fenced block of language `console` is a session: lines that start with `$ ` are commands, what follows is what they
print on stdout, where a line `...` stands for any number of lines. The `python` blocks of a page share their names. A page
runs from top to bottom in a fresh folder that has `examples/`. Blocks of other languages (`sh`) are shown, not run: they
need a model from the network or your files.

ordtool runs in this process, because a process of its own takes seconds to load torch; what stands beside it in a pipe runs
in a shell. The first pipe of the README runs in a shell as it is.
"""

import ast
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ordtool

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", re.M | re.S)
STAGE = re.compile(
    r"""(?:'[^']*'|"[^"]*"|[^|'"])+"""
)  # of a pipe: what stands between bars that aren't quoted
ENVIRONMENT = {"ORDTOOL_QUIET": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "100"}


def pages():
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        if BLOCK.search(page.read_text()):
            yield pytest.param(page, id=page.name)


def commands(block: str):
    """Yields `(command, expected output)`."""
    for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
        lines = part.split("\n")
        command = lines.pop(0)
        while command.endswith("\\"):
            command = command[:-1] + lines.pop(0)
        yield command, "\n".join(lines).strip("\n")


def matches(printed: str, expected: str) -> bool:
    pattern = "".join(
        r"(?:.*\n)*?"
        if line.strip() == "..."
        else re.escape(line.rstrip()).replace(r"\.\.\.", ".*") + r"[ ]*\n"
        for line in expected.split("\n")
    )
    return re.fullmatch(pattern, printed.strip("\n") + "\n") is not None


def check_output(command: str, printed: bytes, expected: str) -> None:
    text = printed.decode()
    assert not expected or matches(text, expected), f"{command}\n--- written\n{expected}\n--- printed\n{text}"


def run_shell(command: str, folder: Path, stdin: bytes = b"") -> bytes:
    env = {key: value for key, value in os.environ.items() if not key.startswith("ORDTOOL_")}
    env |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **ENVIRONMENT}
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=folder,
        env=env,
        input=stdin,
        capture_output=True,
        check=False,
    )
    assert done.returncode in {0, 141}, f"{command}\n{done.stderr.decode()}"
    return done.stdout


@pytest.fixture
def folder(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORDTOOL_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def run_pipe(folder, run_in_process):
    """Run a pipe, a stage after the other: ordtool in this process, all else in a shell. Gives what it prints."""

    def call(command: str) -> bytes:
        data = b""
        for stage in STAGE.findall(command):
            words = shlex.split(stage)
            if words[0] != "ordtool":
                data = run_shell(stage, folder, data)
                continue
            target = words.pop() if len(words) > 2 and words[-2] == ">" else None
            arguments = words[1:-1] if target else words[1:]
            done = run_in_process(*arguments, stdin=data, env=ENVIRONMENT)
            assert done.returncode == 0, f"{stage}\n{done.stderr}"
            data = done.stdout
            if target:
                (folder / target).write_bytes(data)
                data = b""
        return data

    return call


@pytest.mark.parametrize("page", list(pages()))
def test_a_page_runs_as_it_is_written(page, run_pipe):
    names = {"__name__": "__main__"}
    for found in BLOCK.finditer(text := page.read_text()):
        kind, block = found.groups()
        if kind == "python":
            line = text.count("\n", 0, found.start()) + 1
            exec(
                compile("\n" * line + block, page.name, "exec"), names
            )  # so that errors name the page's line
            continue
        for command, expected in commands(block):
            if "jq " not in command or shutil.which("jq"):
                check_output(command, run_pipe(command), expected)


# They fetch from a network, or read what only its owner has.
NOT_RUN = ("ordtool models pull", "ordtool models convert")


COMMANDS = (
    "parse", "embed", "whiten", "whiten merge", "hsic", "extrapolate", "generate", "predict", "train parser", "train spans",
    "train lm", "train seq2seq", "train ladder", "train bottleneck", "score trees", "score similarity", "score text",
    "score agreement", "models list", "models show", "models pull", "models convert",
)  # fmt: skip


def test_no_command_is_missing_here(every_command):
    assert set(COMMANDS) == set(every_command)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_of_the_help_run_as_they_stand(name, every_command, run_pipe, encoders):
    examples = every_command[name].examples
    assert examples and all(len(line) < 120 for line in examples)
    for line in examples:
        if not line.startswith(NOT_RUN):
            # The one name that isn't packaged stands for a folder here.
            run_pipe(re.sub(r"-m minilm\b", f"-m {encoders('plain-bert')}", line))


@pytest.mark.skipif(shutil.which("jq") is None, reason="the pipe ends in jq")
def test_a_pipe_runs_in_a_shell(folder):
    kind, block = BLOCK.search((ROOT / "README.md").read_text()).groups()
    assert kind == "console"
    command, expected = next(commands(block))
    assert "| ordtool" in command
    check_output(command, run_shell(command, folder), expected)


def test_the_notebook_draws_a_tree_a_heat_map_and_a_curve(folder):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    cells = json.loads((ROOT / "examples" / "tour.ipynb").read_text())["cells"]
    names, shown = {}, []
    for source in ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"):
        *statements, last = ast.parse(source).body
        if not isinstance(last, ast.Expr):
            exec(source, names)
            continue
        exec(compile(ast.Module(statements, []), "tour.ipynb", "exec"), names)
        shown.append(
            eval(compile(ast.Expression(last.value), "tour.ipynb", "eval"), names)
        )  # as a notebook does
    assert shown[0]._repr_svg_().startswith("<svg")
    figures = [pyplot.figure(number) for number in pyplot.get_fignums()]
    assert [len(axis.images) for axis in figures[0].axes] == [1, 1]
    assert [line.get_label() for line in figures[1].axes[0].lines] == ["as it is", "rerope"]
    plain, rerope = (line.get_ydata() for line in figures[1].axes[0].lines)
    assert plain[-8:].mean() > rerope[-8:].mean()
    pyplot.close("all")


def test_pipes_are_split_at_bars_that_are_not_quoted():
    assert [part.strip() for part in STAGE.findall("a 'b|c' | d \"|\" e > f")] == ["a 'b|c'", 'd "|" e > f']


def test_the_matcher_can_fail():
    assert matches("a\nb\nc\n", "a\n...\nc")
    assert matches("p 0.123 s\n", "p ... s")
    assert not matches("a\nb\nc\n", "a\nc")
    assert not matches("a\n", "b")


def test_the_api_page_has_every_name_and_no_other():
    targets = re.findall(r"^::: (\S+)$", (ROOT / "docs" / "api.md").read_text(), re.M)
    for target in targets:
        module, name = target.rsplit(".", 1)
        assert getattr(importlib.import_module(module), name), target
    assert {f"ordtool.{name}" for name in ordtool._EXPORTS} <= set(targets)


def test_every_page_is_in_the_navigation():
    pages = set(re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M))
    results = {f"benchmarks/{page.name}" for page in (ROOT / "benchmarks").glob("RESULTS-*.md")}
    beside = {"index.md", "CONTRIBUTING.md", "CHANGELOG.md"}
    assert pages == {page.name for page in (ROOT / "docs").glob("*.md")} | results | beside


def test_links_between_pages_lead_somewhere():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
