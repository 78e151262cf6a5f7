"""Training a tiny model: what it is shown, that it learns, that it goes on as if never interrupted."""

import json
import math
import resource

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from ordtool.errors import OrdtoolError, UsageError
from ordtool.io.text import read_documents
from ordtool.lm.corpus import Blocks, tokenize, train_tokenizer
from ordtool.lm.training import LMTrainingConfig, train_lm
from ordtool.progress import SILENT, Silent

TEXT = (
    "".join(f"the {w} sat on the {v}.\n" for w in ("cat", "dog", "bird") for v in ("mat", "tree", "log")) * 40
)
SMALL = {
    "vocab_size": 280, "context": 16, "layers": 1, "hidden": 16, "heads": 2, "key_size": 6,
    "batch_size": 4, "learning_rate": 1e-2,
}  # fmt: skip


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text(TEXT)
    return file


@given(st.text(max_size=40))
@settings(max_examples=50, deadline=None)
def test_the_vocabulary_round_trips_anything(sample):
    tokenizer = _tokenizer()
    ids = tokenizer(sample, add_special_tokens=False)["input_ids"]
    if "<pad>" not in sample and "<eos>" not in sample:
        assert tokenizer.decode(ids) == sample


def _tokenizer(made=[]):  # noqa: B006 (once for all examples)
    if not made:
        made.append(train_tokenizer([TEXT], 300))
    return made[0]


