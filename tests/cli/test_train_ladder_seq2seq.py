"""`train ladder --task seq2seq` beside decoders of both kinds, and labels beside the encoder of an encoder-decoder."""

import json

import pytest

WORDS = "cat dog bird river tree".split()
SOURCES = [first + (second and f" {second}") for first in WORDS for second in ("", *WORDS)]
COPY = ["--task", "seq2seq", "-r", 1, "--epochs", 12, "--batch-size", 16, "--lr", 0.01, "--max-length", 24]


@pytest.fixture
def copies(tmp_path):
    """Sources of one or two words, to be copied."""
    rows = [{"text": text, "target": text} for text in SOURCES * 8]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "c.jsonl"


def objects(done):
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def right(rows):
    return sum(row["output"] == row["text"] for row in rows)


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_a_copy_is_learnt_and_written(kind, run_in_process, run_forked, writers, copies, tmp_path):
    model = writers(kind)
    done = run_in_process("train", "ladder", copies, "-m", model, "-o", "m", *COPY, "--cache-dir", "states")
    (record,) = objects(done)
    assert record["metric"] == "loss" and record["cache_bytes"] > 0
    assert "next: ordtool generate -m m -p TEXT" in done.stderr
    # From plain lines, and without a word about templates: the ladder knows how its sources stood.
    (tmp_path / "s.txt").write_text("".join(text + "\n" for text in SOURCES))
    rows = objects(run_in_process("generate", "s.txt", "-m", "m", "--max-new-tokens", 8))
    assert len(rows) == 30 and right(rows) >= 25
    # Another process writes the same for one of them alone.
    (tmp_path / "one.jsonl").write_text(json.dumps({"id": 7, "text": SOURCES[8]}) + "\n")
    (alone,) = objects(run_forked("generate", "one.jsonl", "-m", "m", "--max-new-tokens", 8))
    assert alone == {"id": 7, **rows[8]}
    done = run_in_process("predict", "s.txt", "-m", "m")
    assert done.returncode == 1
    assert "a ladder of the task seq2seq writes text" in done.stderr
    assert "hint: ordtool generate -m LADDER" in done.stderr


def test_the_same_command_gives_the_same_bytes(run_in_process, writers, copies, tmp_path):
    for folder in "mn":  # the second time from the states on disk
        short = [*COPY, "--epochs", 1, "--init", "fisher", "--cache-dir", "states"]
        objects(run_in_process("train", "ladder", copies, "-m", writers("bart"), "-o", folder, *short))
    first, second = ((tmp_path / folder / "model.safetensors").read_bytes() for folder in "mn")
    assert first == second and len(list((tmp_path / "states").iterdir())) == 2


@pytest.mark.parametrize("kind", ["t5", "bart", "marian"])
def test_labels_beside_the_encoder(kind, run_in_process, writers, tmp_path):
    rows = [
        (f"the {['tree', 'cat'][i % 2]} sat {'near ' * (i % 4)}", ["sea", "wood"][i % 2]) for i in range(48)
    ]
    (tmp_path / "a.tsv").write_text("".join(f"{text}\t{label}\n" for text, label in rows))
    fast = ["-r", 2, "--epochs", 12, "--batch-size", 8, "--learning-rate", 0.01, "--cache-dir", "states"]
    (record,) = objects(
        run_in_process("train", "ladder", "a.tsv", "--dev", "a.tsv", "-m", writers(kind), "-o", "m", *fast)
    )
    assert record["metric"] == "accuracy"
    done = run_in_process("predict", "a.tsv", "-m", "m")
    found = objects(done)
    assert len(found) == 48 and set(found[0]["probabilities"]) == {"sea", "wood"}
    same = sum(row["prediction"] == label for row, (_, label) in zip(found, rows, strict=True))
    assert same >= 40 and 100 * same / 48 == pytest.approx(record["accuracy"])
    assert f"accuracy {100 * same / 48:.2f}%" in done.stderr
    done = run_in_process("generate", "-m", "m", "-p", "x")
    assert done.returncode == 1 and "it gives labels and has no head to write with" in done.stderr


def test_a_comparison(run_in_process, writers, copies):
    pytest.importorskip("peft")
    few = [*COPY[:4], "--epochs", 1, "--batch-size", 16, "--max-length", 24, "--cache-dir", "states"]
    arguments = ["--compare", "full,lora", "--runs", 1, "--compare-epochs", 1, *few]
    rows = objects(run_in_process("train", "ladder", copies, "-m", writers("t5"), *arguments))
    assert [row["method"] for row in rows] == ["ladder", "ladder, no cache", "full", "lora"]
    assert all(row["score"] > 0 for row in (rows[0], *rows[2:]))


@pytest.mark.parametrize(
    ("model", "arguments", "status", "message", "hint"),
    [
        ("t5", ["--task", "lm"], 2, "is an encoder-decoder: it answers one", "--task seq2seq teaches it to"),
        ("bert", ["--task", "seq2seq"], 1, "is not a causal language model", "seq2seq takes an encoder-decoder"),
        ("bart", ["--task", "seq2seq", "--label-field", "goal"], 1, "c.jsonl:1: no field 'goal'", "--label-field"),
        ("bart", ["--task", "seq2seq", "--layers", "3"], 2, "the backbone has 2 layers", None),
        ("t5", ["--task", "seq2seq", "--compare", "head"], 2, "--task seq2seq has its head already", None),
        ("t5", ["--task", "seq2seq", "--compare", "bitfit"], 1, "no biases for bitfit", None),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_said(
    model, arguments, status, message, hint, fails_in_process, writers, encoders, copies
):
    folder = encoders(model) if model == "bert" else writers(model)
    fast = ["--epochs", 1, "--runs", 1, "--max-length", 24, "--cache-dir", "states"]
    said = fails_in_process(
        "train", "ladder", copies, "-m", folder, "-o", "m", *arguments, *fast, status=status
    )
    assert message in said
    assert hint is None or hint in said.split("hint: ")[1]


def test_the_template_of_sources_gives_the_tokens_of_training(writers):
    from tokenizers import processors
    from transformers import AutoTokenizer

    from ordtool.tuning.encoding import prompt_ids
    from ordtool.tuning.saving import _source_template

    tokenizer = AutoTokenizer.from_pretrained(writers("llama"))
    for start in (False, True):
        if start:
            tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
                single="<s> $A", special_tokens=[("<s>", 1)]
            )
        tokenizer.chat_template = _source_template(tokenizer)
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "a red tree"}], tokenize=False, add_generation_prompt=True
        )
        found = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert found == prompt_ids(tokenizer, "a red tree")
        assert (found[0] == 1) == start
