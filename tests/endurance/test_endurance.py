"""What befalls a command: kills, signals, full disks, a second one beside it, closed and full outputs.

In a usual run each is tried a few times. `ORDTOOL_KILLS=20 pytest tests/endurance -s` kills every command twenty times and
prints a table.
"""

import contextlib
import os
import random
import re
import resource
import shutil
import signal
import sys
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from children import use_one_thread
from launcher import Process

KILLS = int(os.environ.get("ORDTOOL_KILLS", "0"))
LINES = (
    "The old cat sat near the river .\nA small dog ran under it and sang .\nThen the bird saw a red tree .\n"
)
TREES = (
    "(S (NP (DT the) (NN cat)) (VP (VBD sat) (PP (IN on) (NP (DT the) (NN mat)))))\n"
    "(S (NP (DT a) (JJ small) (NN dog)) (VP (VBD ran)))\n(S (NP (NNS birds)) (VP (VBP sing) (RB then)))\n"
)


@dataclass
class Case:
    """A command that writes.

    Attributes:
        words: Its line; MODELS stand for folders.
        output: What it leaves.
        again: What stands behind it after a kill.
    """

    words: str
    output: str
    again: list[str] = field(default_factory=lambda: ["--resume"])


SMALL = "--hidden 8 --layers 1"
CASES = {
    "embed": Case("embed a.txt -m BERT -o v.npy --batch-size 4", "v.npy"),
    "embed --json": Case("embed a.txt -m BERT -o v.jsonl --batch-size 4", "v.jsonl"),
    "embed --whiten": Case("embed a.txt -m BERT --whiten --dims 3 -o v.npy", "v.npy"),
    "embed --layers all": Case("embed a.txt -m BERT --layers all -o v", "v"),
    "generate": Case("generate few.txt -m LLAMA --max-new-tokens 4 -o g.jsonl --batch-size 1", "g.jsonl"),
    "parse": Case("parse a.txt -m PARSER -o p.jsonl --batch-size 4", "p.jsonl"),
    "predict": Case("predict a.txt -m TEXTS --embed-model static -o p.jsonl --batch-size 4", "p.jsonl"),
    "extrapolate": Case(
        "extrapolate a.txt -m OWN --lengths 8,16,32 --methods none,rerope -o e.jsonl", "e.jsonl"
    ),
    "whiten": Case("whiten x.npy --save t -o w.npy", "w.npy", ["--force"]),
    "hsic": Case("hsic x.npy y.npy --permutations 4999 -o h.jsonl", "h.jsonl"),
    "hsic --test aggregated": Case("hsic x.npy y.npy --test aggregated --grid 0.5,1 -o h.jsonl", "h.jsonl"),
    "score text": Case("score text a.txt a.txt -o s.jsonl", "s.jsonl"),
    "score similarity": Case("score similarity p.tsv -m BERT -o s.jsonl", "s.jsonl"),
    "score trees": Case("score trees g.mrg g.mrg -o s.jsonl", "s.jsonl", ["--force"]),
    "train lm": Case(
        f"train lm a.txt -o m --steps 20 --eval-every 5 --context 8 --heads 1 --vocab-size 300 {SMALL}", "m"
    ),
    "train parser": Case(
        "train parser a.txt -o m --kind onlstm --epochs 6 --hidden 8 --embedding 8 --chunk 4 --layers 2"
        " --checkpoint-minutes 0.001",
        "m",
    ),
    "train spans": Case(
        "train spans g.mrg -o m --epochs 6 --hidden 8 --embedding 8 --layers 1 --heads 1 --span-size 4", "m"
    ),
    "train ladder": Case("train ladder l.tsv -m BERT -o m --epochs 4 -r 2", "m"),
    "train seq2seq": Case("train seq2seq l.tsv -m BERT -o m --epochs 4 --eval-every 4", "m"),
    "train bottleneck": Case("train bottleneck x.npy y.npy -o m --layers 8 --epochs 8 --runs 1", "m"),
}
# Those of a usual run.
QUICK = ("embed", "parse", "whiten", "train parser")


@pytest.fixture(scope="session")
def folders(parsers, encoders, writers, tmp_path_factory):
    from ordtool.independence.bottleneck_training import BottleneckTrainingConfig, train_bottleneck
    from ordtool.independence.labelled import Labelled

    texts = tmp_path_factory.mktemp("model") / "texts"
    vectors = np.random.default_rng(0).standard_normal((40, 240)).astype(np.float32)
    data = Labelled(vectors, (vectors[:, 0] > 0).astype(int), ("minus", "plus"))
    train_bottleneck(data, config=BottleneckTrainingConfig(method="linear")).model.save_pretrained(texts)
    return {
        "BERT": encoders("plain-bert"),
        "LLAMA": writers("llama"),
        "OWN": writers("own"),
        "PARSER": parsers(),
        "TEXTS": texts,
    }


