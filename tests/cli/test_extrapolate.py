"""`ordtool extrapolate`: pipes, terminals, files, interruptions, wrong input."""

import io
import json
import re
import sys
from types import SimpleNamespace

import pytest

FIELDS = [
    "method",
    "length",
    "factor",
    "loss",
    "perplexity",
    "accuracy",
]
TIMINGS = ["tokens_per_second", "peak_memory_mb"]
TEXT = "the cat sat on the mat and the dog saw the cat\n" * 20  # a letter is a token


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random Llama of trained length 16 that reads letters."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("models") / "tiny"
    letters = ["<unk>", "<s>", "</s>", *sorted(set(TEXT))]
    vocabulary = {letter: at for at, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(path)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(letters),
        hidden_size=20,
        intermediate_size=23,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def run_in_process(tmp_path, monkeypatch, capsysbinary):
    """The command in this process, which has torch already: as `run`, for what needs no process."""
    from ordtool.cli.app import main

    def call(*args, stdin=b""):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("COLUMNS", "100")
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as end:
            main(["extrapolate", *map(str, args), "--device", "cpu"])
        out, err = capsysbinary.readouterr()
        return SimpleNamespace(returncode=end.value.code, stdout=out, stderr=err.decode())

    return call


@pytest.fixture
def fails_in_process(run_in_process):
    """Run a command that must fail, in this process; gives stderr."""

    def call(*args, status=1, stdin=b""):
        done = run_in_process(*args, stdin=stdin)
        assert done.returncode == status, done.stderr
        assert done.stdout == b""
        assert done.stderr.count("error: ") == 1, done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr

    return call


def rows(done):
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_pipe_in_and_a_pipe_out(run_forked, folder):
    done = run_forked(
        "extrapolate", "-m", folder, "--methods", "none,rerope", "--lengths", "1x,3x", stdin=TEXT.encode()
    )
    found = rows(done)
    assert [list(row) for row in found] == [FIELDS] * 4
    assert [(row["method"], row["length"], row["factor"]) for row in found] == [
        ("none", 16, 1.0),
        ("rerope", 16, 1.0),
        ("none", 48, 3.0),
        ("rerope", 48, 3.0),
    ]
    assert all(0 < row["loss"] < 5 and 0 <= row["accuracy"] <= 1 for row in found)
    assert "parameters: rerope: window 4" in done.stderr


def test_a_terminal_gets_a_table_and_a_chart(launcher, folder, book, tmp_path):
    command = ["extrapolate", book, "-m", folder, "--methods", "none,dca", "--lengths", "1x,2x", "-q"]
    shown, status = launcher.run_on_terminal(["-m", "ordtool", *command], cwd=tmp_path, COLUMNS="90")
    assert status == 0, shown
    words = " ".join(
        re.sub(r"\x1b\[[0-9;]*m", "", shown).split()
    )  # the title is wrapped at the table's width
    assert "tiny on book.txt: the last 8 tokens of 8 windows, trained length 16" in words
    assert all(word in shown for word in ("a none", "b dca", "tokens/s", "MB", "acc. %"))
    assert "+-----" in shown and "{" not in shown


def test_every_method_and_the_same_twice(run_in_process, folder, book):
    def losses():
        found = rows(
            run_in_process(book, "-m", folder, "--methods", "all,rerope+logn", "--lengths", "20,40", "-q")
        )
        return [(row["method"], row["length"], row["loss"], row["accuracy"]) for row in found]

    first = losses()
    methods = {method for method, *_ in first}
    assert methods >= {"none", "yarn", "dynamic-yarn", "rerope", "string", "dca", "rerope+logn"}
    assert len(first) == 2 * len(methods)
    assert losses() == first


def test_by_position(run_in_process, folder, book):
    found = rows(run_in_process(book, "-m", folder, "--methods", "none", "--by-position", "--bins", 4, "-q"))
    assert [row["position"] for row in found] == [32, 64, 96, 128]
    assert {row["length"] for row in found} == {128}
    assert list(found[0]) == [*FIELDS[:3], "position", *FIELDS[3:]]


def test_repeated_text_is_scored_on_the_same_tokens(run_in_process, folder, book):
    options = (book, "-m", folder, "--methods", "none", "--lengths", "1x,2x", "-q")
    plain, repeated = rows(run_in_process(*options)), rows(run_in_process(*options, "--repeat"))
    assert repeated[0]["loss"] == plain[0]["loss"]  # one period: nothing has come twice yet
    assert repeated[1]["loss"] != plain[1]["loss"]


def test_lines_of_jsonl_are_texts(run_in_process, folder, tmp_path):
    path = tmp_path / "x.jsonl"
    texts = ["short", TEXT, 7]
    path.write_text("".join(json.dumps({"body": text}) + "\n" for text in texts))
    options = ("x.jsonl", "--field", "body", "-m", folder, "--methods", "none", "--lengths", "1x")
    done = run_in_process(*options, "--on-error", "skip")
    assert len(rows(done)) == 1
    assert "1 bad record skipped" in done.stderr
    assert "x.jsonl:3" in run_in_process(*options).stderr


def test_a_grid_that_was_interrupted_is_gone_on_with(run_in_process, folder, book, tmp_path):
    options = (book, "-m", folder, "--methods", "none,window,rerope", "--lengths", "1x,2x", "-o", "out.jsonl")
    assert run_in_process(*options).returncode == 0
    whole = (tmp_path / "out.jsonl").read_text().splitlines()
    assert run_in_process(*options).returncode == 1  # exists
    # As a run leaves it that ended within the fourth cell: three cells, and a torn line.
    from ordtool.io import resumable

    kept = {}

    class Stop(Exception):
        pass

    save = resumable.Lines.save

    def stop(self, done):
        save(self, done)
        kept["done"] = done
        if done == 3:
            raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resumable.Lines, "save", stop)
        assert run_in_process(*options, "--force").returncode == 1
    partial = tmp_path / "out.jsonl.partial"
    assert kept["done"] == 3 and len(partial.read_text().splitlines()) == 3
    with partial.open("a") as file:
        file.write('{"method": "win')
    assert (
        "had other settings (lengths)"
        in run_in_process(*options[:-3], "1x,4x", *options[-2:], "--resume", "--force").stderr
    )
    done = run_in_process(*options, "--resume", "--force", "--plot", "x.svg")
    assert done.returncode == 0, done.stderr
    found = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in found] == [json.loads(line)["loss"] for line in whole]
    assert "a none" in done.stderr and "c rerope" in done.stderr  # the table has the earlier rows too
    assert (tmp_path / "x.svg").read_bytes().startswith(b"<?xml")
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.jsonl"]


