"""Shared fixtures: everything runs offline, and commands run as real processes."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

ROOT = Path(__file__).parent.parent

Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`run("parse", "a.txt", stdin=...)`: ordtool in a process of its own, in an empty folder.

    stdin and stdout are bytes; stderr is text.
    """

    def call(*args: object, stdin: bytes = b"", timeout: float = 120, env: dict[str, str] | None = None):
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("ORDTOOL_")},
            "HF_HUB_OFFLINE": "1",
            "COLUMNS": "100",
            "NO_COLOR": "1",
            **(env or {}),
        }
        done = subprocess.run(
            [sys.executable, "-m", "ordtool", *map(str, args)],
            input=stdin,
            capture_output=True,
            cwd=tmp_path,
            env=environment,
            timeout=timeout,
            check=False,
        )
        done.stderr = done.stderr.decode()
        return done

    return call


@pytest.fixture
def refused(run: Run) -> Callable[..., str]:
    """Run a command that must fail: one error line, a hint line at most, no traceback. Gives stderr."""

    def call(*args: object, status: int = 1, stdin: bytes = b"", **kwargs) -> str:
        done = run(*args, stdin=stdin, **kwargs)
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        assert sum(line.startswith("error: ") for line in lines) == 1, done.stderr
        assert sum(line.startswith("hint: ") for line in lines) <= 1, done.stderr
        return done.stderr

    return call
