import json

import pytest

import ordtool


@pytest.fixture
def data(tmp_path):
    """`data("a.jsonl", 24)`: texts whose word decides the label."""

    def write(name, count, **changed):
        rows = [
            {
                "id": i,
                "text": f"the {'cat' if i % 2 else 'tree'} sat {'near ' * (i % 4)}",
                "label": ["sea", "wood"][i % 2],
            }
            for i in range(count)
        ]
        for line, row in changed.items():
            rows[int(line[1:]) - 1] = row
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return name

    return write


FAST = ["-r", 2, "--epochs", 3, "--batch-size", 8, "--learning-rate", 0.003, "--cache-dir", "states"]


def objects(done):
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_train_and_predict(run_in_process, encoders, data, tmp_path):
    data("a.jsonl", 48), data("d.jsonl", 12)
    done = run_in_process(
        "train", "ladder", "a.jsonl", "--dev", "d.jsonl", "-m", encoders("bert"), "-o", "m", *FAST
    )
    (record,) = objects(done)
    assert record["metric"] == "accuracy" and record["epochs"] == 3
    assert "next: ordtool predict -m m FILE" in done.stderr
    assert (tmp_path / "m" / "model.safetensors").stat().st_size < 100_000
    found = objects(run_in_process("predict", "d.jsonl", "-m", "m"))
    assert list(found[0]) == ["id", "text", "label", "prediction", "probabilities"]
    assert [row["id"] for row in found] == list(range(12))
    shares = [sum(row["probabilities"].values()) for row in found]
    assert shares == pytest.approx([1.0] * 12, abs=1e-5)
    assert "accuracy" in run_in_process("predict", "d.jsonl", "-m", "m").stderr
    with_vectors = objects(run_in_process("predict", "-m", "m", "--vectors", stdin=b"the cat sat\n"))
    assert len(with_vectors[0]["vector"]) == 24
    # The same from a table, with a head or without.
    (tmp_path / "d.csv").write_text('n,text,label\n7,"the cat, sat",wood\n')
    (row,) = objects(run_in_process("predict", "d.csv", "-m", "m"))
    assert row["n"] == "7" and row["text"] == "the cat, sat"
    (tmp_path / "d.tsv").write_text("the cat sat\twood\n")
    assert objects(run_in_process("predict", "d.tsv", "-m", "m"))[0]["text"] == "the cat sat"
    # A second training finds the hidden states, and gives the same bytes.
    again = run_in_process(
        "train", "ladder", "a.jsonl", "--dev", "d.jsonl", "-m", encoders("bert"), "-o", "n", *FAST
    )
    assert again.returncode == 0, again.stderr
    assert len(list((tmp_path / "states").iterdir())) == 2
    first, second = ((tmp_path / folder / "model.safetensors").read_bytes() for folder in "mn")
    assert first == second


