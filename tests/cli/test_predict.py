import json

import numpy as np
import pytest


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small network of 4 dimensions that says the sign of the first one."""
    from ordtool.independence.bottleneck_training import BottleneckTrainingConfig, train_bottleneck
    from ordtool.independence.labelled import Labelled

    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((200, 4)).astype(np.float32)
    data = Labelled(vectors, (vectors[:, 0] > 0).astype(int), ("minus", "plus"))
    folder = tmp_path_factory.mktemp("model") / "m"
    train_bottleneck(data, BottleneckTrainingConfig(method="linear")).model.save_pretrained(folder)
    return folder


def lines(*vectors):
    return "".join(json.dumps({"name": f"n{i}", "vector": v}) + "\n" for i, v in enumerate(vectors)).encode()


def objects(text):
    return [json.loads(line) for line in text.splitlines()]


GOOD = [[3, 0, 0, 0], [-3, 0, 0, 0], [2, 1, 0, 0]]


def test_vectors_from_a_pipe(run, model, tmp_path):
    done = run("predict", "-m", model, stdin=lines(*GOOD))
    assert [row["label"] for row in objects(done.stdout)] == ["plus", "minus", "plus"]
    np.save(tmp_path / "v.npy", np.array(GOOD, dtype=np.float64))
    piped = run("predict", "-m", model, stdin=(tmp_path / "v.npy").read_bytes())
    assert [row["label"] for row in objects(piped.stdout)] == ["plus", "minus", "plus"]


def test_a_bad_record_does_not_lose_the_good_ones(run_in_process, fails_in_process, model):
    bad = lines(GOOD[0], [1, 2], GOOD[1], [1, None, 2, 3], GOOD[2])
    done = run_in_process("predict", "-m", model, "--on-error", "skip", stdin=bad)
    assert done.returncode == 0
    assert [row["name"] for row in objects(done.stdout)] == ["n0", "n2", "n4"]
    assert "2 bad record(s) skipped" in done.stderr
    assert "<stdin>:2: vectors of shape (1, 2) don't fit" in done.stderr
    stopped = run_in_process("predict", "-m", model, stdin=lines(*GOOD) + b"{oops\n" + lines(GOOD[0]))
    assert stopped.returncode == 1
    assert [row["name"] for row in objects(stopped.stdout)] == ["n0", "n1", "n2"]
    assert "error: <stdin>:4: malformed JSON" in stopped.stderr


def test_the_same_command_twice_gives_the_same_bytes(run_in_process, model, tmp_path):
    (tmp_path / "v.jsonl").write_bytes(lines(*GOOD))
    first = run_in_process("predict", "v.jsonl", "-m", model, "-o", "a.jsonl")
    assert first.returncode == 0, first.stderr
    run_in_process("predict", "v.jsonl", "-m", model, "-o", "b.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert "exists already" in run_in_process("predict", "v.jsonl", "-m", model, "-o", "a.jsonl").stderr


@pytest.mark.parametrize(
    ("arguments", "stdin", "status", "message"),
    [
        (["-m", "MODEL"], b"a text\n", 1, "--embed MODEL embeds texts"),
        (["-m", "MODEL", "none.jsonl"], b"", 1, "none.jsonl: no such file"),
        (["-m", "MODEL", "--on-error", "ignore"], b"x\n", 2, "unknown --on-error"),
        (["-m", "empty"], b"x\n", 1, "config.json"),
        (["-m", "other"], b"x\n", 1, "holds a model of type 'bert' without a trained classifier"),
        ([], b"x\n", 2, "--model"),
    ],
)
def test_what_is_wrong_is_said(arguments, stdin, status, message, fails_in_process, model, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "other" / "model.safetensors").touch()
    arguments = [model if argument == "MODEL" else argument for argument in arguments]
    assert message in fails_in_process("predict", *arguments, stdin=stdin, status=status)
