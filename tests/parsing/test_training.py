import json
import math
import shutil
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ordtool.errors import OrdtoolError, UsageError
from ordtool.io.checkpoint import DeferredInterrupt, read_checkpoint, write_checkpoint
from ordtool.parsing.onlstm.model import OnlstmConfig, OnlstmForCausalLM
from ordtool.parsing.onlstm.tokenizer import OnlstmTokenizer
from ordtool.parsing.training.data import Encoded, TrainingData, encode_sentences, reversed_data
from ordtool.parsing.training.loss import ShardedLoss, perplexity
from ordtool.parsing.training.optimizers import AdamWCosine, AveragedSgd
from ordtool.parsing.training.plateau import PlateauWatch, frequency_entropy
from ordtool.parsing.training.recipes import TrainingConfig, recipe
from ordtool.parsing.training.selection import candidate_settings
from ordtool.parsing.training.trainer import train_parser

WORDS = "the a dog cat man woman tree river sees likes finds walks runs sleeps old young big near under with".split()


def write_text(path, sentences):
    """Sentences of a small grammar, a sentence a line."""
    random = np.random.default_rng(0)

    def noun_phrase() -> str:
        phrase = f"{random.choice(WORDS[:2])} {random.choice(WORDS[14:17])} {random.choice(WORDS[2:8])}"
        return phrase + (f" {random.choice(WORDS[17:])} {noun_phrase()}" if random.random() < 0.3 else "")

    lines = [f"{noun_phrase()} {random.choice(WORDS[8:11])} {noun_phrase()} ." for _ in range(sentences)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """As much as a run needs to be interrupted in, not to learn much."""
    return write_text(tmp_path_factory.mktemp("text") / "text.txt", 150)


SMALL = {
    "vocab_size": 60, "embedding_size": 12, "hidden_size": 20, "num_hidden_layers": 2, "chunk_size": 4,
    "batch_size": 6, "window": 9, "epochs": 2, "warmup": 5, "learning_rate": 0.01, "seed": 5,
}  # fmt: skip
OPTIONS = (
    "--vocab-size 60 --embedding 12 --hidden 20 --layers 2 --chunk 4 --batch-size 6 --window 9 --epochs 2 "
    "--warmup 5 --lr 0.01 --seed 5 --threads 2"
).split()


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_it_learns(tmp_path):
    text = write_text(tmp_path / "text.txt", 400)
    config = recipe("small", **SMALL | {"epochs": 4, "dtype": "float32"})
    history = train_parser([text], tmp_path / "model", config)
    perplexities = [record["dev_perplexity"] for record in history]
    assert len(history) == 4
    assert perplexities[-1] < perplexities[0] < 60
    # The grammar's own uncertainty, about 3.5 choices a word, is out of reach in four epochs; half the vocabulary isn't.
    assert perplexities[-1] < 9
    model = OnlstmForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = OnlstmTokenizer.from_pretrained(tmp_path / "model")
    ids = tokenizer.encode_words([["the", "old", "dog"]])
    assert model.syntactic_distances(torch.tensor(ids), torch.tensor([3])).shape == (2, 1, 3)
    record = json.loads((tmp_path / "model" / "training.json").read_text())
    assert record["config"]["seed"] == 5 and record["history"] == history
    assert not (tmp_path / "model.training").exists()


def test_the_same_seed_gives_the_same_bytes_for_any_number_of_threads(text, tmp_path):
    for name, threads, seed in (("a", 1, 5), ("b", 2, 5), ("c", 2, 6)):
        config = recipe("small", **SMALL | {"seed": seed, "epochs": 1})
        train_parser([text], tmp_path / name, config, threads=threads)
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (
        tmp_path / "b" / "model.safetensors"
    ).read_bytes()
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_ctrl_c_waits_for_the_step():
    # A shell's background jobs ignore the interrupt, and so would the tests in one.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with DeferredInterrupt() as interrupt:
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                interrupt.check()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


# A process that kills itself, at a step that is known, after the step's checkpoint.
KILLED = """
import os, signal, sys
from ordtool.cli.app import main
from ordtool.console import RichProgress

def advance(self, amount=1, **stats):
    advance.left -= bool(stats)
    if not advance.left:
        os.kill(os.getpid(), signal.SIGKILL)

advance.left = int(sys.argv[1])
RichProgress.advance = advance
main(sys.argv[2:])
"""


def test_killed_and_resumed_is_uninterrupted(run_in_process, launcher, text, tmp_path):
    train_parser([text], tmp_path / "whole", recipe("small", **SMALL | {"epochs": 3}), threads=1)
    command = ["train", "parser", str(text), "-o", "model", *OPTIONS, "--epochs", "3"]
    killed = launcher.run(["-c", KILLED, "40", *command, "--checkpoint-minutes", "0"], cwd=tmp_path)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "model.training" / "checkpoint.safetensors").exists()
    assert not (tmp_path / "model").exists()
    assert run_in_process(*command, "--resume").returncode == 0
    assert same(weights(tmp_path / "model"), weights(tmp_path / "whole"))