def test_two_runs_give_the_same_bytes_and_timings_are_asked_for(run_in_process, folder, book, tmp_path):
    options = (book, "-m", folder, "--methods", "none,rerope", "--lengths", "1x,2x", "-q")
    for name in ("one.jsonl", "two.jsonl"):
        assert run_in_process(*options, "-o", name).returncode == 0
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    found = rows(run_in_process(*options, "--timings"))
    assert [list(row) for row in found] == [[*FIELDS, *TIMINGS]] * 4
    assert all(row["tokens_per_second"] > 0 for row in found)


def test_default_lengths_are_as_long_as_the_text(run_in_process, fails_in_process, folder, tmp_path):
    for count, lengths in ((500, [16, 32, 64, 128]), (127, [16, 32, 64]), (16, [16])):
        (tmp_path / "short.txt").write_text(TEXT[:count].replace("\n", " "))
        done = run_in_process("short.txt", "-m", folder, "--methods", "none")
        assert [row["length"] for row in rows(done)] == lengths
        assert (f"the text has {count} tokens, so the longest length is" in done.stderr) == (count < 128)
        by_position = run_in_process("short.txt", "-m", folder, "--methods", "none", "--by-position", "-q")
        assert {row["length"] for row in rows(by_position)} == {lengths[-1]}
    (tmp_path / "short.txt").write_text("the cat")
    assert "has 7 tokens, and 16 are needed" in fails_in_process("short.txt", "-m", folder)


def test_a_limit_on_tokens(run_in_process, fails_in_process, folder, book):
    def read(limit, *options):
        done = run_in_process(book, "-m", folder, "--methods", "none,pi", "--max-tokens", limit, *options)
        return sorted({row["length"] for row in rows(done)}), done.stderr

    # A window of every length by both methods is 2 * (16 + 32 + 64 + 128) = 480 tokens.
    assert read(10_000)[0] == [16, 32, 64, 128]
    lengths, told = read(1000)
    assert lengths == [16, 32, 64, 128] and "within 1,000 tokens: 2 of 8 windows\n" in told
    lengths, told = read(300)
    assert lengths == [16, 32, 64] and "1 of 8 windows, without the length(s) 128" in told
    message = fails_in_process(book, "-m", folder, "--methods", "none,pi", "--max-tokens", 31, status=2)
    assert "--max-tokens 31 are too few: one window of 16 tokens by 2 methods is 32" in message