def test_documents(tmp_path, text):
    (tmp_path / "d.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    assert list(read_documents([text, tmp_path / "d.jsonl"])) == [TEXT, "one", "two"]
    tokenizer = _tokenizer()
    tokens, size = tokenize(["one", "two"], tokenizer)
    assert size == 6
    assert tokenizer.decode(tokens.tolist()) == "one<eos>two<eos>"
    with pytest.raises(OrdtoolError, match="no text"):
        tokenize([], tokenizer)


def test_blocks_of_a_permutation_predict_every_token_once():
    blocks = Blocks(np.arange(50), 8, "permutation", seed=1)
    assert len(blocks) == 6
    item = blocks[2]
    assert item["input_ids"].tolist() == list(range(16, 24))
    ranks, targets = item["ranks"].tolist(), item["target_positions"].tolist()
    assert sorted(ranks) == list(range(8))
    for place in range(8):
        assert targets[place] == 8 if ranks[place] == 7 else ranks[targets[place]] == ranks[place] + 1
    again = Blocks(np.arange(50), 8, "permutation", seed=1)
    assert again[2]["ranks"].tolist() == ranks
    again.set_epoch(1)
    assert again[2]["ranks"].tolist() != ranks


def test_blocks_of_a_prefix_lm_have_loss_on_the_target_alone():
    blocks = Blocks(np.arange(3, 43), 8, "prefix")
    for index in range(5):
        item = blocks[index]
        split = item["token_type_ids"].tolist().index(1)
        assert item["labels"].tolist() == [-100] * split + item["input_ids"][split:].tolist()


def test_random_positions_are_drawn_with_the_block():
    blocks = Blocks(np.arange(3, 43), 8, "causal", seed=1, longest=64)
    drawn = [blocks[index]["position_ids"].tolist() for index in range(5)]
    for row in drawn:
        assert row == sorted(set(row)) and len(row) == 8 and 0 <= row[0] and row[-1] < 64
    assert len({tuple(row) for row in drawn}) == 5
    again = Blocks(np.arange(3, 43), 8, "causal", seed=1, longest=64)
    assert [again[index]["position_ids"].tolist() for index in range(5)] == drawn
    again.set_epoch(1)
    assert again[0]["position_ids"].tolist() != drawn[0]
    assert "position_ids" not in Blocks(np.arange(3, 43), 8, "causal")[0]


def test_a_scheme_is_saved_with_its_parameters(text, tmp_path):
    """Trained with random positions, on a text of the positions' own; then loaded and written with."""
    options = LMTrainingConfig(
        **SMALL, steps=2, eval_every=1, positions="random:longest=50", logn_trained=True
    )
    train_lm([text], tmp_path / "m", options, device="cpu")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert (config["positions"], config["position_parameters"]) == ("random", {"longest": 50})
    assert config["logn"] == "trained"
    from ordtool.generation.engine import generate

    (result,) = generate(["the cat"], str(tmp_path / "m"), device="cpu", max_new_tokens=3)
    assert result.text


def test_it_learns_and_writes(text, tmp_path):
    told = Notes()
    config = LMTrainingConfig(**SMALL, steps=60, eval_every=30)
    report = train_lm([text], tmp_path / "m", config, device="cpu", progress=told)
    measured = [note for note in told.notes if "dev loss" in note]
    assert [note.split(":")[0] for note in measured] == ["step 30", "step 60"], "a line is told twice"
    assert report.dev_loss < 2.0  # a uniform guess is ln(280) = 5.6
    assert report.steps == 60
    facts = json.loads((tmp_path / "m" / "training.json").read_text())
    assert facts["perplexity"] == pytest.approx(np.exp(report.dev_loss))
    assert not (tmp_path / "m.partial").exists()
    from ordtool.generation.engine import generate

    (result,) = generate(["the cat sat on"], str(tmp_path / "m"), device="cpu", max_new_tokens=4)
    assert result.text.startswith(" the")
    with pytest.raises(OrdtoolError, match="exists already"):
        train_lm([text], tmp_path / "m", LMTrainingConfig(**SMALL, steps=1), device="cpu")


class Notes(Silent):
    def __init__(self):
        self.notes = []

    def note(self, message):
        self.notes.append(message)


class Interrupting:
    def __init__(self, steps):
        self.steps = steps

    def advance(self, amount=1, **stats):
        self.steps -= amount if stats else 0
        if self.steps <= 0:
            raise KeyboardInterrupt

    start = note = warn = close = staticmethod(lambda *a, **k: None)


@pytest.mark.parametrize("objective", ["causal", "prefix", "permutation"])
def test_resumed_is_as_never_interrupted(text, tmp_path, objective):
    options = LMTrainingConfig(**SMALL, steps=12, eval_every=4, objective=objective, talking_heads=True)
    whole = train_lm([text], tmp_path / "whole", options, device="cpu")
    with pytest.raises(KeyboardInterrupt):
        train_lm([text], tmp_path / "m", options, device="cpu", progress=Interrupting(7))
    assert not (tmp_path / "m").exists()
    with pytest.raises(OrdtoolError, match="an interrupted run left this"):
        train_lm([text], tmp_path / "m", options, device="cpu")
    with pytest.raises(OrdtoolError, match="other settings \\(logn\\)"):
        other = LMTrainingConfig(
            **SMALL, steps=12, eval_every=4, objective=objective, talking_heads=True, logn=True
        )
        train_lm([text], tmp_path / "m", other, device="cpu", resume=True)
    resumed = train_lm([text], tmp_path / "m", options, device="cpu", resume=True, progress=SILENT)
    assert resumed == whole
    left, right = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "m"))
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_what_is_refused(text, tmp_path):
    for wrong in (
        {"objective": "casual"}, {"positions": "rotary"}, {"hidden": 17}, {"kv_heads": 3}, {"key_size": 5},
        {"vocab_size": 100}, {"context": 1}, {"positions": "hwfa:w=3"}, {"positions": "random:longest=9"},
        {"positions": "inverse-leaky", "talking_heads": True}, {"positions": "alibi", "rope_base": 500.0},
        {"talking_heads": "befor"}, {"rope_base": 1.0}, {"rope_base": math.nan}, {"logn": True, "logn_trained": True},
        {"positions": "random", "objective": "permutation"},
    ):  # fmt: skip
        with pytest.raises(UsageError) as caught:
            LMTrainingConfig(**{**SMALL, **wrong})
        assert caught.value.hint
    with pytest.raises(OrdtoolError, match="fewer than one block of 5000"):
        train_lm(
            [text], tmp_path / "m", LMTrainingConfig(**{**SMALL, "context": 5000}, steps=1), device="cpu"
        )
    assert not list(tmp_path.glob("m*"))
    with pytest.raises(UsageError, match="can't come from a pipe"):
        train_lm(["-"], tmp_path / "m", LMTrainingConfig(**SMALL), device="cpu")