def test_pairs(run_in_process, encoders, tmp_path):
    words = ["cat", "dog", "tree", "sea"]
    rows = [
        {"text": words[i % 4], "text2": words[(i // 4) % 4], "label": int(i % 4 == (i // 4) % 4)}
        for i in range(48)
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = encoders("bert")
    objects(run_in_process("train", "ladder", "p.jsonl", "--task", "pairs", "-m", model, "-o", "m", *FAST))
    found = objects(run_in_process("predict", "-m", "m", stdin=b"cat\tdog\n"))
    assert found[0]["text2"] == "dog" and set(found[0]["probabilities"]) == {"0", "1"}
    assert "one text, and the model takes two" in run_in_process("predict", "-m", "m", stdin=b"cat\n").stderr
    folder = str(tmp_path / "m")
    one, [same, _] = (
        ordtool.predict("cat", folder, "dog"),
        ordtool.predict(["cat", "sea"], folder, ["dog", "sea"]),
    )
    assert one.label == same.label == found[0]["prediction"]
    assert one.probabilities == pytest.approx(found[0]["probabilities"], abs=1e-5)
    with pytest.raises(ordtool.UsageError, match="takes two texts, and one was given"):
        ordtool.predict("cat", folder)
    with pytest.raises(ordtool.UsageError, match="don't make pairs"):
        ordtool.predict(["cat", "sea"], folder, ["dog"])


def test_a_score(run_in_process, encoders, tmp_path):
    rows = [f"the {'cat' if i % 2 else 'tree'}\t{i % 2 * 4.5}\n" for i in range(40)]
    (tmp_path / "s.tsv").write_text("".join(rows))
    model = encoders("bert")
    (record,) = objects(
        run_in_process("train", "ladder", "s.tsv", "--task", "regress", "-m", model, "-o", "m", *FAST)
    )
    assert record["metric"] == "pearson"
    (row,) = objects(run_in_process("predict", "-m", "m", stdin=b"the cat\n"))
    assert isinstance(row["prediction"], float) and row["probabilities"] is None


def test_a_language_model_writes(run_in_process, run_forked, writers, tmp_path):
    (tmp_path / "book.txt").write_text("the cat sat on the red tree and the dog ran under it\n" * 60)
    model = writers("llama")
    arguments = ["--task", "lm", "--max-length", 24, "-m", model, "-o", "m", *FAST]
    (record,) = objects(run_in_process("train", "ladder", "book.txt", *arguments))
    assert record["metric"] == "loss" and record["perplexity"] > 1
    asked = ["-p", "the cat sat", "--max-new-tokens", 6, "--json"]
    (ours,) = objects(run_forked("generate", "-m", "m", *asked))
    (theirs,) = objects(run_in_process("generate", "-m", model, *asked))
    assert ours["output"] and ours["output"] != theirs["output"]
    # Alone and in a batch it writes the same.
    batch = objects(
        run_in_process(
            "generate", "-m", "m", "-p", "the cat sat", "-p", "a dog", "--max-new-tokens", 6, "--json"
        )
    )
    assert batch[0]["output"] == ours["output"]
    assert "ordtool generate -m LADDER" in run_in_process("predict", "-m", "m", stdin=b"x\n").stderr


def test_a_comparison(run_in_process, encoders, data):
    data("a.jsonl", 24), data("d.jsonl", 8)
    model = encoders("bert")
    arguments = ["--dev", "d.jsonl", "-m", model, "--compare", "head", "--runs", 2, *FAST]
    rows = objects(run_in_process("train", "ladder", "a.jsonl", *arguments))
    assert [row["method"] for row in rows] == ["ladder", "ladder, no cache", "head"]
    fields = "method metric score deviation scores trained_parameters peak_extra_memory_mb seconds_a_step seconds epochs"
    assert list(rows[0]) == fields.split()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["missing.jsonl", "-o", "m"], 1, "missing.jsonl: no such file"),
        (["nofield.jsonl", "-o", "m"], 1, "nofield.jsonl:3: no field 'label'"),
        (["nulls.jsonl", "-o", "m"], 1, "nulls.jsonl:2: field 'text' is null"),
        (["one.jsonl", "-o", "m"], 1, "all labels are 'sea'"),
        (["a.jsonl", "--dev", "empty.jsonl", "-o", "m"], 1, "the dev set is empty"),
        (["a.jsonl", "--dev", "other.jsonl", "-o", "m"], 1, "other.jsonl:1: the label 'sand' is not one"),
        (["a.jsonl", "--holdout", "0", "-o", "m"], 2, "leaves the dev set empty"),
        (["a.jsonl"], 2, "nowhere to save the ladder"),
        (["a.jsonl", "-o", "m", "--task", "sort"], 2, "unknown task 'sort'"),
        (
            ["a.jsonl", "-o", "m", "--task", "regress", "--label-field", "label"],
            1,
            "a.jsonl:1: the score 'sea'",
        ),
        (["a.jsonl", "-o", "m", "--task", "lm"], 1, "is not a causal language model"),
        (["a.jsonl", "-o", "m", "--layers", "9"], 2, "the backbone has 3 layers"),
        (["a.jsonl", "-o", "m", "--compare", "fulll"], 2, "unknown method 'fulll'"),
        (["a.jsonl", "-o", "full"], 1, "exists already"),
        (["a.jsonl", "-o", "m", "--test", "a.jsonl"], 2, "--test is for --compare"),
        (["short.tsv", "-o", "m"], 1, "short.tsv:2: 1 column(s), and 2 are needed"),
    ],
)
def test_what_is_wrong_is_said(arguments, status, message, fails_in_process, encoders, data, tmp_path):
    data("a.jsonl", 24)
    data("nofield.jsonl", 6, l3={"text": "x"})
    data("nulls.jsonl", 6, l2={"text": None, "label": "sea"})
    (tmp_path / "one.jsonl").write_text('{"text": "x", "label": "sea"}\n' * 8)
    (tmp_path / "other.jsonl").write_text('{"text": "x", "label": "sand"}\n')
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "short.tsv").write_text("the cat\tsea\nthe dog\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    assert message in fails_in_process("train", "ladder", *arguments, "-m", encoders("bert"), status=status)


def test_what_is_wrong_at_predict(run_in_process, fails_in_process, encoders, data, tmp_path):
    data("a.jsonl", 24)
    objects(run_in_process("train", "ladder", "a.jsonl", "-m", encoders("bert"), "-o", "m", *FAST))
    data("b.jsonl", 4, l3={"text": "x", "label": "sand"})
    message = fails_in_process("predict", "b.jsonl", "-m", "m")
    assert "b.jsonl:3: the label 'sand' is none of the model's: sea, wood" in message
    skipped = run_in_process("predict", "b.jsonl", "-m", "m", "--on-error", "skip")
    assert len(objects(skipped)) == 3 and "1 bad record skipped" in skipped.stderr
    assert len(objects(run_in_process("predict", "b.jsonl", "-m", "m", "--label-field", "other"))) == 4
    wrong = fails_in_process("predict", "-m", "m", "--backbone", encoders("roberta"), stdin=b"x\n")
    assert "m: belongs to another backbone" in wrong
    data("c.jsonl", 4, l2={"label": "sea"})
    assert "c.jsonl:2: no field 'text'" in fails_in_process("predict", "c.jsonl", "-m", "m")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"broken")
    assert "can't be loaded as a ladder" in fails_in_process("predict", "a.jsonl", "-m", "m")


