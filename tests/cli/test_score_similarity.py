"""`ordtool score similarity` as a process: fields, models, vectors, bad input."""

import json

import numpy as np
import pytest

from ordtool.cli.app import main

FIELDS = ["vectors", "transform", "spearman", "pearson", "pairs", "fitted_on"]
SENTENCES = [
    ("A man is playing a guitar.", "A man plays the guitar.", 4.8),
    ("A woman is cooking soup.", "Somebody makes soup.", 3.9),
    ("The cat sleeps on the sofa.", "A dog runs through the park.", 0.9),
    ("Prices rose sharply in May.", "In May prices went up a lot.", 4.6),
    ("The train was late again.", "He bought three red apples.", 0.1),
    ("Children are singing in a choir.", "A choir of children sings.", 4.7),
    ("The bank raised its rates.", "We sat on the bank of the river.", 0.6),
    ("A boy kicks a ball.", "A girl throws a ball.", 2.4),
    ("Snow fell during the night.", "It snowed last night.", 4.5),
    ("The minister resigned on Monday.", "On Monday the minister stepped down.", 4.9),
]


@pytest.fixture
def pairs(tmp_path):
    rng = np.random.default_rng(0)
    lines = [f'"{left}","{right}",{score}\n' for left, right, score in SENTENCES]
    (tmp_path / "pairs.csv").write_text("".join(lines))
    left = rng.standard_normal((len(SENTENCES), 6)).astype(np.float32)
    np.save(tmp_path / "left.npy", left)
    np.save(tmp_path / "right.npy", left + rng.standard_normal(left.shape).astype(np.float32))
    return tmp_path


@pytest.fixture
def here(pairs, monkeypatch, capsysbinary):
    """Run in this process: `(status, rows, stderr)`."""
    monkeypatch.chdir(pairs)
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*argv):
        with pytest.raises(SystemExit) as end:
            main(["score", "similarity", *map(str, argv)])
        captured = capsysbinary.readouterr()
        return end.value.code, [json.loads(line) for line in captured.out.splitlines()], captured.err.decode()

    return call


def test_a_packaged_model_scores_pairs(run_in_process, pairs):
    settings = ("--setting", "beta=0,gamma=0,dims=8", "--setting", "shrinkage=oas")
    done = run_in_process("score", "similarity", "pairs.csv", "-m", "static", *settings)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [list(row) for row in rows] == [FIELDS] * 4
    assert [row["transform"] for row in rows] == ["raw", "whitened", "beta=0,gamma=0,dims=8", "shrinkage=oas"]
    assert {row["vectors"] for row in rows} == {"static"}
    assert {row["pairs"] for row in rows} == {len(SENTENCES)}
    assert rows[0]["fitted_on"] is None
    assert {row["fitted_on"] for row in rows[1:]} == {"the scored sentences themselves (transductive)"}
    assert rows[0]["spearman"] > 60
    assert "warning: whitened: 20 rows for" in done.stderr
    again = run_in_process(
        "score", "similarity", "-", "-m", "static", *settings, stdin=(pairs / "pairs.csv").read_bytes()
    )
    assert again.stdout == done.stdout


def test_embed_and_vectors_give_what_the_model_gives(run_in_process, pairs, here):
    for side in (0, 1):
        (pairs / f"{side}.txt").write_text("".join(pair[side] + "\n" for pair in SENTENCES))
        assert run_in_process("embed", "-m", "static", f"{side}.txt", "-o", f"{side}.npy").returncode == 0
    _, by_files, _ = here("pairs.csv", "--vectors", "0.npy", "--vectors", "1.npy", "-q")
    _, by_model, _ = here("pairs.csv", "-m", "static", "-q")
    assert [row["vectors"] for row in by_files] == ["0.npy + 1.npy"] * 2
    for one, two in zip(by_files, by_model, strict=True):
        assert one["spearman"] == pytest.approx(two["spearman"], abs=1e-6)


def test_fitting_on_other_texts_or_pairs(here, pairs):
    (pairs / "more.txt").write_text(
        "".join(f"{left}\n{right} And so on.\n" for left, right, _ in SENTENCES * 2)
    )
    _, rows, _ = here("pairs.csv", "-m", "static", "--fit-on", "more.txt", "-q")
    assert rows[1]["fitted_on"] == "more.txt (40 rows)"
    # With fewer rows than columns the plain whitening leaves rounding only, so four columns are compared.
    four = ("-m", "static", "--setting", "dims=4", "-q")
    _, rows, _ = here("pairs.csv", *four, "--fit-on", "pairs.csv")
    _, transductive, _ = here("pairs.csv", *four)
    assert rows[1]["fitted_on"] == "pairs.csv (20 rows)"
    assert rows[2]["spearman"] == pytest.approx(transductive[2]["spearman"], abs=1e-6)