def test_the_command(run_in_process, fails_in_process, tmp_path, text):
    done = run_in_process(
        "train", "lm", text, "-o", "m", "--vocab-size", 280, "--context", 16, "--layers", 1, "--hidden", 16,
        "--heads", 2, "--steps", 3, "--device", "cpu", "--threads", 1,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == b""
    assert "bits a byte" in done.stderr
    assert (tmp_path / "m" / "model.safetensors").is_file()
    assert "exists already" in fails_in_process("train", "lm", "text.txt", "-o", "m")
    assert "no such file" in fails_in_process("train", "lm", "missing.txt", "-o", "n")
    assert not list(tmp_path.glob("n*"))
    assert "did you mean 'causal'" in fails_in_process(
        "train", "lm", "text.txt", "-o", "n", "--objective", "casual", status=2
    )


def test_training_goes_on_from_a_model(text, tmp_path):
    first = train_lm(text, tmp_path / "first", LMTrainingConfig(**SMALL, steps=30))
    more = {"start": str(tmp_path / "first"), "steps": 1, "learning_rate": 1e-9, "batch_size": 4}
    again = train_lm(text, tmp_path / "again", LMTrainingConfig(context=16, **more))
    assert again.dev_loss == pytest.approx(first.dev_loss, abs=1e-5)  # where it was, not at the begin
    train_lm(text, tmp_path / "long", LMTrainingConfig(context=24, **more))
    config = json.loads((tmp_path / "long" / "config.json").read_text())
    assert config["max_position_embeddings"] == 24 and config["key_size"] == 6
    with pytest.raises(UsageError, match="`start` brings its own `layers`"):
        LMTrainingConfig(layers=2, **more)
    train_lm(text, tmp_path / "both", LMTrainingConfig(**{**SMALL, "objective": "prefix"}, steps=1))
    with pytest.raises(OrdtoolError, match="its objective is prefix"):
        train_lm(text, tmp_path / "x", LMTrainingConfig(start=str(tmp_path / "both"), context=16, steps=1))


def test_a_folder_with_a_tokenizer_alone_will_do(run_in_process, tmp_path, text):
    from ordtool.lm.corpus import train_tokenizer

    train_tokenizer(["a few words, a few more"], 260).save_pretrained(tmp_path / "pieces")
    done = run_in_process(
        "train", "lm", text, "-o", "m", "--tokenizer", "pieces", "--context", 16, "--layers", 1, "--hidden", 16,
        "--heads", 2, "--steps", 1, "--device", "cpu", "--threads", 1,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "m" / "config.json").read_text())["vocab_size"] == 260


class Hearing(Silent):
    def __init__(self, note):
        self.note = note


@pytest.mark.parametrize(
    ("checkpoint", "told"), [("checkpoint-4", "begins anew"), ("checkpoint-8", "from checkpoint-4")]
)
def test_killed_while_a_checkpoint_is_written(text, tmp_path, killed_while_writing, checkpoint, told):
    options = LMTrainingConfig(**SMALL, steps=12, eval_every=4)
    whole = train_lm([text], tmp_path / "whole", options, device="cpu")
    killed_while_writing(checkpoint, lambda: train_lm([text], tmp_path / "m", options, device="cpu"))
    assert (tmp_path / "m.partial" / checkpoint).is_dir()
    notes = []
    resumed = train_lm(
        [text], tmp_path / "m", options, device="cpu", resume=True, progress=Hearing(notes.append)
    )
    assert resumed == whole
    assert any(told in note for note in notes), notes
    left, right = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "m"))
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "text.txt", "whole"]


def test_two_trainings_of_one_model(text, tmp_path):
    options = LMTrainingConfig(**SMALL, steps=1, eval_every=1)
    seen = []

    def second(message):
        if not seen:
            seen.append(message)
            for extra in ({}, {"resume": True}, {"force": True}):
                with pytest.raises(OrdtoolError, match="another run is writing this: process "):
                    train_lm([text], tmp_path / "m", options, device="cpu", **extra)

    train_lm([text], tmp_path / "m", options, device="cpu", progress=Hearing(second))
    assert seen


def test_a_full_disk_is_one_line(text, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
    try:
        with pytest.raises(OrdtoolError, match="m.partial: (no space left|can't be written)"):
            train_lm([text], tmp_path / "m", LMTrainingConfig(**SMALL, steps=1), device="cpu")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.glob("m*"))