def test_what_a_person_gets_wrong(fails_in_process, folder, book):
    for options, status, words in (
        (("--methods", "rerop"), 2, "did you mean 'rerope'?"),
        (("--methods", "rerope+dca"), 2, "both change the positions"),
        (("--lengths", "lots"), 2, "'lots' is no number of tokens"),
        (("--last", "16"), 2, "can't be scored with 16 tokens of context"),
        (("--factor", "half"), 2, "is no number of 1 or more"),
        (("--on-error", "ignore"), 2, "choices: stop, skip"),
        (("--repeat", "--period", "99x"), 2, "then nothing repeats"),
        (("--plot", "x.gif"), 2, "a plot is one of"),
        (("--resume",), 2, "needs an output file"),
        (("--lengths", "1x,100x"), 1, "has 939 tokens, and 1,600 are needed: 661 are missing"),
    ):
        assert words in fails_in_process(book, "-m", folder, *options, status=status), options
    assert "no such file" in fails_in_process("boo.txt", "-m", folder)
    assert "no text" in fails_in_process("-m", folder)
    assert "unknown model" in fails_in_process(book, "-m", "smolm2", status=2)


def test_models_that_cannot_be_extrapolated(fails_in_process, run_in_process, folder, book, tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

    def save(model, name):
        path = tmp_path / name
        model.save_pretrained(path)
        for file in folder.glob("tokenizer*"):
            (path / file.name).write_bytes(file.read_bytes())
        return path

    gpt2 = save(
        GPT2LMHeadModel(GPT2Config(vocab_size=30, n_positions=64, n_embd=8, n_layer=1, n_head=1)), "gpt2"
    )
    message = fails_in_process(book, "-m", gpt2, "--lengths", "1x,2x")
    assert "GPT2LMHeadModel: no rotary position embedding: it learned a vector for each position" in message
    t5 = save(T5ForConditionalGeneration(T5Config(vocab_size=30, d_model=8, num_layers=1, d_ff=8)), "t5")
    assert "is not a causal language model" in fails_in_process(book, "-m", t5)
    warned = run_in_process(
        book, "-m", folder, "--methods", "rerope", "--window", "1x", "--lengths", "2x", "-q"
    )
    assert warned.returncode == 0
    assert "warning: rerope: a window of 16 is not below the trained length of 16" in warned.stderr


def test_models_of_train_lm(fails_in_process, run_in_process, folder, book, tmp_path):
    """Any of them is measured as it is; methods are for the rotary ones."""
    from ordtool.lm.model import OrdtoolLMConfig, OrdtoolLMForCausalLM

    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    for positions in ("alibi", "rope"):
        config = OrdtoolLMConfig(
            vocab_size=size, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2,
            positions=positions, max_position_embeddings=16,
        )  # fmt: skip
        OrdtoolLMForCausalLM(config).save_pretrained(tmp_path / positions)
        for file in folder.glob("tokenizer*"):
            (tmp_path / positions / file.name).write_bytes(file.read_bytes())
    measured = run_in_process(book, "-m", tmp_path / "alibi", "--methods", "none", "--lengths", "1x,4x", "-q")
    assert [json.loads(line)["factor"] for line in measured.stdout.splitlines()] == [1.0, 4.0]
    message = fails_in_process(
        book, "-m", tmp_path / "alibi", "--methods", "none,rerope", "--lengths", "1x,2x"
    )
    assert "it was trained with ALiBi, a penalty on distances, which needs no such method" in message
    measured = run_in_process(
        book, "-m", tmp_path / "rope", "--methods", "rerope,ntk+logn", "--lengths", "4x", "-q"
    )
    assert [json.loads(line)["method"] for line in measured.stdout.splitlines()] == ["rerope", "ntk+logn"]


def test_explanation_reads_no_text(run_in_process, fails_in_process, folder, book, tmp_path):
    options = ("-m", folder, "--explain", "--methods", "none,rerope")
    (found,) = rows(run_in_process(*options, "--lengths", "1x,4x"))
    assert (found["train_length"], found["length"], len(found["pairs"])) == (16, 64, 5)
    assert [effect["furthest"] for effect in found["effects"]] == [63, 4]
    done = run_in_process(*options, "-o", "found.jsonl", "--plot", "turns.svg")
    assert done.returncode == 0 and done.stdout == b"" and "drawn: turns.svg" in done.stderr
    assert json.loads((tmp_path / "found.jsonl").read_text())["length"] == 8 * 16
    assert b"<svg" in (tmp_path / "turns.svg").read_bytes()
    assert "found.jsonl" in fails_in_process(*options, "-o", "found.jsonl")
    assert "--explain reads no text" in fails_in_process(book, *options, status=2)


def test_explanation_for_a_person(folder, capsysbinary):
    from ordtool.cli._explanation_view import show_explanation
    from ordtool.extrapolation.explanation import explain

    show_explanation(explain(model=str(folder), methods=("none", "ntk", "rerope")))
    shown = capsysbinary.readouterr().out.decode()
    assert "ntk: slower by" in shown and "rerope: slower by" not in shown
    lines = [line.split() for line in shown.splitlines()]
    assert ["rerope", "4", "128", "0", "of", "5", "1.000"] in lines
    assert ["1", "0.158", "40", "0.404", "never", "1.68"] in lines


def test_a_closed_pipe_is_silent(launcher, folder, book, tmp_path):
    command = ["extrapolate", book, "-m", folder, "--methods", "all", "-q", "--lengths", "1x,2x"]
    _, status, errors = launcher.run_before_head(["-m", "ordtool", *command], cwd=tmp_path)
    assert (status, errors) == (141, "")


def test_a_task_needs_no_text_and_its_grid_resumes(run_in_process, folder, tmp_path):
    options = ["--task", "kv", "-m", folder, "--methods", "none,rerope", "--lengths", "150", "--windows", "1"]
    options += ["--depths", "0,1", "--seed", "3"]
    whole = run_in_process(*options)
    found = rows(whole)
    assert [(row["method"], row["depth"]) for row in found] == [
        ("none", 0), ("none", 1), ("rerope", 0), ("rerope", 1),
    ]  # fmt: skip
    first, second = (b"".join(whole.stdout.splitlines(True)[at : at + 2]) for at in (0, 2))
    done = run_in_process(*options, "-o", "t.jsonl")
    assert "found %, at  150" in done.stderr and (tmp_path / "t.jsonl").read_bytes() == whole.stdout
    refused = run_in_process(*options, "-o", "half.jsonl", "--max-tokens", "10")
    assert refused.returncode == 2 and "too few" in refused.stderr
    from ordtool.io import resumable

    save = resumable.Lines.save

    def stop(self, done):
        save(self, done)
        if done == 1:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resumable.Lines, "save", stop)
        run_in_process(*options, "-o", "u.jsonl")
    assert (tmp_path / "u.jsonl.partial").read_bytes() == first
    assert run_in_process(*options, "--resume", "-o", "u.jsonl", "--plot", "u.svg").returncode == 0
    assert (tmp_path / "u.jsonl").read_bytes() == first + second
    assert (tmp_path / "u.svg").read_text().count("<svg") == 1
    other = run_in_process(*options[:-1], "4")
    assert [row["loss"] for row in rows(other)] != [row["loss"] for row in found]


