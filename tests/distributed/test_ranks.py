"""Trainings in two ranks, connected by gloo as torchrun connects them: one process's weights, and a loud end."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ordtool.distributed import ALONE, Ranks, check_one_rank, world_size
from ordtool.errors import UsageError

pytestmark = pytest.mark.slow

LAUNCH = Path(__file__).with_name("launch.py")
# Sums of float32 in another order: measured 2e-8 to 4e-7; a wrong share of a batch shows in the second digit.
SUMS = 5e-6
PARSER = (
    "--vocab-size 60 --embedding 12 --hidden 20 --layers 2 --chunk 4 --batch-size 6 --window 9 --epochs 2 "
    "--warmup 5 --lr 0.01 --seed 5 --dtype float32"
).split()
LM = (
    "--steps 12 --context 16 --batch-size 5 --layers 2 --hidden 16 --heads 2 --vocab-size 300 --eval-every 4 --lr 0.01 "
    "--objective prefix"
).split()
# What writes: a ladder that labels has dropout before its classes, which every rank draws for itself.
LADDER = (
    "--task lm --epochs 2 --batch-size 7 --max-length 12 --reduction 4 --dtype float32 --no-cache".split()
)
SPANS = (
    "--epochs 2 --embedding 8 --hidden 16 --layers 1 --heads 2 --span-size 8 --dropout 0 --word-dropout 0 "
    "--holdout 0.1 --batch-words 60 --dtype float32"
).split()
SEQ2SEQ = "--epochs 2 --batch-size 6 --lr 0.003 --dropout 0 --holdout 0.14 --dtype float32".split()


def write_text(folder: Path) -> Path:
    random = np.random.default_rng(0)
    nouns, verbs = "dog cat man woman tree river".split(), "sees likes finds".split()
    lines = [
        f"the old {random.choice(nouns)} {random.choice(verbs)} a young {random.choice(nouns)} ."
        for _ in range(150)
    ]
    (folder / "text.txt").write_text("\n".join(lines) + "\n")
    return folder / "text.txt"


def write_pairs(folder: Path) -> Path:
    lines = [
        {"source": f"{noun} {colour}", "target": [f"The {noun} is {colour}.", f"It is the {colour} {noun}."]}
        for noun in ("cat", "dog", "bird", "tree", "river")
        for colour in ("red", "old", "small")
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "pairs.jsonl"


def write_trees(folder: Path) -> Path:
    random = np.random.default_rng(2)
    lines = []
    for _ in range(60):
        noun, verb, other = random.choice("dog cat man".split()), random.choice(["sees", "likes"]), "tree"
        lines.append(f"(S (NP (DT the) (NN {noun})) (VP (VBZ {verb}) (NP (DT a) (JJ old) (NN {other}))))\n")
    (folder / "trees.mrg").write_text("".join(lines))
    return folder / "trees.mrg"


@pytest.fixture(scope="module")
def done(tmp_path_factory, encoders, writers):
    """Every training in one process and in two ranks, one after the other: their folders, statuses and logs."""
    folder = tmp_path_factory.mktemp("ranks")
    text, bert = write_text(folder), str(encoders("bert"))
    trainings = {
        "parser": [str(text), *PARSER],
        "lm": [str(text), *LM],
        "ladder": [str(text), "-m", str(writers("llama")), *LADDER],
        "spans": [str(write_trees(folder)), *SPANS],
        "seq2seq": [str(write_pairs(folder)), "-m", bert, *SEQ2SEQ],
    }

    def job(name: str, output: str, ranks: int, *more: str, **rest: object) -> dict:
        argv = ["train", name, *trainings[name], *more, "-o", str(folder / output)]
        return {"ranks": ranks, "argv": argv, "log": str(folder / f"{output}.log"), **rest}

    jobs = {f"{name}{ranks}": job(name, f"{name}{ranks}", ranks) for name in trainings for ranks in (1, 2)}
    for name, when in (
        ("parser", "killed-parser.training/checkpoint.safetensors"),
        ("lm", "killed-lm.partial/checkpoint-4/complete"),
    ):
        jobs[f"{name} killed"] = job(name, f"killed-{name}", 2, kill=1, when=str(folder / when))
        jobs[f"{name} resumed"] = job(name, f"killed-{name}", 1, "--resume") | {
            "log": str(folder / f"resumed-{name}.log")
        }
    jobs["parse"] = {"ranks": 2, "argv": ["parse", str(text)], "log": str(folder / "parse.log")}
    jobs["shards"] = job("parser", "shards", 2, "--shards", "1")
    ended = subprocess.run(
        [sys.executable, LAUNCH, json.dumps(list(jobs.values()))],
        capture_output=True, text=True, check=True, timeout=400,
    )  # fmt: skip
    found = dict(zip(jobs, map(json.loads, ended.stdout.splitlines()), strict=True))
    statuses = {name: row["statuses"] for name, row in found.items()}
    return SimpleNamespace(
        folder=folder, statuses=statuses, seconds={name: row["seconds"] for name, row in found.items()}
    )


def weights(folder: Path):
    return load_file(folder / "model.safetensors")


def largest_difference(done, one: str, two: str) -> float:
    a, b = weights(done.folder / one), weights(done.folder / two)
    assert a.keys() == b.keys()
    # A bias of keys changes no attention: its gradient is rounding alone, and Adam makes steps of it.
    return max(float((a[name] - b[name]).abs().max()) for name in a if "attention.self.key" not in name)


def curve(done, name: str) -> list[float]:
    """Losses as a training told them."""
    log = (done.folder / f"{name}.log.0").read_text()
    found = [
        float(loss) for loss in re.findall(r"(?:dev loss|loss|train loss|train perplexity) (\d+\.\d+)", log)
    ]
    assert len(found) > 1, log
    return found


def test_a_parser_in_two_ranks_is_that_of_two_shards_bit_for_bit(done):
    assert done.statuses["parser1"] == [0] and done.statuses["parser2"] == [0, 0]
    one, two = weights(done.folder / "parser1"), weights(done.folder / "parser2")
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    histories = [
        [
            {key: value for key, value in row.items() if key != "seconds"}
            for row in json.loads((done.folder / name / "training.json").read_text())["history"]
        ]
        for name in ("parser1", "parser2")
    ]
    assert histories[0] == histories[1] and len(histories[0]) == 2
    # Rank 0 alone speaks and writes.
    assert (done.folder / "parser2.log.1").read_text() == ""
    assert not list(done.folder.glob("parser2.training*"))


@pytest.mark.parametrize("name", ["lm", "ladder", "spans", "seq2seq"])
def test_two_ranks_learn_what_one_process_learns(done, name):
    log = (done.folder / f"{name}2.log.0").read_text()
    assert done.statuses[f"{name}1"] == [0] and done.statuses[f"{name}2"] == [0, 0], log
    one, two = curve(done, f"{name}1"), curve(done, f"{name}2")
    assert one == pytest.approx(two, rel=2e-4) and len(set(one)) > 1  # as far as they are told
    assert largest_difference(done, f"{name}1", f"{name}2") < SUMS
    assert (done.folder / f"{name}2.log.1").read_text() == ""


@pytest.mark.parametrize("name", ["parser", "lm"])
def test_a_killed_rank_ends_the_run_with_a_line_and_one_process_goes_on_with_it(done, name):
    main, killed = done.statuses[f"{name} killed"]
    log = (done.folder / f"killed-{name}.log.0").read_text()
    assert killed == -9 and main == 1
    assert re.search(r"error: lost rank 1 \(process \d+\), so rank 0 of 2 ends the training", log), log
    assert "Traceback" not in log
    assert done.statuses[f"{name} resumed"] == [0]
    difference = largest_difference(done, f"{name}1", f"killed-{name}")
    assert difference == 0 if name == "parser" else difference < SUMS
    assert not list(done.folder.glob(f"killed-{name}.[tp]*"))


def test_other_commands_refuse_ranks_once(done):
    assert done.statuses["parse"] == [2, 2]
    log = (done.folder / "parse.log.0").read_text()
    assert log.startswith("error: ordtool parse runs in one process, and this is one of 2 (WORLD_SIZE)\n")
    assert (done.folder / "parse.log.1").read_text() == ""
    assert done.statuses["shards"] == [2, 2]
    assert "--shards 1 can't be dealt out to 2 ranks" in (done.folder / "shards.log.0").read_text()


def test_what_is_left_of_a_launcher_makes_no_ranks(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert world_size() == 1
    for name, value in {"RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert world_size() == 4
    with pytest.raises(UsageError, match="hsic runs in one process, and this is one of 4"):
        check_one_rank("hsic")


def test_alone_nothing_is_exchanged():
    tensor = torch.ones(2)
    ALONE.sum_([tensor])
    assert tensor.tolist() == [1.0, 1.0] and ALONE.sum_numbers([0.5]) == [0.5]
    assert ALONE.share([1, 2, 3]) == [1, 2, 3] and ALONE.from_main({"a": 1}) == {"a": 1}
    assert [list(Ranks(rank, 3).share(range(7))) for rank in range(3)] == [[0, 3, 6], [1, 4], [2, 5]]
