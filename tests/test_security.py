"""Attacks on what docs/security.md promises, where no other test has them."""

import json
import os
import pickle
import re
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest

PROMISES = Path(__file__).parent.parent / "docs" / "security.md"
TESTS = Path(__file__).parent


class Bomb:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture
def bomb(tmp_path):
    """The bytes of a pickle, and the file that appears when somebody loads it."""
    mark = tmp_path / "exploded"
    data = pickle.dumps(Bomb(mark))
    pickle.loads(data)
    assert mark.exists()
    mark.unlink()
    return data, mark


COMMANDS = {
    "bert": ["embed", "a.txt", "-m", "m", "-o", "v.npy"],
    "llama": ["generate", "a.txt", "-m", "m", "--max-new-tokens", "1"],
    "parser": ["parse", "a.txt", "-m", "m"],
}


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


@pytest.fixture
def folders(encoders, writers, parsers):
    return {"bert": encoders("plain-bert"), "llama": writers("llama"), "parser": parsers()}


# ---------------------------------------------------------------- no pickle


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_pickle_in_a_model_folder_is_never_loaded(kind, folders, bomb, tmp_path, run_in_process):
    data, mark = bomb
    (tmp_path / "a.txt").write_text("the cat sat\n")
    folder = copied(folders[kind], tmp_path / "m")
    for name in (
        "pytorch_model.bin",
        "training_args.bin",
        "optimizer.pt",
        "vocab.pkl",
        "model.safetensors.pkl",
    ):
        (folder / name).write_bytes(data)
    assert run_in_process(*COMMANDS[kind]).returncode == 0
    (folder / "model.safetensors").unlink()
    done = run_in_process(*COMMANDS[kind], "--force" if kind == "bert" else "-q")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (folder / "model.safetensors").write_bytes(data)
    done = run_in_process(*COMMANDS[kind], "--force" if kind == "bert" else "-q")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert not mark.exists()


def test_a_pickle_as_an_array_or_a_transform_is_never_loaded(bomb, tmp_path, fails_in_process):
    data, mark = bomb
    array = np.empty(2, dtype=object)
    array[:] = [Bomb(mark), 1]
    np.save(tmp_path / "o.npy", array, allow_pickle=True)
    np.save(tmp_path / "x.npy", np.eye(4))
    (tmp_path / "p.npy").write_bytes(data)
    for name in ("o.npy", "p.npy"):
        for line in (["hsic", name, "x.npy"], ["whiten", name], ["whiten", "x.npy", "--transform", name]):
            fails_in_process(*line)
    assert not mark.exists()


def test_a_pickle_as_a_checkpoint_is_never_loaded(bomb, tmp_path, run_in_process):
    """transformers' Trainer reads optimizer.pt and others of a checkpoint, with `weights_only`."""
    data, mark = bomb
    (tmp_path / "a.txt").write_text("the cat sat on the mat\n" * 30)
    line = "train lm a.txt -o m --steps 2 --layers 1 --hidden 8 --heads 1 --context 8 --vocab-size 300 -q".split()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        assert run_in_process(*line).returncode == 0
    shutil.rmtree(tmp_path / "m")
    changed = [path for path in (tmp_path / "m.partial").rglob("*") if path.suffix in (".pt", ".pth", ".bin")]
    assert changed
    for path in changed:
        path.write_bytes(data)
    done = run_in_process(*line, "--resume")
    assert not mark.exists()
    assert "Traceback" not in done.stderr and "this is a bug" not in done.stderr


# ---------------------------------------------------------------- no code


def test_a_chat_template_cannot_reach_python(writers, tmp_path, fails_in_process):
    folder = copied(writers("chat"), tmp_path / "m")
    attack = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        if name.endswith(".json"):
            found = json.loads((folder / name).read_text())
            (folder / name).write_text(json.dumps({**found, "chat_template": attack}))
        elif (folder / name).exists():
            (folder / name).write_text(attack)
    said = fails_in_process("generate", "-m", folder, "-p", "hello", "--max-new-tokens", "1")
    assert "the chat template refuses the prompt" in said


@pytest.mark.parametrize("hole", ["text.__class__", "text[0]", "text!r", "text:{id}", "0.__class__"])
def test_a_template_reaches_fields_alone(hole, writers, tmp_path, fails_in_process):
    (tmp_path / "a.jsonl").write_text('{"text": "a", "id": 1}\n')
    fails_in_process("generate", "a.jsonl", "-m", writers("llama"), "--template", f"{{{hole}}} b", status=2)


# ---------------------------------------------------------------- no network