def test_a_transform_says_what_it_was_fitted_on(here, run_in_process, pairs):
    assert run_in_process("whiten", "left.npy", "--dims", 3, "--save", "t.safetensors").returncode == 0
    vectors = ("--vectors", "left.npy", "--vectors", "right.npy")
    status, rows, _ = here("pairs.csv", *vectors, "--transform", "t.safetensors", "-q")
    assert status == 0
    assert (rows[1]["transform"], rows[1]["fitted_on"]) == ("t.safetensors", "left.npy (10 rows)")


def test_output_goes_to_a_file(here, pairs):
    vectors = ("--vectors", "left.npy", "--vectors", "right.npy", "-q")
    assert here("pairs.csv", *vectors, "-o", "rows.jsonl") == (0, [], "")
    assert len((pairs / "rows.jsonl").read_text().splitlines()) == 2
    status, _, stderr = here("pairs.csv", *vectors, "-o", "rows.jsonl")
    assert status == 1
    assert "--force replaces it" in stderr


def test_constant_scores_are_null(here, pairs):
    (pairs / "same.csv").write_text("A b.,C d.,1\nE f.,G h.,1\nI.,J.,1\n")
    status, rows, _ = here("same.csv", "-m", "static", "-q", "--setting", "dims=1")
    assert status == 0
    assert (rows[0]["spearman"], rows[0]["pearson"]) == (None, None)


def test_bad_lines_can_be_skipped(here, pairs):
    with (pairs / "pairs.csv").open("a") as file:
        file.write("only one cell\n")
    status, rows, stderr = here("pairs.csv", "-m", "static", "--on-error", "skip", "-q")
    assert (status, rows[0]["pairs"]) == (0, 10)
    assert "warning: 1 bad record skipped\nwarning: pairs.csv:11: 1 column(s), and 3 are needed" in stderr


@pytest.mark.parametrize(
    ("argv", "status", "message"),
    [
        (("missing.csv",), 1, "missing.csv: no such file"),
        (("left.npy",), 1, "invalid UTF-8"),
        (("pairs.csv", "-m", "static", "--vectors", "left.npy"), 2, "--model and --vectors contradict"),
        (("pairs.csv", "--vectors", "left.npy"), 1, "left.npy: 10 rows, and 10 pairs need 20"),
        (("pairs.csv", "--vectors", "nan.npy", "--vectors", "right.npy"), 1, "row 4 "),
        (("pairs.csv", "--vectors", "pairs.csv"), 1, "pairs.csv: not an NPY file"),
        (("pairs.csv", "-m", "statik"), 2, "did you mean 'static'"),
        (("pairs.csv", "-m", "static", "--pooling", "mena"), 2, "did you mean 'mean'"),
        (("pairs.csv", "-m", "static", "--setting", "dim=3"), 2, "did you mean 'dims'"),
        (("pairs.csv", "-m", "static", "--setting", "beta"), 2, "beta has no value"),
        (("pairs.csv", "-m", "static", "--transform", "left.npy"), 1, "it is an NPY file"),
        (("pairs.csv", "-m", "static", "--columns", "1,2"), 2, "three columns are needed"),
        (
            ("pairs.csv", "-m", "static", "--columns", "1,2,9"),
            1,
            "pairs.csv:1: 3 column(s), and 9 are needed",
        ),
        (("pairs.csv", "-m", "static", "--on-error", "ignore"), 2, "unknown --on-error 'ignore'"),
        (("pairs.csv", "-m", "static", "-o", "no/such.jsonl"), 1, "mkdir -p"),
    ],
    ids=str,
)
def test_bad_input_is_one_line(here, pairs, argv, status, message):
    bad = np.load(pairs / "left.npy")
    bad[4] = np.inf
    np.save(pairs / "nan.npy", bad)
    found, rows, stderr = here(*argv)
    assert (found, rows) == (status, [])
    assert message in stderr
    lines = stderr.splitlines()
    assert sum(line.startswith("error: ") for line in lines) == 1
    assert sum(line.startswith("hint: ") for line in lines) <= 1