class Interrupting:
    """Progress that stops the run at one advance after another."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def start(self, *_) -> None:
        self.training = _[0] == "training"

    def advance(self, amount=1, **stats) -> None:
        self.left -= bool(stats)
        if stats and self.left == 0:
            raise KeyboardInterrupt

    def note(self, message) -> None:
        pass

    warn = note

    def close(self) -> None:
        pass


def test_the_paper_recipe_interrupted_at_every_phase(text, tmp_path):
    """Random windows, averaging with its trigger, penalties: all of it is in the checkpoint."""
    config = recipe(
        "paper",
        **SMALL | {"shards": 2, "epochs": 4, "patience": 1, "learning_rate": 9.0, "clip": 5.0, "window": 25},
    )
    # Words that the text hasn't: they become less and less likely, and the averaging begins after the third epoch.
    (tmp_path / "dev.txt").write_text("zebras graze near the river .\n" * 20)
    plain = {"threads": 1, "dev": [tmp_path / "dev.txt"]}
    history = train_parser([text], tmp_path / "whole", config, **plain)
    total = history[-1]["step"]
    for steps in (7, total // 2, total // 4):
        resume = (tmp_path / "model.training").exists()
        run = {**plain, "resume": resume, "progress": Interrupting(steps)}
        with pytest.raises(KeyboardInterrupt):
            train_parser([text], tmp_path / "model", config, **run)
    _, state = read_checkpoint(tmp_path / "model.training" / "checkpoint.safetensors", {})
    assert 0 < state["optimiser"]["averaged"] < total // 4
    resumed = train_parser([text], tmp_path / "model", config, **plain, resume=True)
    assert same(weights(tmp_path / "model"), weights(tmp_path / "whole"))
    assert [{**record, "seconds": 0} for record in resumed] == [
        {**record, "seconds": 0} for record in history
    ]


class Killed(BaseException):
    """Stands for a kill: nobody catches it."""


class Killing(Interrupting):
    def advance(self, amount=1, **stats) -> None:
        self.left -= bool(stats)
        if not self.left:
            raise Killed


def test_two_directions_are_two_trainings(text, tmp_path):
    """One on the text, one on the text from its end; interrupted in the second, they end with the same weights."""
    (tmp_path / "gold.mrg").write_text(TREE * 5)
    changes = SMALL | {"epochs": 1, "dtype": "float32"}
    plain = {"threads": 1, "treebank": tmp_path / "gold.mrg"}
    config = recipe("small", bidirectional=True, **changes)
    history = train_parser([text], tmp_path / "whole", config, **plain, tune=tmp_path / "gold.mrg")
    [alone] = train_parser([text], tmp_path / "alone", recipe("small", **changes), **plain)
    assert [record["direction"] for record in history] == ["forward", "backward"]
    assert {**history[0], "seconds": 0} == {"direction": "forward", **alone, "seconds": 0}
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "alone"))
    assert history[1]["dev_perplexity"] != history[0]["dev_perplexity"] < 40 and len(history[1]["f1"]) == 2
    tuned = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert len(tuned["parse_layer_weights"]) == 4
    steps = history[0]["step"] + history[1]["step"] // 2  # in the second
    with pytest.raises(KeyboardInterrupt):
        train_parser([text], tmp_path / "model", config, **plain, progress=Interrupting(steps))
    train_parser([text], tmp_path / "model", config, **plain, resume=True)
    for folder in (".", "backward"):
        assert same(weights(tmp_path / "model" / folder), weights(tmp_path / "whole" / folder))
    assert not same(weights(tmp_path / "model"), weights(tmp_path / "model" / "backward"))


def test_a_text_from_its_end():
    encoded = Encoded(np.array([1, 2, 3, 4, 5, 6], np.int32), np.array([0, 3, 3, 5, 6]))
    data = reversed_data(TrainingData(OnlstmTokenizer.from_tokens(["<eos>", "<unk>"]), encoded, encoded))
    for part in (data.train, data.dev):
        found = [part.ids[a:b].tolist() for a, b in zip(part.starts, part.starts[1:], strict=False)]
        assert found == [[6], [5, 4], [], [3, 2, 1]]


def test_a_run_killed_before_its_first_checkpoint_begins_again(text, tmp_path, monkeypatch):
    config = recipe("small", **SMALL | {"epochs": 1})
    train_parser([text], tmp_path / "whole", config, threads=1)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # as after a kill, nothing is tidied up
        train_parser([text], tmp_path / "model", config, progress=Killing(3), threads=1)
    assert (tmp_path / "model.training" / "data.safetensors").exists()
    notes = Interrupting(10**9)
    notes.note = (heard := []).append
    train_parser([text], tmp_path / "model", config, threads=1, resume=True, progress=notes)
    assert "no checkpoint to go on from, so the run begins anew" in heard[0]
    assert same(weights(tmp_path / "model"), weights(tmp_path / "whole"))


def test_a_checkpoint_of_another_kind_is_one_line(text, tmp_path):
    config = recipe("small", **SMALL | {"epochs": 1})
    train_parser([text], tmp_path / "model", config, keep_checkpoints=True)
    path = tmp_path / "model.training" / "checkpoint.safetensors"
    tensors, state = read_checkpoint(path, {})
    for damaged in ({**state, "position": {"steps": 1}}, {**state, "optimiser": 3}, {}):
        write_checkpoint(path, tensors, damaged)
        with pytest.raises(OrdtoolError, match="checkpoint.safetensors: (damaged|not a checkpoint)"):
            train_parser([text], tmp_path / "model", config, resume=True)
    write_checkpoint(path, dict(list(tensors.items())[1:]), state)
    with pytest.raises(OrdtoolError, match="checkpoint.safetensors: damaged"):
        train_parser([text], tmp_path / "model", config, resume=True)
    path = tmp_path / "model.training" / "data.safetensors"
    tensors, state = read_checkpoint(path, {})
    write_checkpoint(path, {f"{name}x": tensor for name, tensor in tensors.items()}, state)
    with pytest.raises(OrdtoolError, match="data.safetensors: damaged"):
        train_parser([text], tmp_path / "model", config, resume=True)


def test_two_trainings_of_one_model(text, tmp_path):
    config = recipe("small", **SMALL | {"epochs": 1})
    first = Interrupting(10**9)
    refused = []

    def second(message):
        for options in ({}, {"resume": True}, {"force": True}):
            with pytest.raises(OrdtoolError, match="another run is writing this: process "):
                train_parser([text], tmp_path / "model", config, **options)
            refused.append(options)

    first.note = second
    train_parser([text], tmp_path / "model", config, progress=first)
    assert refused


def test_resume_refuses_another_run(text, tmp_path):
    config = recipe("small", **SMALL | {"epochs": 1})
    train_parser([text], tmp_path / "model", config, keep_checkpoints=True)
    other = tmp_path / "other.txt"
    other.write_text(text.read_text() + "the dog runs .\n")
    output = tmp_path / "model"
    with pytest.raises(OrdtoolError, match="window was 9, is 8"):
        train_parser([text], output, recipe("small", **SMALL | {"window": 8}), resume=True)
    with pytest.raises(OrdtoolError, match="the input has changed"):
        train_parser([other], output, config, resume=True)
    longer = train_parser([text], output, recipe("small", **SMALL | {"epochs": 1.5}), resume=True)
    assert [record["epoch"] for record in longer][0] == 1.0 and 1.5 <= longer[-1]["epoch"] < 1.7


def test_an_abandoned_run_is_not_overwritten_unasked(text, tmp_path):
    config = recipe("small", **SMALL | {"epochs": 1})
    train_parser([text], tmp_path / "model", config, keep_checkpoints=True)
    with pytest.raises(OrdtoolError, match="exists"):
        train_parser([text], tmp_path / "model", config)
    (tmp_path / "model").rename(tmp_path / "elsewhere")
    with pytest.raises(OrdtoolError, match="an interrupted run left this"):
        train_parser([text], tmp_path / "model", config)
    train_parser([text], tmp_path / "model", config, force=True)


def test_a_damaged_checkpoint(text, tmp_path):
    config = recipe("small", **SMALL | {"epochs": 1})
    train_parser([text], tmp_path / "model", config, keep_checkpoints=True)
    path = tmp_path / "model.training" / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(OrdtoolError, match="not a readable checkpoint"):
        train_parser([text], tmp_path / "model", config, resume=True)


TREE = "(S (NP (DT the) (JJ old) (NN dog)) (VP (VBZ sees) (NP (DT a) (JJ big) (NN cat))) (. .))\n"


def test_treebanks_report_and_tune(text, tmp_path):
    (tmp_path / "gold.mrg").write_text(TREE * 5)
    gold = [tmp_path / "gold.mrg"]
    history = train_parser([text], tmp_path / "model", recipe("small", **SMALL), treebank=gold, tune=gold)
    assert all(len(record["f1"]) == 2 for record in history)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert len(config["parse_layer_weights"]) == 2 and "gold.mrg (5 sentences)" in config["parse_tuned_on"]
    train_parser([text], tmp_path / "plain", recipe("small", **SMALL))
    assert same(
        weights(tmp_path / "model"), weights(tmp_path / "plain")
    )  # reported, never used to choose weights


def test_what_is_tried_of_layers_gates_and_directions():
    one = candidate_settings(3, ["paper"], distances=("forget", "input"))
    assert {setting.distance for setting in one} == {"forget", "input"} and len(one) == 2 * (3 + 2 * 3)
    two = {setting.layer_weights for setting in candidate_settings(4, ["paper"], backward=2)}
    # Layers 1 and 2 read from the left, 3 and 4 from the right: 2 and 3 are no neighbours.
    pairs = {tuple(float(k in pair) / 2 for k in range(4)) for pair in ((0, 2), (0, 3), (1, 2), (1, 3))}
    assert pairs < two and (0, 0.25, 0.75, 0) not in two
    assert (0.25, 0.75, 0, 0) in two and (0, 0, 0.75, 0.25) in two and len(two) == 4 + 2 * 3 + 4


def test_a_wrong_treebank_is_told_before_the_training(text, tmp_path):
    (tmp_path / "gold.mrg").write_text("(NP (NN dog))\n")
    with pytest.raises(OrdtoolError, match="no tree of two words"):
        train_parser([text], tmp_path / "model", recipe("small", **SMALL), tune=[tmp_path / "gold.mrg"])
    assert not (tmp_path / "model.training").exists()


@pytest.mark.parametrize("lines", ["dog\n", "the dog runs\n"])
def test_too_little_text(tmp_path, lines):
    path = tmp_path / "a.txt"
    path.write_text(lines)
    with pytest.raises(OrdtoolError, match="too few for 6 streams"):
        train_parser([path], tmp_path / "model", recipe("small", **SMALL))


def test_a_loss_that_is_no_number(text, tmp_path):
    config = recipe(
        "small", **SMALL | {"learning_rate": 1e30, "clip": 1e30, "dtype": "float32", "optimizer": "asgd"}
    )
    with pytest.raises(OrdtoolError, match="the loss is nan|the loss is inf"):
        train_parser([text], tmp_path / "model", config)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("papre", {}, "unknown recipe 'papre'"),
        ("small", {"chunk_size": 7}, "doesn't divide"),
        ("small", {"input_dropout": 1.0}, "`input_dropout` must be"),
        ("small", {"shards": 40}, "can't be more than `batch_size`"),
        ("small", {"optimizer": "sgd"}, "unknown `optimizer`"),
        ("small", {"epochs": 0}, "must be positive"),
        ("small", {"learning_rate": -1.0}, "must be positive"),
    ],
)
def test_configurations_are_checked(name, changes, words):
    with pytest.raises(UsageError, match=words):
        recipe(name, **changes)


def test_the_paper_recipe_has_the_papers_numbers():
    config = recipe("paper")
    assert (config.embedding_size, config.hidden_size, config.chunk_size, config.window) == (
        400,
        1150,
        10,
        70,
    )
    assert recipe("paper", window=35, seed=None).window == 35


def model_and_text(batch=6) -> tuple[OnlstmForCausalLM, torch.Tensor]:
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 13,
        "embedding_size": 8,
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "chunk_size": 4,
    }
    none = {f"{name}_dropout": 0.0 for name in ("input", "layer", "output", "weight", "word")}
    return OnlstmForCausalLM(OnlstmConfig(**sizes, **none)).train(), torch.randint(0, 13, (batch, 8))


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_sharded_gradients_are_those_of_the_batch(shards):
    model, ids = model_and_text()
    config = TrainingConfig(batch_size=6, shards=shards, activation_penalty=0.5, temporal_penalty=0.25)
    loss = ShardedLoss(model.double(), config, threads=2)
    value = loss(ids[:, :-1], ids[:, 1:])
    found = [parameter.grad for parameter in loss.parameters]
    assert len({gradient.data_ptr() for gradient in found}) == len(found)
    loss.close()
    whole, output, dropped = model.window_loss(ids[:, :-1], ids[:, 1:])
    raw = output.last_hidden_state
    total = whole + 0.5 * dropped.square().mean() + 0.25 * (raw[:, 1:] - raw[:, :-1]).square().mean()
    assert value == pytest.approx(whole.item(), abs=1e-12)
    for a, b in zip(found, torch.autograd.grad(total, loss.parameters), strict=True):
        torch.testing.assert_close(a, b)


def test_the_schedule():
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    optimizer = AdamWCosine([parameter], TrainingConfig(learning_rate=1.0, warmup=10), 110)
    rates = [optimizer.rate(step) for step in range(110)]
    assert rates[:10] == pytest.approx([0.1 * k for k in range(1, 11)])
    assert rates[60] == pytest.approx(0.5)
    assert rates[-1] < 1e-3 and rates == sorted(rates[:10]) + sorted(rates[10:], reverse=True)


def test_large_batches_warm_up_longer_to_a_lower_rate():
    small, large = recipe("small"), recipe("small", batch_size=128)
    assert (large.learning_rate, large.warmup) == (small.learning_rate / 2, small.warmup * 4)
    given = recipe("small", batch_size=128, learning_rate=0.003, warmup=7)
    assert (given.learning_rate, given.warmup) == (0.003, 7)
    assert recipe("paper", batch_size=80).learning_rate == recipe("paper").learning_rate


def test_the_plateau_of_word_frequencies_is_told_once():
    # Two words as frequent as <eos>: three choices, log 3 nats.
    encoded = Encoded(np.array([1, 2, 1, 2], np.int32), np.array([0, 2, 4]))
    entropy = frequency_entropy(encoded)
    assert entropy == pytest.approx(math.log(3))
    heard = Interrupting(0)
    heard.warn = (warnings := []).append
    for last, loss in ((2500, entropy + 0.1), (900, entropy - 0.5)):
        watch = PlateauWatch(encoded, 200, heard)
        for step in range(last):
            watch.see(step, loss if step % 10 else entropy - 0.5)
        assert len(warnings) == 1  # the second, which has learned, says nothing
    assert "word frequencies (perplexity 3) for 1,000 steps" in warnings[0]


def test_averaging_begins_when_validation_stops_improving():
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = AveragedSgd([parameter], TrainingConfig(learning_rate=1.0, weight_decay=0.0, patience=2), 0)
    for value in (10.0, 9.0, 9.5, 9.2):
        optimizer.evaluated(value)
        assert not optimizer.average
    optimizer.evaluated(9.3)  # the best of those more than two evaluations ago was 9.0
    iterates = []
    for step in range(4):
        parameter.grad = torch.randn(3, generator=torch.Generator().manual_seed(step))
        optimizer.step(step)
        iterates.append(parameter.detach().clone())
    optimizer.swap_average()
    torch.testing.assert_close(parameter.detach(), torch.stack(iterates).mean(0))
    optimizer.swap_average()
    torch.testing.assert_close(parameter.detach(), iterates[-1])


def test_perplexity_by_hand():
    model, _ = model_and_text()
    model = model.double().eval()
    sentences = Encoded(np.array([3, 4, 5, 6], np.int32), np.array([0, 3, 4]))
    stream = torch.tensor([[0, 3, 4, 5, 0, 6, 0]])
    scores = model(stream[:, :-1]).logits.log_softmax(-1)
    wanted = math.exp(-scores.gather(2, stream[:, 1:, None]).mean().item())
    for window in (1, 4, 128):
        assert perplexity(model, sentences, window=window) == pytest.approx(wanted, rel=1e-9)


def test_encoding_is_what_the_tokenizer_says():
    tokenizer = OnlstmTokenizer.from_tokens(["<eos>", "<unk>", "a", "b"])
    found = encode_sentences([["a", "b"], ["b"], ["zz", "a"]], tokenizer)
    assert found.ids.tolist() == [2, 3, 3, 1, 2] and found.starts.tolist() == [0, 2, 3, 5]
