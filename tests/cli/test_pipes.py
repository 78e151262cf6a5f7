"""Every command reads the same from a file, a pipe under any name, stdin and gzip of each, or refuses in one line."""

import contextlib
import gzip
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from ordtool.errors import OrdtoolError, UsageError
from ordtool.io.atomic import file_fingerprint
from ordtool.io.inputs import check_inputs, open_input, read_lines
from ordtool.io.jsonl import parse_json_object
from ordtool.io.text import read_records

SENTENCES = ["The cat sat on the mat.", "A dog ran, and the old cat saw it.", "", "Rivers run to the sea."]
TREES = [
    "(S (NP (DT The) (NN cat)) (VP (VBD sat) (PP (IN on) (NP (DT the) (NN mat)))) (. .))",
    "(S (NP (DT A) (NN dog)) (VP (VBD ran) (ADVP (RB home))) (. .))",
]
BRACKETS = ["(the (cat (sat down)))", "((a dog) (ran home))"]
RNG = np.random.default_rng(0)
VECTORS = RNG.standard_normal((40, 4)).astype(np.float32)
CLASSES = ["minus" if row[0] < 0 else "plus" for row in VECTORS]
PREDICTIONS = [{"tokens": re.findall(r" ([^\s()]+)\)", tree), "spans": [[0, 2]]} for tree in TREES]


def lines(*texts):
    return "".join(f"{text}\n" for text in texts).encode()


def objects(*rows):
    return lines(*map(json.dumps, rows))


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


VECTOR_ROWS = [{"vector": v, "label": c} for v, c in zip(VECTORS.tolist(), CLASSES, strict=True)]
TEXT_ROWS = [{"id": k, "text": text} for k, text in enumerate(SENTENCES) if text]
CSV = lines("n,text,label", '1,"The cat, sat.",plus', "2,A dog ran.,minus")
TSV = CSV.replace(b'"The cat, sat."', b"The cat sat.").replace(b",", b"\t")
PAIRS = lines(
    "sentence1,sentence2,score", "a cat sat,a dog sat,4", "rivers run,an old cat,1", "the sea,a sea,5"
)
BOOK = lines(*["The old cat sat on the mat and saw the dog run to the river."] * 30)
EXTRAPOLATE = "extrapolate INPUT -m tinylm --train-length 16 --lengths 16,32 --windows 2 --methods none"