def fill(folder: Path, repeat: int = 60) -> Path:
    """Put the inputs into a new folder."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    numbers = rng.standard_normal((40 * repeat, 12))
    np.save(folder / "x.npy", numbers)
    np.save(folder / "y.npy", (numbers[:, 0] > 0).astype(int))
    (folder / "a.txt").write_text(LINES * repeat)
    (folder / "few.txt").write_text(LINES * max(1, repeat // 8))
    (folder / "g.mrg").write_text(TREES * max(2, repeat // 4))
    pairs = [f"the cat saw tree {k}\ta dog ran {k % 7}\t{k % 5}\n" for k in range(repeat)]
    (folder / "p.tsv").write_text("".join(pairs))
    (folder / "l.tsv").write_text("the cat sat\tsea\na dog ran\twood\n" * repeat)
    return folder


def start(launcher, folder: Path, words, folders, said="said") -> Process:
    """Begin a command in a folder; what it says to people goes to a file beside that."""
    args = ["-m", "ordtool", *[folders.get(word, word) for word in words]]
    with open(os.devnull, "r+b") as nothing, open(folder.parent / said, "wb") as told:
        streams = {"stdin": nothing.fileno(), "stdout": nothing.fileno(), "stderr": told.fileno()}
        return launcher.start(args, cwd=folder, **streams)


def content(path: Path) -> dict[str, bytes]:
    """What was written, name to bytes, without what says when and how fast."""
    times = ("comparison.jsonl", "training.json", "training.jsonl", "README.md", "training_args.bin")
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    return {
        str(file.relative_to(path)): re.sub(rb'"seconds": [0-9.e-]+', b"", file.read_bytes())
        for file in files
        if file.is_file() and file.name not in times
    }


def one_line(said: str) -> None:
    assert "Traceback" not in said and "this is a bug" not in said, said
    assert sum(line.startswith("error: ") for line in said.splitlines()) == 1, said


# ---------------------------------------------------------------- kills


class Child:
    """A command in a process that is forked from this one, which has loaded torch already: a kill costs no more seconds."""

    def __init__(self, folder: Path, words, folders) -> None:
        self.said = folder.parent / f"{folder.name}.said"
        self.number = os.fork()
        if self.number == 0:
            self._live(folder, [str(folders.get(word, word)) for word in words])

    def _live(self, folder: Path, args: list[str]) -> None:
        from ordtool.cli.app import main

        status = 99
        try:
            os.setsid()
            os.chdir(folder)
            warnings.resetwarnings()
            use_one_thread()
            said = os.open(self.said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(os.open(os.devnull, os.O_RDWR), 0)
            os.dup2(0, 1)
            os.dup2(said, 2)
            sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")
            main([*args, "-q"])
        except SystemExit as error:
            status = error.code
        finally:
            sys.stderr.flush()
            os._exit(status)

    def wait(self, seconds: float = 300) -> int | None:
        """Return the exit status; None if it runs on."""
        end = time.monotonic() + seconds
        while True:
            found, status = os.waitpid(self.number, os.WNOHANG)
            if found:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > end:
                return None
            time.sleep(0.002)

    def kill(self) -> None:
        """Kill it, and all that it began."""
        with contextlib.suppress(ProcessLookupError):  # it has no group of its own yet
            os.killpg(self.number, signal.SIGKILL)
        os.kill(self.number, signal.SIGKILL)
        os.waitpid(self.number, 0)


def kill_and_go_on(name: str, kills: int, folders, place: Path) -> dict[str, int]:
    """Kill a command at random moments, go on, and count."""
    case, rng = CASES[name], random.Random(name)
    whole = fill(place / "whole")
    begin = time.monotonic()
    child = Child(whole, case.words.split(), folders)
    assert child.wait() == 0, child.said.read_text()
    wall = time.monotonic() - begin
    expected, names = content(whole / case.output), set(os.listdir(whole))
    counts = {"kills": 0, "gone on": 0, "equal": 0, "left behind": 0}
    for number in range(3 * kills):
        work = fill(place / str(number))
        child = Child(work, case.words.split(), folders)
        if child.wait(wall * rng.random()) is not None:  # it was faster
            shutil.rmtree(work)
            continue
        child.kill()
        counts["kills"] += 1
        done = (work / case.output).exists()
        if done:  # complete under its final name, or not there
            assert content(work / case.output) == expected, f"{name}: half-written under its name"
        if not done or "--force" in case.again:
            child = Child(work, [*case.words.split(), *case.again], folders)
            assert child.wait() == 0, f"{name}: {child.said.read_text()}"
        counts["gone on"] += 1
        found = content(work / case.output)
        counts["equal"] += found == expected
        if found != expected:
            other = [file for file in {**found, **expected} if found.get(file) != expected.get(file)]
            sys.stdout.write(f"{name}: {', '.join(other)} differ\n")
        counts["left behind"] += len(set(os.listdir(work)) - names)
        shutil.rmtree(work)
        if counts["kills"] == kills:
            break
    return counts


@pytest.mark.parametrize("name", CASES if KILLS else QUICK)
def test_kills(name, folders, tmp_path, monkeypatch):
    # Several shards: a run that has written none of them leaves nothing to go on with.
    monkeypatch.setattr("ordtool.embedding.work.SHARD_TEXTS", 32)
    monkeypatch.setattr("ordtool.prediction.work.SHARD_RECORDS", 32)
    monkeypatch.setattr("ordtool.generation.scoring_job.SHARD_TEXTS", 32)
    counts = kill_and_go_on(name, KILLS or 1, folders, tmp_path)
    sys.stdout.write(f"| {name} | {' | '.join(map(str, counts.values()))} |\n")
    assert counts["gone on"] == counts["equal"] and not counts["left behind"], counts


# ---------------------------------------------------------------- signals


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_what_can_be_gone_on_with(number, launcher, folders, tmp_path):
    work = fill(tmp_path / "work", 3000)
    words = "parse a.txt -m PARSER -o p.jsonl".split()
    process = start(launcher, work, words, folders)
    for _ in range(600):
        # Several shards: a run that has written none of them leaves nothing.
        if (work / "p.jsonl.partial").exists() and (work / "p.jsonl.partial").stat().st_size > 100_000:
            break
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait() == 128 + number and "Traceback" not in (tmp_path / "said").read_text()
    assert {name for name in os.listdir(work) if "p.jsonl" in name} == {
        "p.jsonl.partial",
        "p.jsonl.partial.json",
    }
    assert start(launcher, work, [*words, "--resume"], folders).wait() == 0
    assert (work / "p.jsonl").read_bytes().count(b"\n") == 9000


# ---------------------------------------------------------------- in this process: full disks, outputs, inputs


FULL = (
    "embed",
    "embed --whiten",
    "embed --layers all",
    "parse",
    "whiten",
    "train bottleneck",
    "train ladder",
)


@pytest.mark.parametrize("name", FULL)
def test_a_full_disk_is_one_line_and_leaves_nothing(name, folders, tmp_path, run_in_process):
    work = fill(tmp_path / "work")
    names = sorted(os.listdir(work))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        words = [str(folders.get(word, word)) for word in CASES[name].words.split()]
        moved = [
            str(work / word) if (work / word).exists() or word == CASES[name].output else word
            for word in words
        ]
        done = run_in_process(*moved)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert done.returncode == 1
    one_line(done.stderr)
    assert "no space left on the disk" in done.stderr
    assert [name for name in os.listdir(work) if ".partial" not in name] == [
        n for n in os.listdir(work) if n in names
    ]


@pytest.mark.parametrize("name", ["embed", "embed --json", "generate", "parse", "predict", "extrapolate"])
def test_an_output_that_is_an_input_is_refused(name, folders, tmp_path, fails_in_process):
    fill(tmp_path / "work", 1)
    words = [str(folders.get(word, word)) for word in CASES[name].words.split()]
    source = next(word for word in words if word in ("a.txt", "few.txt"))
    before = (tmp_path / "work" / source).read_bytes()
    words[words.index("-o") + 1] = source
    said = fails_in_process(
        *[f"work/{word}" if word == source else word for word in words], "--force", status=2
    )
    assert "is an input too" in said
    assert (tmp_path / "work" / source).read_bytes() == before


@pytest.mark.parametrize("name", ["embed --json", "generate", "parse", "predict"])
def test_a_full_device_is_one_line(name, folders, tmp_path, fails_in_process):
    fill(tmp_path / "work", 1)
    words = [str(folders.get(word, word)) for word in CASES[name].words.split()]
    words[words.index("-o") + 1] = "/dev/full"
    moved = [f"work/{word}" if word in ("a.txt", "few.txt") else word for word in words]
    assert "/dev/full: no space left" in fails_in_process(*moved)


@pytest.mark.slow
def test_two_at_once_on_one_output(launcher, folders, tmp_path):
    """One writes; the other is told who, or comes too late and finds the output there."""
    work = fill(tmp_path / "work", 400)
    words = CASES["parse"].words.split()
    processes = {said: start(launcher, work, words, folders, said) for said in ("one", "other")}
    statuses = {said: process.wait() for said, process in processes.items()}
    assert sorted(statuses.values()) == [0, 1]
    one_line(next((tmp_path / said).read_text() for said, status in statuses.items() if status))
    assert (work / "p.jsonl").read_bytes().count(b"\n") == 1200
    assert not [name for name in os.listdir(work) if name.endswith((".partial", ".lock", ".json"))]