def test_tune_writes_a_method(run_in_process, folder, book, tmp_path):
    options = [book, "-m", folder, "--tune", "rerope:window=2+ntk", "--lengths", "1x,2x", "-o", "tried.jsonl"]
    done = run_in_process(*options)
    assert done.returncode == 0, done.stderr
    method = done.stdout.decode().strip()
    tried = [json.loads(line) for line in (tmp_path / "tried.jsonl").read_bytes().splitlines()]
    assert method in [row["method"] for row in tried] and all(set(row) == {"method", "loss"} for row in tried)
    assert run_in_process(book, "-m", folder, "--methods", method, "--lengths", "2x").returncode == 0
    assert "--plot doesn't go with --tune" in run_in_process(*options, "--force", "--plot", "x.svg").stderr


def test_tune_writes_the_file_of_dpe(run_in_process, folder, book, tmp_path):
    options = [book, "-m", folder, "--tune", "dpe:window=8", "--lengths", "2x"]
    assert "name it: --factors" in run_in_process(*options).stderr
    assert "writes its --factors alone" in run_in_process(*options, "--factors", "g.json", "-o", "x").stderr
    assert "--factors is of --tune longrope" in run_in_process(*options[:3], "--factors", "g.json").stderr
    done = run_in_process(*options, "--factors", "groups.json")
    assert done.returncode == 0, done.stderr
    method = done.stdout.decode().strip()
    assert method == "dpe:window=8:lengths=groups.json"
    assert set(json.loads((tmp_path / "groups.json").read_bytes())) == {"lengths", "key_pairs"}
    assert run_in_process(book, "-m", folder, "--methods", method, "--lengths", "2x").returncode == 0