def test_plain_checkpoints_label_too(run_in_process, encoders):
    (row,) = objects(run_in_process("predict", "-m", encoders("classifier"), stdin=b"the cat\n"))
    assert set(row["probabilities"]) == {"LABEL_0", "LABEL_1"}
    plain = run_in_process("predict", "-m", encoders("bert"), stdin=b"the cat\n")
    assert plain.returncode == 1 and "without a trained classifier" in plain.stderr


def test_heads_of_tables(run_in_process, fails_in_process, encoders, tmp_path):
    rows = [f"the {'cat' if i % 2 else 'tree'} sat,{['sea', 'wood'][i % 2]}" for i in range(24)]

    def write(name, head):
        (tmp_path / name).write_text("\n".join([head, *rows, ""]))
        return name

    train = ("train", "ladder", "-m", encoders("bert"), *FAST, "--epochs", 1)
    objects(run_in_process(*train, write("upper.csv", "Text,Label"), "-o", "m"))
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert sorted(config["label2id"]) == ["sea", "wood"]
    found = objects(run_in_process("predict", "upper.csv", "-m", "m"))
    assert len(found) == 24 and list(found[0]) == ["Text", "Label", "prediction", "probabilities"]
    assert "on 24 records that had a label" in run_in_process("predict", "upper.csv", "-m", "m").stderr
    write("review.csv", "review,rating")
    assert "review.csv:1: no column 'text'" in fails_in_process(*train, "review.csv", "-o", "n")
    assert "review.csv:1: no column 'text'" in fails_in_process("predict", "review.csv", "-m", "m")
    named = ("--field", "review", "--label-field", "rating")
    assert len(objects(run_in_process("predict", "review.csv", "-m", "m", *named))) == 24
    (tmp_path / "one.csv").write_text("sentence\nthe cat sat\n")
    assert "one.csv:1: no column 'text' (columns: sentence)" in fails_in_process(
        "predict", "one.csv", "-m", "m"
    )
    # A head of names that nobody expects can only be guessed at.
    odd = run_in_process(*train, write("odd.csv", "was gesagt wurde,urteil"), "--dev", "upper.csv", "-o", "o")
    assert (
        odd.returncode == 0 and "odd.csv:1: the label 'urteil' occurs in this first row alone" in odd.stderr
    )


def test_blank_rows_of_tables_are_passed_over(run_in_process, encoders, tmp_path):
    rows = [f"the {'cat' if i % 2 else 'tree'} sat,{['sea', 'wood'][i % 2]}" for i in range(24)]
    plain, blank = (
        "\n".join(["text,label", *rows, ""]),
        "\n".join(["", "text,label", "", *rows, "", " , ", ""]),
    )
    (tmp_path / "a.csv").write_text(plain)
    (tmp_path / "b.csv").write_text(blank)
    for name in "ab":
        made = (
            "train",
            "ladder",
            f"{name}.csv",
            "-m",
            encoders("bert"),
            *FAST,
            "--epochs",
            1,
            "-o",
            f"m{name}",
        )
        objects(run_in_process(*made))
    first, second = ((tmp_path / f"m{name}" / "model.safetensors").read_bytes() for name in "ab")
    assert first == second
    outs = [run_in_process("predict", f"{name}.csv", "-m", "ma").stdout for name in "ab"]
    assert outs[0] == outs[1] and outs[0].count(b"\n") == 24


def test_json_arrays_and_conllu(run_in_process, encoders, data, tmp_path):
    lines = (tmp_path / data("a.jsonl", 24)).read_text().splitlines()
    (tmp_path / "a.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")
    rest = "\t_" * 8
    words = [f"{n}\t{word}{rest}" for n, word in enumerate("the cat sat".split(), start=1)]
    (tmp_path / "c.conllu").write_text("\n".join(["# text = the cat sat", *words, "", ""]))
    for name in ("a.jsonl", "a.json"):
        made = ("train", "ladder", name, "-m", encoders("bert"), *FAST, "--epochs", 1, "-o", f"m-{name}")
        objects(run_in_process(*made))
    first, second = (
        (tmp_path / f"m-a.{suffix}" / "model.safetensors").read_bytes() for suffix in ("json", "jsonl")
    )
    assert first == second
    found = [run_in_process("predict", name, "-m", "m-a.json").stdout for name in ("a.jsonl", "a.json")]
    assert found[0] == found[1] and found[0].count(b"\n") == 24
    (row,) = objects(run_in_process("predict", "c.conllu", "-m", "m-a.json"))
    assert row["text"] == "the cat sat"
