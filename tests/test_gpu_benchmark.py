"""`benchmarks/gpu.py` at toy sizes, so that no minute on a card is lost to a slip of the pen."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu.py"
SECTIONS = sorted(p.stem for p in (SCRIPT.parent / "gpu_sections").glob("[a-z]*.py") if p.stem != "measure")


@pytest.fixture
def script(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_runs_and_says_what_it_measured(section, script, tmp_path, capsys):
    output = tmp_path / "gpu.json"
    assert script.main(["--toy", "--device", "cpu", "--sections", section, "--json", str(output)]) == 0
    record = json.loads(output.read_text())
    assert record["rows"] and not record["failed"]
    assert all(row["section"] == section and row["value"] > 0 for row in record["rows"])
    printed = capsys.readouterr().out
    assert all(f"| {row['work']} | {row['system']} |" in printed for row in record["rows"])


def test_a_section_that_fails_does_not_stop_the_others(script, monkeypatch, capsys):
    monkeypatch.setattr(script, "SECTIONS", ("missing", "spans"))
    assert script.main(["--toy", "--device", "cpu", "--sections", "missing,spans"]) == 1
    printed = capsys.readouterr().out
    assert "failed: missing: ModuleNotFoundError" in printed and "trees of 25 words" in printed
    assert printed.index("seconds: missing") < printed.index(", spans")  # in the order asked for
