import json

import numpy as np
import pytest

SMALL = ("--layers", "32,32", "--epochs", "20", "--batch-size", "32", "--runs", "1", "--sigma", "2")


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 160)
    vectors = (3 * np.eye(5)[labels] + rng.standard_normal((160, 5))).astype(np.float32)
    np.save(tmp_path / "v.npy", vectors)
    np.save(tmp_path / "l.npy", labels)
    names = ["fish", "bird", "tree"]
    with open(tmp_path / "both.jsonl", "w") as file:
        for index, (vector, label) in enumerate(zip(vectors.tolist(), labels, strict=True)):
            file.write(json.dumps({"id": index, "vector": vector, "label": names[label]}) + "\n")
    return tmp_path


def objects(done):
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_train_compare_and_predict(run_in_process, folder):
    found = objects(run_in_process("train", "bottleneck", "v.npy", "both.jsonl", "-o", "model", *SMALL))
    assert [row["method"] for row in found] == ["hsic", "backprop", "linear", "random"]
    assert list(found[0]) == [
        "method",
        "accuracy",
        "deviation",
        "accuracies",
        "seconds",
        "nhsic_inputs",
        "nhsic_labels",
    ]
    assert found[0]["accuracy"] > 70
    assert len(found[0]["nhsic_labels"]) == 2
    kept = [json.loads(line) for line in (folder / "model" / "comparison.jsonl").read_text().splitlines()]
    assert kept == found

    by_vector = objects(run_in_process("predict", "v.npy", "-m", "model"))
    assert len(by_vector) == 160
    assert list(by_vector[0]) == ["prediction", "probabilities"]
    assert list(by_vector[0]["probabilities"]) == ["bird", "fish", "tree"]
    assert sum(by_vector[0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)

    done = run_in_process("predict", "both.jsonl", "-m", "model")
    by_line = objects(done)
    assert list(by_line[0]) == ["id", "vector", "label", "prediction", "probabilities"]
    assert [row["prediction"] for row in by_line] == [row["prediction"] for row in by_vector]
    given = [json.loads(line) for line in (folder / "both.jsonl").read_text().splitlines()]
    assert [row["label"] for row in by_line] == [row["label"] for row in given]
    assert "on 160 records that had a label" in done.stderr


def test_labels_in_the_same_file_and_a_test_set(run_in_process, folder):
    lines = (folder / "both.jsonl").read_text().splitlines(keepends=True)
    (folder / "train.jsonl").write_text("".join(lines[:120]))
    (folder / "test.jsonl").write_text("".join(lines[120:]))
    done = run_in_process(
        "train",
        "bottleneck",
        "train.jsonl",
        "--test-vectors",
        "test.jsonl",
        "--methods",
        "linear,hsic",
        *SMALL,
    )
    found = objects(done)
    assert [row["method"] for row in found] == ["linear", "hsic"]
    assert "120 rows to train on, 40 held out, 3 classes" in done.stderr


def test_texts_are_embedded_by_both_commands(run_in_process, tmp_path):
    rng = np.random.default_rng(0)
    words = {"sea": "fish boat wave salt".split(), "wood": "tree leaf root bark".split()}
    with open(tmp_path / "t.jsonl", "w") as file:
        for index in range(48):
            label = ["sea", "wood"][index % 2]
            file.write(json.dumps({"text": " ".join(rng.choice(words[label], 3)), "label": label}) + "\n")
    done = run_in_process(
        "train", "bottleneck", "t.jsonl", "--embed", "static", "-o", "m", "--methods", "hsic", *SMALL
    )
    assert objects(done)[0]["method"] == "hsic"
    assert json.loads((tmp_path / "m" / "config.json").read_text())["embedding_model"] == "static"
    found = objects(run_in_process("predict", "-m", "m", stdin=b"a wave and a fish\nthe bark of a tree\n"))
    assert [row["text"] for row in found] == ["a wave and a fish", "the bark of a tree"]
    assert [row["prediction"] for row in found] == ["sea", "wood"]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["v.npy"], 2, "v.npy has no labels in it"),
        (["v.npy", "l.npy", "--layers", "a"], 2, "widths with commas"),
        (["v.npy", "l.npy", "--layers", 10**12], 2, "are not possible"),
        (["v.npy", "l.npy", "--sigma", "0"], 2, "sigma 0 is not possible"),
        (["v.npy", "l.npy", "--methods", "magic"], 2, "unknown method 'magic'"),
        (["v.npy", "l.npy", "--holdout", "0"], 2, "holding out 0"),
        (["v.npy", "short.npy"], 1, "v.npy has 160 rows and short.npy (labels) has 159"),
        (["v.npy", "v.npy"], 1, "v.npy: holds no class labels"),
        (["v.npy", "both.jsonl", "--label-field", "kind"], 1, "both.jsonl:1: label field 'kind' is missing"),
        (["v.npy", "l.npy", "-o", "full"], 1, "exists already"),
        (["v.npy", "l.npy", "--test-labels", "l.npy"], 2, "--test-labels without --test-vectors"),
    ],
)
def test_what_is_wrong_is_said(arguments, status, message, fails_in_process, folder):
    np.save(folder / "short.npy", np.load(folder / "l.npy")[:159])
    (folder / "full").mkdir()
    (folder / "full" / "x").touch()
    assert message in fails_in_process("train", "bottleneck", *arguments, status=status)
