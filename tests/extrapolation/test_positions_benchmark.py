"""The table of position schemes in a smoke version: tiny models, two updates, and again without training."""

import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "benchmarks" / "positions.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("positions_benchmark", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_other_passage_comes_twice(benchmark):
    text = " ".join(f"w{n}" for n in range(2000))
    found = benchmark.with_repeats(text, seed=1)
    assert benchmark.with_repeats(text, seed=1) == found != benchmark.with_repeats(text, seed=2)
    words = found.split()
    counts = [words.count(word) for word in text.split()]
    assert set(counts) == {1, 2}
    assert 0.4 < counts.count(2) / len(counts) < 0.6


def test_every_scheme_is_trained_and_tested_once(benchmark, tmp_path, capsys):
    words = "the cat sat on a mat and dog saw bird in tree by log when sun was up".split()
    for name, step in (("train.txt", 5), ("held-out.txt", 7)):
        text = " ".join(words[n * step * n % len(words)] for n in range(150))
        (tmp_path / name).write_text(text)
    arguments = [
        "--work", str(tmp_path / "work"), "--texts", str(tmp_path / "train.txt"), "--held-out",
        str(tmp_path / "held-out.txt"), "--steps", "1", "--hidden", "8", "--heads", "2", "--layers", "2",
        "--context", "8", "--vocab-size", "260", "--batch-size", "2", "--windows", "1",
    ]  # fmt: skip
    benchmark.main(arguments)
    first = capsys.readouterr().out
    lines = first[first.index("| trained") :].splitlines()
    assert len(lines) == 2 + sum(len(methods) for _, methods in benchmark.RUNS.values())
    assert all(line.count("|") == 10 for line in lines)
    figures = (tmp_path / "work" / "rows.jsonl").read_bytes()
    benchmark.main(arguments)  # nothing is done again
    assert (tmp_path / "work" / "rows.jsonl").read_bytes() == figures
    assert first.endswith(capsys.readouterr().out)