# A command, the input's name, and what is in it. FILES are beside it.
CASES = {
    "parse text": ("parse INPUT", "a.txt", lines(*SENTENCES)),
    "parse jsonl": ("parse INPUT", "a.jsonl", objects(*TEXT_ROWS)),
    "parse trees": ("parse INPUT", "a.mrg", lines(*TREES)),
    "parse brackets": ("parse INPUT", "a.brackets", lines(*BRACKETS)),
    "parse split": ("parse --split INPUT", "a.txt", lines(" ".join(SENTENCES))),
    "embed text": ("embed INPUT -m static", "a.txt", lines(*SENTENCES)),
    "embed jsonl": ("embed INPUT -m static --format jsonl", "a.jsonl", objects(*TEXT_ROWS)),
    "embed whiten": ("embed INPUT -m static --whiten --dims 2", "a.txt", lines(*SENTENCES)),
    "generate": ("generate INPUT -m tinylm --max-new-tokens 2", "a.txt", lines(*SENTENCES[:2])),
    "generate jsonl": ("generate INPUT -m tinylm --max-new-tokens 2", "a.jsonl", objects(*TEXT_ROWS)),
    "predict npy": ("predict INPUT -m VECTORS", "a.npy", npy(VECTORS)),
    "predict jsonl": ("predict INPUT -m VECTORS", "a.jsonl", objects(*VECTOR_ROWS)),
    "predict text": ("predict INPUT -m TEXTS --embed-model static", "a.txt", lines(*SENTENCES[:2])),
    "predict csv": ("predict INPUT -m TEXTS --embed-model static", "a.csv", CSV),
    "predict tsv": ("predict INPUT -m TEXTS --embed-model static", "a.tsv", TSV),
    "whiten": ("whiten INPUT --dims 2", "a.npy", npy(VECTORS)),
    "hsic npy": ("hsic INPUT b.npy --test none", "a.npy", npy(VECTORS)),
    "hsic jsonl": ("hsic b.npy INPUT --test none", "a.jsonl", objects(*VECTOR_ROWS)),
    "hsic labels": ("hsic INPUT --label-field label --test none", "a.jsonl", objects(*VECTOR_ROWS)),
    "extrapolate": (EXTRAPOLATE, "a.txt", BOOK),
    "score trees": ("score trees INPUT gold.mrg", "a.jsonl", objects(*PREDICTIONS)),
    "score trees, gold": ("score trees pred.jsonl INPUT", "a.mrg", lines(*TREES)),
    "score text": ("score text INPUT ref.txt", "a.jsonl", objects({"output": "a cat"}, {"output": "b"})),
    "score text, references": ("score text ref.txt INPUT", "a.txt", lines("a cat", "a dog sat")),
    "score similarity": ("score similarity INPUT -m static", "a.csv", PAIRS),
    "score similarity, fit": ("score similarity pairs.csv -m static --fit-on INPUT", "a.csv", PAIRS),
    "train bottleneck": (
        "train bottleneck INPUT --label-field label --methods linear --runs 1 --holdout 0.25",
        "a.jsonl",
        objects(*VECTOR_ROWS),
    ),
}
FILES = {
    "b.npy": npy(VECTORS[:, :2] ** 2),
    "gold.mrg": lines(*TREES),
    "pred.jsonl": objects(*PREDICTIONS),
    "ref.txt": lines("a cat", "a dog sat"),
    "pairs.csv": PAIRS,
}
# What can't come from a pipe, and why.
REFUSED = {
    "train parser": ("train parser INPUT -o m", "a.txt", lines(*SENTENCES)),
    "train spans": ("train spans INPUT -o m", "a.jsonl", objects(*PREDICTIONS)),
    "train lm": ("train lm INPUT -o m", "a.txt", BOOK),
    "train seq2seq": ("train seq2seq INPUT -m BERT -o m", "a.jsonl", objects({"source": "a", "target": "b"})),
}
TIMES = {"tokens_per_second", "peak_memory_mb", "seconds", "seconds_a_step", "state_seconds"}


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory):
    """Linear classifiers: one of vectors of 4 numbers, one of the packaged static model's vectors."""
    from ordtool.independence.bottleneck_training import BottleneckTrainingConfig, train_bottleneck
    from ordtool.independence.labelled import Labelled

    folders = {}
    for name, vectors in (("VECTORS", VECTORS), ("TEXTS", RNG.standard_normal((40, 240)).astype(np.float32))):
        data = Labelled(vectors, (vectors[:, 0] > 0).astype(int), ("minus", "plus"))
        folders[name] = tmp_path_factory.mktemp("model") / name
        train_bottleneck(data, config=BottleneckTrainingConfig(method="linear")).model.save_pretrained(
            folders[name]
        )
    return folders


@contextlib.contextmanager
def written(path, data):
    """Writes to a pipe in a thread, in two pieces, for whoever reads it."""

    def write():
        with contextlib.suppress(BrokenPipeError), open(path, "wb") as file:
            file.write(data[:1])
            file.flush()
            time.sleep(0.01)
            file.write(data[1:])

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    yield
    if not isinstance(path, int) and thread.is_alive():  # nobody has opened it
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    thread.join(10)


@contextlib.contextmanager
def descriptor(data):
    """A pipe as a shell's `<(command)` names it."""
    reading, writing = os.pipe()
    with written(writing, data):
        yield f"/dev/fd/{reading}"
        os.close(reading)


@contextlib.contextmanager
def named_pipe(data, path):
    os.mkfifo(path)
    with written(path, data):
        yield str(path)
    os.unlink(path)


