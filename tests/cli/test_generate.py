"""`ordtool generate` as a process: pipes, files, interruptions, wrong input."""

import json

import pytest


def lines(done):
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def model(writers):
    return ["-m", writers("llama"), "--device", "cpu"]


def test_text_from_a_pipe(run_forked, model):
    found = lines(run_forked("generate", *model, "--max-new-tokens", 4, stdin=b"the cat\na dog\n"))
    assert [list(line) for line in found] == [["text", "output", "finish_reason"]] * 2
    assert [line["text"] for line in found] == ["the cat", "a dog"]
    assert all(line["finish_reason"] in ("stop", "length") for line in found)


def test_jsonl_keeps_its_keys_and_the_same_command_gives_the_same_bytes(run_in_process, model, tmp_path):
    rows = [
        {"id": i, "prompt": text, "x": [i]}
        for i, text in enumerate(["the cat", "bird", "a dog ran under the tree"])
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = [
        "p.jsonl",
        "--field",
        "prompt",
        "--temperature",
        0.8,
        "-n",
        2,
        "--max-new-tokens",
        4,
        "--seed",
        5,
    ]
    first = run_in_process("generate", *model, *options)
    for row, line in zip(rows, lines(first), strict=True):
        assert list(line) == ["id", "prompt", "x", "outputs", "finish_reason"]
        assert {name: line[name] for name in row} == row
        assert [set(output) for output in line["outputs"]] == [{"text", "score", "finish_reason"}] * 2
    assert run_in_process("generate", *model, *options, "--batch-size", 2).stdout == first.stdout
    assert run_in_process("generate", *model, *options, "--seed", 6).stdout != first.stdout


def test_choices_logprobs_and_template(run_in_process, model, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"a": "cat", "output": "old"}\n{"a": "dog", "output": "old"}\n')
    done = run_in_process(
        "generate", *model, "p.jsonl", "--template", "{a} sat", "--choices", "on,under", "--logprobs"
    )
    for line in lines(done):
        assert list(line) == ["a", "output", "finish_reason", "choices", "tokens"]
        assert line["output"] in ("on", "under")
        assert sum(choice["probability"] for choice in line["choices"]) == pytest.approx(1)
    assert done.stderr.count("key 'output' is replaced") == 1


def test_a_template_takes_numbers_in_any_place(run_in_process, model, tmp_path):
    (tmp_path / "yr.jsonl").write_text('{"year": 1999, "text": "war"}\n{"year": 2001, "text": "cat"}\n')
    for template in ("In {year}: {text}", "{text} in {year}"):
        done = run_in_process("generate", *model, "yr.jsonl", "--template", template, "--max-new-tokens", 2)
        assert [(row["year"], row["text"]) for row in lines(done)] == [(1999, "war"), (2001, "cat")]


def test_a_choice_of_any_alphabet_follows_a_space(run_in_process, model):
    choices = ["été", " été", "夏", " 夏"]
    done = run_in_process("generate", *model, "-p", "the cat is", "--choices", json.dumps(choices))
    scores = [choice["score"] for choice in lines(done)[0]["choices"]]
    assert scores[0] == scores[1] and scores[2] != scores[3]


def test_few_shot(run_in_process, model, tmp_path):
    (tmp_path / "shots.jsonl").write_text('{"q": "cat", "a": "red"}\n')
    done = run_in_process(
        "generate", *model, "--template", r"{q}\t{a}", "--examples", "shots.jsonl", stdin=b'{"q": "dog"}\n'
    )
    assert "\n" not in lines(done)[0]["output"]


def test_prompt_option(run_in_process, model):
    (line,) = lines(run_in_process("generate", *model, "-p", "the cat", "--max-new-tokens", 3))
    assert line["text"] == "the cat"


def test_bad_records_are_skipped_and_counted(run_in_process, model, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"text": "cat"}\n{"text": 3}\n{"text": ""}\n{oops\n{"text": "dog"}\n')
    done = run_in_process("generate", *model, "p.jsonl", "--on-error", "skip", "--max-new-tokens", 2)
    assert [line["text"] for line in lines(done)] == ["cat", "dog"]
    assert "3 bad records skipped" in done.stderr
    assert "p.jsonl:2: field 'text' must be a string, found int" in done.stderr


def test_stop_at_a_bad_record_gives_the_good_ones_before(run_in_process, model):
    done = run_in_process("generate", *model, "--max-new-tokens", 2, stdin=b"cat\n\ndog\n")
    assert done.returncode == 1
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == ["cat"]
    assert "<stdin>:2: empty prompt" in done.stderr


def test_an_interrupted_run_goes_on(run_in_process, fails_in_process, model, tmp_path):
    (tmp_path / "p.txt").write_text("cat\ndog\n\nbird\ntree\n")
    command = ["generate", *model, "p.txt", "--temperature", 1, "--max-new-tokens", 4, "-o", "out.jsonl"]
    fails_in_process(*command)
    assert not (tmp_path / "out.jsonl").exists()
    assert (tmp_path / "out.jsonl.partial").read_bytes().count(b"\n") == 2
    assert "--resume" in fails_in_process(*command)
    with open(tmp_path / "out.jsonl.partial", "ab") as torn:
        torn.write(b'{"text": "to')
    assert "other settings (temperature)" in fails_in_process(*command, "--temperature", 2, "--resume")
    done = run_in_process(*command, "--resume", "--on-error", "skip")
    assert done.returncode == 0, done.stderr
    resumed = (tmp_path / "out.jsonl").read_bytes()
    assert not list(tmp_path.glob("out.jsonl.*"))
    assert "exists already" in fails_in_process(*command)
    assert run_in_process(*command, "--force", "--on-error", "skip").returncode == 0
    assert (tmp_path / "out.jsonl").read_bytes() == resumed
    assert resumed.count(b"\n") == 4


def test_a_changed_input_is_not_resumed(fails_in_process, model, tmp_path):
    (tmp_path / "p.txt").write_text("cat\n\n")
    command = ["generate", *model, "p.txt", "--max-new-tokens", 2, "-o", "out.jsonl"]
    fails_in_process(*command)
    (tmp_path / "p.txt").write_text("bird\n\n")
    assert "the input has changed" in fails_in_process(*command, "--resume")


def test_head_ends_it_quietly(launcher, model, tmp_path):
    (tmp_path / "p.txt").write_text("cat\n" * 400)
    words = ["-m", "ordtool", "generate", *model, "p.txt", "--max-new-tokens", 2, "--batch-size", 4]
    line, status, errors = launcher.run_before_head(words, cwd=tmp_path)
    assert json.loads(line)["text"] == "cat" and (status, errors) == (141, "")


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["-m", "smolm"], 2, "did you mean 'smollm2'"),
        (["-m", "no/such/folder"], 1, "no such model folder"),
        (["-m", "minilm"], 2, "encoder"),
        (["--temperature", "0", "--top-p", "0.9"], 2, "--temperature 0 is greedy"),
        (["--beams", "2", "--top-k", "5"], 2, "--beams searches"),
        (["-n", "3"], 2, "the same text 3 times"),
        (["--choices", "yes"], 2, "two different answers"),
        (["--template", "{a.b}"], 2, "is not a field"),
        (["--examples", "x.jsonl"], 1, "x.jsonl: no such file"),
        (["--on-error", "ignore"], 2, "choices: stop, skip"),
        (["--choices", "[]"], 2, "must be a list of strings"),
        (["--temperature", "nan"], 2, "--temperature must be a number, not nan"),
        (["--temperature", "1e-45"], 2, "--temperature 1e-45 is too near to 0"),
        (["--beams", "2", "--length-penalty", "nan"], 2, "--length-penalty must be a number, not nan"),
        (["--resume"], 2, "--resume needs an output file"),
        (["--resume", "-o", "x"], 2, "a pipe can't be read again"),
        (["-p", "x", "y.txt"], 2, "--prompt and input files"),
        (["missing.txt"], 1, "missing.txt: no such file"),
    ],
)
def test_refused_before_anything_is_loaded(fails_in_process, options, status, words):
    assert words in fails_in_process("generate", *options, status=status, stdin=b"x\n")


