"""Commands in this process, which has torch already, for what needs no process of its own."""

import io
import sys
from types import SimpleNamespace

import pytest


@pytest.fixture
def inside(tmp_path, monkeypatch, capsysbinary):
    """As `run`: `inside("parse", "a.txt", stdin=b"...")`, with the same answer."""
    from ordtool.cli.app import main

    def call(*args, stdin=b"", env=None):
        monkeypatch.chdir(tmp_path)
        for name, value in {"COLUMNS": "100", "NO_COLOR": "1", **(env or {})}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(stdin))))
        with pytest.raises(SystemExit) as end:
            main([str(arg) for arg in args])
        out, err = capsysbinary.readouterr()
        return SimpleNamespace(returncode=end.value.code, stdout=out, stderr=err.decode())

    return call


@pytest.fixture
def turned_down(inside):
    """As `refused`: a command that must fail with one error and a hint at most; gives stderr."""

    def call(*args, status=1, stdin=b""):
        done = inside(*args, stdin=stdin)
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.count("error: ") == 1 and done.stderr.count("hint: ") <= 1, done.stderr
        return done.stderr

    return call