@contextlib.contextmanager
def dev_stdin(data):
    """`/dev/stdin` of this process, for a while."""
    kept = os.dup(0)
    reading, writing = os.pipe()
    os.dup2(reading, 0)
    os.close(reading)
    try:
        with written(writing, data):
            yield "/dev/stdin"
            os.dup2(kept, 0)
    finally:
        os.dup2(kept, 0)
        os.close(kept)


def pipes(data, folder):
    """Name and context manager of each kind of pipe."""
    for packed, content in (("", data), (" gzip", gzip.compress(data))):
        yield "/dev/fd" + packed, descriptor(content)
        yield "fifo" + packed, named_pipe(content, folder / "fifo")
        yield "/dev/stdin" + packed, dev_stdin(content)


def answer(done, name):
    """What a command says, without its input's name and without times."""
    try:
        rows = [json.loads(line) for line in done.stdout.splitlines()]
    except ValueError:
        return done.returncode, done.stdout
    return done.returncode, [
        {key: _unnamed(value, name) for key, value in row.items() if key not in TIMES} for row in rows
    ]


def _unnamed(value, name):
    if not isinstance(value, str):
        return value
    if name == "-":
        return "INPUT" if value == "-" else value.replace("<stdin>", "INPUT")
    return value.replace(name, "INPUT").replace(os.path.basename(name) + " ", "INPUT ")


@pytest.mark.parametrize("case", CASES)
def test_the_same_from_a_file_and_any_pipe(case, run_in_process, tmp_path, classifiers):
    line, name, data = CASES[case]
    for file, content in {**FILES, name: data, f"{name}.gz": gzip.compress(data)}.items():
        (tmp_path / file).write_bytes(content)

    def call(path, **options):
        names = {"INPUT": path, **classifiers}
        return answer(run_in_process(*(names.get(word, word) for word in line.split()), **options), path)

    expected = call(name)
    assert expected[0] == 0 and expected[1], expected
    assert call(f"{name}.gz") == expected
    for kind, pipe in pipes(data, tmp_path):
        with pipe as path:
            assert call(path) == expected, kind
    for content in (data, gzip.compress(data)):
        assert call("-", stdin=content) == expected


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_read_twice_is_refused(case, fails_in_process, tmp_path, encoders):
    line, _, data = REFUSED[case]

    def call(path):
        names = {"INPUT": path, "BERT": encoders("bert")}
        return fails_in_process(*(names.get(word, word) for word in line.split()), status=2)

    for kind, pipe in pipes(data, tmp_path):
        with pipe as path:
            assert "is read more than once, so it can't come from a pipe" in call(path), kind
    assert "<stdin>: " in call("-")


def test_a_ladder_learns_from_a_pipe(run_in_process, tmp_path, encoders):
    data = lines("text,label", *(f"the {word} sat,{word}" for word in ["cat", "dog"] * 8))
    (tmp_path / "a.csv").write_bytes(data)
    words = ["-m", encoders("bert"), "-r", 2, "--epochs", 1, "--batch-size", 8, "--no-cache"]

    def call(path, folder):
        done = run_in_process("train", "ladder", path, "-o", folder, *words)
        assert done.returncode == 0, done.stderr
        return answer(done, path), (tmp_path / folder / "model.safetensors").read_bytes()

    expected = call("a.csv", "one")
    with descriptor(gzip.compress(data)) as path:
        assert call(path, "two") == expected


