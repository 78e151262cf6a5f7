"""The examples in the README and in docs/ are run as written.

A fenced block of language `console` is a session: lines that start with `$ ` are commands, what follows is what they
print on stdout, where a line `...` stands for any number of lines. A session runs in a fresh folder that has
`examples/`. Blocks of other languages (`sh`) are shown, not run: they need a model from the network or your files.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.M | re.S)


def sessions():
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        blocks = BLOCK.findall(page.read_text())
        if blocks:
            yield pytest.param(blocks, id=page.name)


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


@pytest.mark.parametrize("blocks", list(sessions()))
def test_sessions_print_what_is_written(blocks, tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    env = {
        **{key: value for key, value in os.environ.items() if not key.startswith("ORDTOOL_")},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
        "ORDTOOL_QUIET": "1",
        "COLUMNS": "100",
    }
    for block in blocks:
        for command, expected in commands(block):
            if "jq " in command and shutil.which("jq") is None:
                continue
            done = subprocess.run(
                ["bash", "-o", "pipefail", "-c", command],
                cwd=tmp_path,
                env=env,
                capture_output=True,
                check=False,
            )
            stderr = done.stderr.decode()
            assert done.returncode in {0, 141}, f"{command}\n{stderr}"
            printed = done.stdout.decode()
            if expected:
                assert matches(printed, expected), (
                    f"{command}\n--- written\n{expected}\n--- printed\n{printed}"
                )


def test_the_matcher_can_fail():
    assert matches("a\nb\nc\n", "a\n...\nc")
    assert matches("p 0.123 s\n", "p ... s")
    assert not matches("a\nb\nc\n", "a\nc")
    assert not matches("a\n", "b")


def test_links_between_pages_lead_somewhere():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
