import csv
import io
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
    train_bottleneck(data, config=BottleneckTrainingConfig(method="linear")).model.save_pretrained(folder)
    return folder


def lines(*vectors):
    return "".join(json.dumps({"name": f"n{i}", "vector": v}) + "\n" for i, v in enumerate(vectors)).encode()


def objects(text):
    return [json.loads(line) for line in text.splitlines()]


GOOD = [[3, 0, 0, 0], [-3, 0, 0, 0], [2, 1, 0, 0]]


def test_vectors_from_a_pipe(run_forked, model, tmp_path):
    done = run_forked("predict", "-m", model, stdin=lines(*GOOD))
    assert [row["prediction"] for row in objects(done.stdout)] == ["plus", "minus", "plus"]
    np.save(tmp_path / "v.npy", np.array(GOOD, dtype=np.float64))
    piped = run_forked("predict", "-m", model, stdin=(tmp_path / "v.npy").read_bytes())
    assert [row["prediction"] for row in objects(piped.stdout)] == ["plus", "minus", "plus"]


def test_a_bad_record_does_not_lose_the_good_ones(run_in_process, fails_in_process, model):
    bad = lines(GOOD[0], [1, 2], GOOD[1], [1, None, 2, 3], GOOD[2])
    done = run_in_process("predict", "-m", model, "--on-error", "skip", stdin=bad)
    assert done.returncode == 0
    assert [row["name"] for row in objects(done.stdout)] == ["n0", "n2", "n4"]
    assert "2 bad records skipped" in done.stderr
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


def test_a_table_has_a_column_a_class(run_in_process, model, tmp_path):
    (tmp_path / "v.jsonl").write_bytes(lines(*GOOD))
    for name in ("a.csv", "a.jsonl"):
        assert run_in_process("predict", "v.jsonl", "-m", model, "-o", name).returncode == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text(), newline="")))
    wanted = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    for row, record in zip(rows, wanted, strict=True):
        assert (row["name"], row["prediction"]) == (record["name"], record["prediction"])
        shares = {
            key.removeprefix("probability_"): float(cell)
            for key, cell in row.items()
            if key.startswith("prob")
        }
        assert shares == record["probabilities"]


@pytest.mark.parametrize(
    ("arguments", "stdin", "status", "message"),
    [
        (["-m", "MODEL"], b"a text\n", 1, "--embed-model embeds texts"),
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


def labelled(tmp_path, name="l.jsonl"):
    """Vectors with labels, of which the third and the last are wrong."""
    vectors = [[3, 0, 0, 0], [-3, 0, 0, 0], [2, 1, 0, 0], [4, 0, 1, 0], [-2, 0, 0, 0]]
    labels = ["plus", "minus", "minus", "plus", "plus"]
    rows = [{"id": i, "vector": v, "label": y} for i, (v, y) in enumerate(zip(vectors, labels, strict=True))]
    (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return labels, ["plus", "minus", "plus", "plus", "minus"]


def test_labels_are_kept_and_measured(run_in_process, model, tmp_path):
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    known, predicted = labelled(tmp_path)
    done = run_in_process("predict", "l.jsonl", "-m", model, "--metrics", "m.json")
    rows = objects(done.stdout)
    assert list(rows[0]) == ["id", "vector", "label", "prediction", "probabilities"]
    assert [row["label"] for row in rows] == known
    assert [row["prediction"] for row in rows] == predicted
    found = json.loads((tmp_path / "m.json").read_text())
    names = ["minus", "plus"]
    figures = precision_recall_fscore_support(known, predicted, labels=names)
    for place, name in enumerate(names):
        wanted = [100 * float(column[place]) for column in figures[:3]]
        ours = found["classes"][name]
        assert [ours["precision"], ours["recall"], ours["f1"]] == pytest.approx(wanted, abs=1e-4)
        assert ours["support"] == figures[3][place]
    assert found["accuracy"] == 60.0 and found["records"] == 5
    assert found["macro_f1"] == pytest.approx(100 * float(np.mean(figures[2])), abs=1e-4)
    counts = [[found["confusion"][a].get(b, 0) for b in names] for a in names]
    assert counts == confusion_matrix(known, predicted, labels=names).tolist()
    assert "accuracy 60.00%, macro F1 58.33% on 5 records that had a label" in done.stderr
    assert "confusion" in done.stderr and "precision" in done.stderr
    quiet = run_in_process("predict", "l.jsonl", "-m", model, "-q")
    assert quiet.stderr == "" and quiet.stdout == done.stdout
    assert "exists already" in run_in_process("predict", "l.jsonl", "-m", model, "--metrics", "m.json").stderr


def test_a_resumed_run_measures_all_records(run_in_process, model, tmp_path):
    labelled(tmp_path)
    with open(tmp_path / "l.jsonl", "a") as file:
        file.write("{oops\n" + json.dumps({"vector": [1, 0, 0, 0], "label": "plus"}) + "\n")
    skip = ("l.jsonl", "-m", model, "--on-error", "skip")
    whole = run_in_process("predict", *skip, "-o", "whole.jsonl", "--metrics", "whole.json")
    assert whole.returncode == 0, whole.stderr
    assert run_in_process("predict", "l.jsonl", "-m", model, "-o", "p.jsonl").returncode == 1
    resumed = run_in_process("predict", *skip, "-o", "p.jsonl", "--resume", "--metrics", "p.json")
    assert resumed.returncode == 0, resumed.stderr
    assert (tmp_path / "p.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert (tmp_path / "p.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_nothing_to_measure_is_said(run_in_process, model, tmp_path):
    done = run_in_process("predict", "-m", model, "--metrics", "m.json", stdin=lines(*GOOD))
    assert "no record had a label under 'label'" in done.stderr
    assert json.loads((tmp_path / "m.json").read_text())["accuracy"] is None


def test_the_old_name_of_an_option(run_in_process, model):
    done = run_in_process("predict", "-m", model, "--embed", "static", stdin=lines(*GOOD))
    assert done.returncode == 0 and "--embed is called --embed-model now" in done.stderr


def test_arrays_and_conllu_are_read(run_in_process, encoders, tmp_path):
    (tmp_path / "a.json").write_text('[{"text": "It ran."},\n {"text": "He sat."}]')
    word = "\t_" * 8
    words = [
        f"1\tIt{word}",
        f"2\tran{word}",
        f"3\t.{word}",
        "",
        "# text = He sat.",
        f"1\tHe{word}",
        f"2\tsat.{word}",
    ]
    (tmp_path / "a.conllu").write_text("\n".join(["# text = It ran.", *words]))
    model = encoders("classifier")
    first, second = (
        objects(run_in_process("predict", name, "-m", model).stdout) for name in ("a.json", "a.conllu")
    )
    assert [row["text"] for row in first] == ["It ran.", "He sat."]
    assert first == second
