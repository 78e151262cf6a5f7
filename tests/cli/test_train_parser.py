import json

import pytest

from ordtool.cli.app import main

TINY = "--vocab-size 40 --embedding 8 --hidden 8 --chunk 4 --layers 2 --batch-size 2 --window 5 --epochs 1".split()
TEXT = b"The old dog sees a cat. A cat runs under the big tree.\n" * 30


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_bytes(TEXT)
    return "text.txt"


@pytest.fixture
def call(tmp_path, monkeypatch, capfd):
    """The command line within this process, which has torch loaded already: `(status, stdout, stderr)`."""
    monkeypatch.chdir(tmp_path)

    def inner(*args: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(["train", "parser", *args])
        return (stopped.value.code or 0, *capfd.readouterr())

    return inner


def test_it_makes_a_folder_and_says_so_on_stderr(run_forked, tmp_path, text):
    done = run_forked("train", "parser", text, "-o", "model", *TINY)
    assert done.returncode == 0, done.stderr
    assert done.stdout == b""
    assert "text.txt: 60 sentences" in done.stderr and "dev perplexity" in done.stderr
    files = {path.name for path in (tmp_path / "model").iterdir()}
    assert files == {
        "config.json",
        "model.safetensors",
        "tokenizer_config.json",
        "training.json",
        "vocab.txt",
    }
    assert json.loads((tmp_path / "model" / "config.json").read_text())["hidden_size"] == 8
    assert not (tmp_path / "model.training").exists()


def test_quiet_and_force(call, tmp_path, text):
    assert call(text, "-o", "model", "-q", *TINY) == (0, "", "")
    status, _, stderr = call(text, "-o", "model", "-q", *TINY)
    assert status == 1 and "exists already" in stderr
    assert call(text, "-o", "model", "-q", "--force", *TINY) == (0, "", "")


@pytest.mark.parametrize(
    ("content", "options", "status", "words"),
    [
        (None, [], 1, "text.txt"),
        (b"", [], 1, "no words in the text"),
        (b"dog\n", ["--batch-size", "8"], 1, "2 tokens are too few for 8 streams"),
        (b"ok fine\n\xff\xfe\n", [], 1, "text.txt:2: invalid UTF-8"),
        (b"((S (NP (NN dog))\n", [], 1, "text.txt:1"),
        (TEXT, ["--recipe", "papr"], 2, "did you mean 'paper'?"),
        (TEXT, ["--chunk", "3"], 2, "doesn't divide"),
        (TEXT, ["--tokens", "word"], 2, "words"),
        (TEXT, ["--layout", "wraped"], 2, "wrapped"),
        (TEXT, ["--tune", "nowhere"], 1, "nowhere"),
        (TEXT, ["--treebank", "."], 1, "text.txt"),
        (TEXT, ["-o", "text.txt"], 2, "is an input too"),
        (TEXT, ["-o", "taken"], 1, "is a file"),
        (TEXT, ["-o", "no/where"], 1, "is missing"),
    ],
)
def test_bad_input(call, tmp_path, content, options, status, words):
    if content is not None:
        (tmp_path / "text.txt").write_bytes(content)
    (tmp_path / "taken").touch()
    output = [] if "-o" in options else ["-o", "model"]
    found, stdout, stderr = call("text.txt", *output, *TINY, *options)
    lines = stderr.splitlines()
    assert (found, stdout) == (status, "")
    assert words in stderr and "Traceback" not in stderr
    assert sum(line.startswith("error: ") for line in lines) == 1
    assert sum(line.startswith("hint: ") for line in lines) <= 1
    assert not (tmp_path / "model").exists()


def test_an_existing_folder_is_kept(call, tmp_path, text):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.txt").write_text("ten years of work")
    assert "exists already" in call(text, "-o", "model", *TINY)[2]
    assert (tmp_path / "model" / "thesis.txt").exists()
