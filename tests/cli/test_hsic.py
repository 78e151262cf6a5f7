import json
import re

import numpy as np
import pytest

FIELDS = [
    "x",
    "y",
    "n",
    "kernel",
    "bandwidth_x",
    "bandwidth_y",
    "estimator",
    "statistic",
    "cka",
    "test",
    "p_value",
    "permutations",
    "seed",
    "seconds",
]


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((80, 5)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", np.sin(2 * x[:, :2]) + 0.3 * rng.standard_normal((80, 2)))
    np.save(tmp_path / "z.npy", rng.standard_normal((80, 3)))
    np.save(tmp_path / "labels.npy", (x[:, 0] > 0).astype(int))
    np.save(tmp_path / "short.npy", x[:79])
    np.save(tmp_path / "ones.npy", np.ones((80, 2)))
    with open(tmp_path / "labels.jsonl", "w") as file:
        for index, row in enumerate(x):
            file.write(
                json.dumps({"id": index, "label": "ab"[int(row[0] > 0)], "vector": row.tolist()}) + "\n"
            )
    for name, noise in (("one", 0.1), ("two", 1.0)):
        (tmp_path / name).mkdir()
        for layer in range(3):
            x = x + noise * rng.standard_normal(x.shape)
            np.save(tmp_path / name / f"layer-{layer:02d}.npy", x)
    return tmp_path


def objects(done):
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_two_files(run_in_process, folder):
    (found,) = objects(run_in_process("hsic", "x.npy", "y.npy"))
    assert list(found) == FIELDS
    assert (found["x"], found["y"], found["n"]) == ("x.npy", "y.npy", 80)
    assert found["p_value"] == pytest.approx(1 / 1001)
    assert (found["kernel"], found["estimator"], found["test"]) == ("gaussian", "unbiased", "permutation")
    again = objects(run_in_process("hsic", "x.npy", "y.npy"))[0]
    assert {**again, "seconds": 0} == {**found, "seconds": 0}


def test_a_pipe_and_an_output(run, folder):
    done = run(
        "hsic", "-", "z.npy", "--test", "gamma", "-o", "out.jsonl", stdin=(folder / "x.npy").read_bytes()
    )
    assert done.stdout == b""
    (found,) = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert found["x"] == "<stdin>"
    assert found["permutations"] is None
    assert 0.001 < found["p_value"] < 1


def test_several_files_are_compared_pairwise(run_in_process, folder):
    found = objects(run_in_process("hsic", "x.npy", "y.npy", "z.npy", "--permutations", "199"))
    assert [(r["x"], r["y"]) for r in found] == [("x.npy", "y.npy"), ("x.npy", "z.npy"), ("y.npy", "z.npy")]
    assert found[0]["p_value"] == 0.005


def test_folders_of_layers_make_a_matrix_and_a_plot(run_in_process, folder):
    pytest.importorskip("matplotlib")
    done = run_in_process(
        "hsic", "one", "two", "--cka", "--kernel", "linear", "--test", "none", "--plot", "cka.png"
    )
    found = objects(done)
    assert [(r["x"], r["y"]) for r in found][:4] == [
        ("one/layer-00.npy", "two/layer-00.npy"),
        ("one/layer-00.npy", "two/layer-01.npy"),
        ("one/layer-00.npy", "two/layer-02.npy"),
        ("one/layer-01.npy", "two/layer-00.npy"),
    ]
    assert found[0]["p_value"] is None
    assert found[0]["cka"] > found[2]["cka"]
    assert (folder / "cka.png").read_bytes().startswith(b"\x89PNG")
    one = objects(
        run_in_process("hsic", "one", "--kernel", "linear", "--test", "none", "--plot", "one.svg", "--cka")
    )
    assert len(one) == 3
    assert re.search(rb"<svg", (folder / "one.svg").read_bytes())


def test_labels_by_npy_and_by_field(run_in_process, folder):
    one = objects(run_in_process("hsic", "x.npy", "labels.npy", "--test", "gamma"))[0]
    other = objects(
        run_in_process("hsic", "x.npy", "labels.jsonl", "--label-field", "label", "--test", "gamma")
    )[0]
    alone = objects(run_in_process("hsic", "labels.jsonl", "--label-field", "label", "--test", "gamma"))[0]
    assert other["y"] == "labels.jsonl:label"
    assert one["statistic"] == pytest.approx(other["statistic"], rel=1e-5)
    assert alone["statistic"] == pytest.approx(other["statistic"], rel=1e-5)
    assert one["bandwidth_y"] == pytest.approx(2**0.5)


def test_constants_are_answered_and_warned_of(run_in_process, folder):
    done = run_in_process("hsic", "x.npy", "ones.npy", "-q")
    (found,) = objects(done)
    assert (found["statistic"], found["cka"], found["p_value"]) == (0, None, 1)
    assert "warning: ones.npy: all rows are the same" in done.stderr


def test_options_reach_the_engine(run_in_process, folder):
    (found,) = objects(
        run_in_process(
            "hsic", "x.npy", "y.npy", "--kernel", "gaussian,laplacian", "--bandwidth", "2,median", "--seed", 5
        )
    )
    assert (found["kernel"], found["bandwidth_x"], found["seed"]) == ("gaussian,laplacian", 2, 5)
    (block,) = objects(run_in_process("hsic", "x.npy", "y.npy", "--test", "block", "--group-rows", 10))
    assert block["interval"][0] < block["statistic"] < block["interval"][1]
    (rough,) = objects(run_in_process("hsic", "x.npy", "y.npy", "--random-features", 64, "--test", "gamma"))
    assert rough["random_features"] == 64


def test_what_is_known_is_read_as_the_others_are(run_in_process, folder):
    (known,) = objects(run_in_process("hsic", "x.npy", "y.npy", "--given", "x.npy", "--test", "gamma"))
    assert known["given"] == "x.npy"
    assert known["p_value"] > 0.05
    (added,) = objects(run_in_process("hsic", "x.npy", "y.npy", "--multiples", "0.5,2", "--test", "none"))
    assert added["multiples"] == [0.5, 2]
    assert "given" not in added


def test_the_old_name_of_embed_model_works_with_a_note(run_in_process, tmp_path):
    (tmp_path / "texts.txt").write_text("".join(f"text number {n}\n" for n in range(8)))
    np.save(tmp_path / "v.npy", np.arange(8.0)[:, None])
    options = ("v.npy", "--test", "none", "--device", "cpu")
    old = run_in_process("hsic", "texts.txt", *options, "--embed", "static")
    new = run_in_process("hsic", "texts.txt", *options, "--embed-model", "static")
    assert objects(old)[0]["statistic"] == objects(new)[0]["statistic"]
    assert "--embed is called --embed-model now" in old.stderr
    assert "--embed is called" not in new.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["x.npy", "short.npy"], 1, "x.npy has 80 rows and short.npy has 79"),
        (["x.npy", "nope.npy"], 1, "nope.npy: no such file"),
        (["x.npy", "y.npy", "--given", "short.npy"], 1, "x.npy has 80 rows and short.npy has 79"),
        (["x.npy", "y.npy", "--given", "x.npy", "--test", "block"], 2, "with --given there is no block test"),
        (["x.npy", "y.npy", "--multiples", "0"], 2, "the --multiples of the bandwidths must be positive"),
        (["x.npy", "y.npy", "--bandwidth", "0"], 1, "bandwidth 0 is not possible"),
        (["x.npy", "y.npy", "--bandwidth", "wide"], 2, "--bandwidth wide: not a number"),
        (["x.npy", "y.npy", "--kernel", "gausian"], 2, "did you mean 'gaussian'?"),
        (["x.npy", "y.npy", "--kernel", "a,b,c"], 2, "one kernel, or two"),
        (["x.npy", "y.npy", "--permutations", 10**20], 1, "permutations are not possible"),
        (["x.npy", "y.npy", "--random-features", 10**20], 1, "random features are not possible"),
        (["x.npy", "y.npy", "--grid", "a", "--test", "aggregated"], 2, "numbers with commas"),
        (["x.npy", "y.npy", "--plot", "x.gif"], 2, "a plot is one of .png"),
        (["x.npy", "y.npy", "-o", "labels.jsonl"], 1, "exists already"),
        (["x.npy"], 2, "is one variable, and two are compared"),
        (["-", "-"], 2, "stdin can be one input only"),
        (["x.npy", "y.npy", "--label-field", "label"], 2, "--label-field needs a .jsonl file"),
        (["x.npy", "text.txt"], 1, "--embed-model minilm, or another model, embeds them"),
        (["labels.jsonl", "moved.jsonl"], 1, "labels.jsonl:3 has id 2 and moved.jsonl:3 has id 99"),
        (["nan.npy", "y.npy"], 1, "nan.npy: row 7 holds nan in column 2"),
        (["three.npy", "three.npy"], 1, "three.npy: has 3 rows, and HSIC needs 4"),
        (["cut.npy", "y.npy"], 1, "truncated or damaged"),
    ],
)
def test_what_is_wrong_is_said(arguments, status, message, fails_in_process, folder):
    x = np.load(folder / "x.npy")
    np.save(folder / "three.npy", x[:3])
    x[7, 2] = np.nan
    np.save(folder / "nan.npy", x)
    (folder / "cut.npy").write_bytes((folder / "y.npy").read_bytes()[:-100])
    (folder / "text.txt").write_text("a text\n" * 80)
    records = [json.loads(line) for line in (folder / "labels.jsonl").read_text().splitlines()]
    records[2]["id"] = 99
    (folder / "moved.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert message in fails_in_process("hsic", *arguments, status=status)
