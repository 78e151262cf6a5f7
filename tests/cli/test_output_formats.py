"""What is written is what the name of the output promises, in every command."""

import csv
import io
import json

import numpy as np
import pytest

COMMANDS = {
    "embed": ["embed", "-m", "static", "a.txt"],
    "parse": ["parse", "a.txt"],
    "generate": ["generate", "-m", "tinylm", "a.txt"],
    "predict": ["predict", "-m", "no-model", "a.txt"],
    "extrapolate": ["extrapolate", "-m", "tinylm", "a.txt"],
    "whiten": ["whiten", "x.npy"],
    "hsic": ["hsic", "x.npy", "x.npy"],
    "score similarity": ["score", "similarity", "-m", "static", "a.txt"],
    "score trees": ["score", "trees", "a.txt", "a.txt"],
    "score text": ["score", "text", "a.txt", "a.txt"],
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.txt").write_text("The cat sat, it sat.\nA dog barks.\n")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((40, 3)))
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("suffix", [".pt", ".npz", ".conllu", ".html", ".txt", ".xlsx"])
def test_no_command_writes_under_the_name_of_another_format(fails_in_process, folder, command, suffix):
    if (command[0], suffix) == ("parse", ".html"):
        suffix = ".docx"  # .html is a format of parse
    said = fails_in_process(*command, "-o", f"out{suffix}", status=2)
    assert f"out{suffix}: a {suffix} file isn't written here" in said
    assert "hint: choices: ." in said
    assert sorted(path.name for path in folder.iterdir()) == ["a.txt", "x.npy"]


@pytest.mark.parametrize("option", [("--save", "t.npy"), ("-o", "w.csv"), ("-o", "w.jsonl")])
def test_vectors_and_transforms_have_one_format_each(fails_in_process, folder, option):
    assert "isn't written here" in fails_in_process("whiten", "x.npy", *option, status=2)


def test_a_table_of_vectors(run_in_process, folder):
    (folder / "a.jsonl").write_text(
        '{"id": 1, "text": "a \\"cat\\", a dog"}\n{"id": 2, "text": "two\\nlines"}\n'
    )
    command = ("embed", "-m", "static", "a.jsonl", "--dims", 3, "-o")
    assert run_in_process(*command, "v.npy").returncode == 0
    assert run_in_process(*command, "v.csv").returncode == 0
    with open(folder / "v.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], row["text"]) for row in rows] == [("1", 'a "cat", a dog'), ("2", "two\nlines")]
    numbers = [[row[f"vector_{column}"] for column in range(3)] for row in rows]
    np.testing.assert_array_equal(np.array(numbers, np.float32), np.load(folder / "v.npy"))


def test_a_table_of_texts(run_in_process, folder):
    command = ("generate", "-m", "tinylm", "a.txt", "--max-new-tokens", 3, "-o")
    for name in ("g.csv", "g.jsonl"):
        done = run_in_process(*command, name)
        assert done.returncode == 0, done.stderr
    objects = [json.loads(line) for line in (folder / "g.jsonl").read_text().splitlines()]
    assert list(csv.DictReader(io.StringIO((folder / "g.csv").read_text(), newline=""))) == objects


def test_a_table_of_tests(run_in_process, folder):
    command = ("hsic", "x.npy", "x.npy", "x.npy", "--test", "none", "-o")
    for name in ("h.csv", "h.jsonl"):
        assert run_in_process(*command, name).returncode == 0
    objects = [json.loads(line) for line in (folder / "h.jsonl").read_text().splitlines()]
    rows = list(csv.DictReader(io.StringIO((folder / "h.csv").read_text(), newline="")))
    assert [list(row) for row in rows] == [list(found) for found in objects]
    assert [float(row["statistic"]) for row in rows] == [found["statistic"] for found in objects]