@pytest.mark.parametrize(
    "line",
    [
        "ordtool parse <(cat a.txt)",
        "ordtool embed -m static --format jsonl <(gzip -c a.txt)",
        "gzip -c a.txt | ordtool embed -m static --format jsonl",
    ],
)
def test_in_a_shell(line, tmp_path):
    texts = [f"the cat saw {number} dogs" for number in range(40)]
    (tmp_path / "a.txt").write_text("\n".join(texts) + "\n")
    shell = line.replace("ordtool", f"{sys.executable} -m ordtool")
    done = subprocess.run(["bash", "-c", shell], capture_output=True, cwd=tmp_path, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert [json.loads(row)["text"] for row in done.stdout.splitlines()] == texts


@pytest.mark.parametrize("command", ["embed -m static", "generate -m tinylm", "predict -m VECTORS"])
def test_a_pipe_cannot_be_resumed(command, fails_in_process, classifiers):
    words = [classifiers.get(word, word) for word in command.split()]
    with descriptor(b"one\n") as path:
        assert "pipe can't be read again" in fails_in_process(*words, path, "-o", "o", "--resume", status=2)


def test_a_socket_is_read(tmp_path):
    ours, theirs = socket.socketpair()
    theirs.sendall(b"one\ntwo\n")
    theirs.close()
    assert [record.text for record in read_records([f"/dev/fd/{ours.fileno()}"])] == ["one", "two"]
    ours.close()


def test_checks_take_nothing_out_of_a_pipe():
    with descriptor(b"one\ntwo\n") as path:
        check_inputs([path])
        with pytest.raises(UsageError, match="can be read once, and it is named twice"):
            check_inputs([path, path])
        with pytest.raises(UsageError, match="can't come from a pipe"):
            file_fingerprint([path])
        assert [record.text for record in read_records([path])] == ["one", "two"]


def test_looking_at_the_beginning_waits_for_no_more_than_it_needs():
    """A writer may wait for the answer to its first line."""
    reading, writing = os.pipe()
    os.write(writing, b"\n {}\n")
    with open_input(f"/dev/fd/{reading}") as stream:
        assert not stream.starts_with(b"\x93NUMPY")
        assert stream.first_line() == b" {}"
        os.write(writing, b"more")
        os.close(writing)
        assert list(read_lines(stream, "pipe")) == [b"", b" {}", b"more"]
    os.close(reading)


def test_marks_of_joined_files_are_dropped(tmp_path):
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfone\n\xef\xbb\xbftwo\n")
    assert [record.text for record in read_records([tmp_path / "a"])] == ["one", "two"]
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "one"}\n\xef\xbb\xbf{"text": "two"}\n')
    assert [record.text for record in read_records([tmp_path / "a.jsonl"])] == ["one", "two"]


@pytest.mark.parametrize("command", ["embed -m static", "parse", "generate -m tinylm", "predict -m VECTORS"])
def test_json_that_nests_too_deeply(command, fails_in_process, classifiers):
    words = [classifiers.get(word, word) for word in command.split()]
    deep = b'{"text": "a", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"
    assert "<stdin>:1: malformed JSON (nested too deeply)" in fails_in_process(*words, stdin=deep)


HALF = b'{"text": "cut \\ud83d"}\n'


@pytest.mark.parametrize(
    "command", ["embed -m static --format jsonl", "parse", "generate -m tinylm --max-new-tokens 2"]
)
def test_half_a_character_is_a_bad_record(command, run_in_process, fails_in_process):
    message = "<stdin>:2: malformed JSON (\\ud83d is half a character"
    good = [objects({"text": "one"}), objects({"text": "whole \U0001f600"}), objects({"text": "\\ud83d"})]
    data = good[0] + HALF + good[1] + good[2]
    assert message in fails_in_process(*command.split(), stdin=data)
    done = run_in_process(*command.split(), "--on-error", "skip", stdin=data)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3
    assert re.search("1 bad record skipped", done.stderr), done.stderr


@pytest.mark.parametrize("text", ['{"\\ud800": 1}', '{"a": [{"b": "\\uDFFF"}]}', '{"a": "\\ude00\\ud83d"}'])
def test_half_a_character_anywhere(text):
    with pytest.raises(OrdtoolError, match="file:7: malformed JSON"):
        parse_json_object(text, "file", 7)


def test_whole_characters_are_no_halves():
    assert parse_json_object('{"a": "\\ud83d\\ude00 \\\\ud83d"}', "file", 1) == {"a": "\U0001f600 \\ud83d"}