def test_commands_ask_nobody(folders, tmp_path, run_in_process, monkeypatch):
    asked = []

    def refuse(*arguments, **_):
        asked.append(arguments)
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    (tmp_path / "a.txt").write_text("the cat sat on the mat\na dog ran home\n" * 4)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((30, 3)))
    for kind, folder in folders.items():
        shutil.copytree(folder, tmp_path / kind)
        line = [kind if word == "m" else word for word in COMMANDS[kind]]
        assert run_in_process(*line).returncode == 0
    for line in (
        ["parse", "a.txt"],
        ["embed", "a.txt", "-m", "static"],
        ["generate", "-m", "tinylm", "-p", "the", "--max-new-tokens", "1"],
        ["whiten", "x.npy", "--save", "t"],
        ["hsic", "x.npy", "x.npy"],
        ["models", "list"],
        ["models", "show", "minilm"],
        [
            "train",
            "lm",
            "a.txt",
            "-o",
            "n",
            "--steps",
            "1",
            "--hidden",
            "8",
            "--heads",
            "1",
            "--context",
            "4",
            "--layers",
            "1",
        ],
    ):
        done = run_in_process(*line)
        assert done.returncode == 0, done.stderr
    assert run_in_process("embed", "a.txt", "-m", "no-such-model").returncode == 2
    assert asked == []


# ---------------------------------------------------------------- what is shown

ATTACK = "\x1b]0;owned\x07\x1b[2J\x9b31m"
_RAW = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@pytest.mark.parametrize(
    "line",
    [
        ["parse", ATTACK],
        ["parse", "a.jsonl", "--field", f"x{ATTACK}"],
        ["parse", "a.txt", "-m", ATTACK],
        ["embed", "a.jsonl", "-m", "static", "--field", "x"],
        ["embed", f"{ATTACK}.npy", "-m", "static"],
        ["hsic", f"{ATTACK}.npy", "x.npy"],
        ["whiten", "x.npy", "--transform", ATTACK],
        ["score", "trees", ATTACK, ATTACK],
        ["generate", "a.jsonl", "-m", "tinylm", "--template", f"{{{ATTACK}}}"],
        ["models", "show", ATTACK],
        [ATTACK],
        ["parse", f"--{ATTACK}"],
        ["parse", "a.txt", "--config", "c.toml"],
        ["predict", "a.txt", "-m", f"m{ATTACK}"],
    ],
    ids=lambda line: " ".join(line[:1]).encode("unicode_escape").decode()[:12],
)
def test_nothing_of_an_input_commands_the_terminal(line, tmp_path, run_in_process):
    (tmp_path / "a.jsonl").write_text(json.dumps({ATTACK: ATTACK}) + "\n")
    (tmp_path / "a.txt").write_text("the cat\n")
    (tmp_path / "c.toml").write_text(
        f'"{ATTACK.encode("unicode_escape").decode().replace(chr(92) + "x", chr(92) + "u00")}" = 1\n'
    )
    (tmp_path / f"m{ATTACK}").mkdir()
    np.save(tmp_path / "x.npy", np.eye(4))
    done = run_in_process(*line)
    assert done.returncode in (1, 2)
    assert not _RAW.search(done.stderr), done.stderr


def test_pictures_and_pages_hold_text_alone(tmp_path, run_in_process):
    text = '<script>alert(1)</script> <img onerror="x"> & "quoted" \' ]]>'
    (tmp_path / "a.txt").write_text(text + "\n")
    for name in ("a.svg", "a.html"):
        assert run_in_process("parse", "a.txt", "--tokenized", "-o", name).returncode == 0
        found = (tmp_path / name).read_text()
        assert "<script>alert" not in found and "<img" not in found and "&lt;script&gt;" in found


# ---------------------------------------------------------------- files


def test_an_output_follows_the_umask(tmp_path, run_in_process):
    (tmp_path / "a.txt").write_text("the cat sat\n")
    before = os.umask(0o027)
    try:
        assert run_in_process("parse", "a.txt", "-o", "p.jsonl").returncode == 0
    finally:
        os.umask(before)
    assert (tmp_path / "p.jsonl").stat().st_mode & 0o777 == 0o640


def test_every_promise_names_tests_that_are_there():
    """The page's tables name tests as `file::test`; each must exist."""
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PROMISES.read_text(encoding="utf-8"))
    assert len(named) > 20
    for file, test in named:
        source = (TESTS.parent / file).read_text(encoding="utf-8")
        assert f"def {test}(" in source, f"{file}::{test}"