def test_long_prompts_are_refused(fails_in_process, model):
    stderr = fails_in_process("generate", *model, stdin=b"cat " * 300)
    assert "the model's context is 64" in stderr


def test_chat_without_a_template(fails_in_process, model):
    assert "no chat template" in fails_in_process("generate", *model, "--chat", stdin=b"x\n", status=2)


@pytest.mark.parametrize(
    ("kind", "words"),
    [("BertForSequenceClassification", "a classification checkpoint"), ("BertModel", "does not write text")],
)
def test_other_checkpoints_are_refused(fails_in_process, writers, tmp_path, kind, words):
    import shutil

    import transformers

    folder = tmp_path / "other"
    shutil.copytree(writers("llama"), folder, ignore=shutil.ignore_patterns("config.json", "*.safetensors"))
    config = transformers.BertConfig(
        vocab_size=400, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    getattr(transformers, kind)(config).save_pretrained(folder)
    stderr = fails_in_process("generate", "-m", "other", stdin=b"x\n")
    assert words in stderr
    assert kind in stderr


def test_damaged_weights(fails_in_process, writers, tmp_path):
    import shutil

    shutil.copytree(writers("llama"), tmp_path / "cut")
    file = tmp_path / "cut" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    assert "model.safetensors: damaged" in fails_in_process("generate", "-m", "cut", stdin=b"x\n")


def test_a_terminal_gets_the_text_itself(launcher, run_in_process, model, tmp_path):
    words = ["generate", *model, "-p", "the cat", "--max-new-tokens", "6", "-q"]
    shown, status = launcher.run_on_terminal(["-m", "ordtool", *words], cwd=tmp_path)
    assert status == 0, shown
    (piped,) = lines(run_in_process(*words))
    assert shown == piped["output"] + "\n"
