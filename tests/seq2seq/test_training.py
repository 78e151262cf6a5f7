"""Training tiny encoders to write: they learn, go on as if never interrupted, and say what is wrong."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ordtool.errors import OrdtoolError, UsageError
from ordtool.seq2seq.config import Seq2SeqTrainingConfig
from ordtool.seq2seq.training import train_seq2seq

WORDS = ("cat", "dog", "bird", "tree", "river")
COLOURS = ("red", "old", "small")
FAST = {"batch_size": 6, "learning_rate": 1e-2, "holdout": 0.14, "dropout": 0.0}


@pytest.fixture
def pairs(tmp_path):
    """`word colour` to two sentences in capitals: five words, three colours."""
    file = tmp_path / "pairs.jsonl"
    lines = [
        {"source": f"{w} {c}", "target": [f"The {w}, is {c}.", f"It is the {c}-{w}."]}
        for w in WORDS
        for c in COLOURS
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.fixture
def fresh(tmp_path, encoders):
    """An encoder with the usual start, and the vocabulary of the others."""
    import transformers

    folder = tmp_path / "fresh"
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoders("bert"))
    tokenizer.save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=40,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def test_it_learns_and_writes(pairs, tmp_path, fresh):
    from ordtool.generation.engine import generate

    options = Seq2SeqTrainingConfig(**{**FAST, "learning_rate": 3e-3}, epochs=60, vocabulary="seen")
    report = train_seq2seq([pairs], tmp_path / "m", options, model=fresh, dev=[pairs], device="cpu")
    assert (report.kind, report.sources, report.pairs, report.dev_pairs) == ("unilm", 15, 30, 30)
    # Two targets are as good as each other: ln 2 at one token of nine, if all else is known.
    assert report.dev_loss < 0.4
    facts = json.loads((tmp_path / "m" / "training.json").read_text())
    assert facts["perplexity"] == pytest.approx(np.exp(report.dev_loss))
    assert not (tmp_path / "m.partial").exists()
    sources = ["cat red", "river old", "dog small", "bird red"]
    for beams in (1, 4):
        found = generate(sources, str(tmp_path / "m"), device="cpu", beams=beams, max_new_tokens=25)
        alone = [
            generate([s], str(tmp_path / "m"), device="cpu", beams=beams, max_new_tokens=25)[0]
            for s in sources
        ]
        assert found == alone
        right = 0
        for source, result in zip(sources, found, strict=True):
            w, c = source.split()
            right += result.text in (
                f"The {w}, is {c}.",
                f"It is the {c}-{w}.",
            )  # case, comma, hyphen and all
            assert result.outputs[0].finish_reason == "stop"
        assert right >= 3
    with pytest.raises(OrdtoolError, match="exists already"):
        train_seq2seq([pairs], tmp_path / "m", options, model=fresh, device="cpu")
    # What was trained can be trained further, and keeps its vocabulary.
    more = Seq2SeqTrainingConfig(**FAST, epochs=1)
    again = train_seq2seq([pairs], tmp_path / "n", more, model=tmp_path / "m", dev=[pairs], device="cpu")
    assert again.dev_loss < 1
    assert again.parameters == report.parameters


class Interrupting:
    def __init__(self, steps):
        self.steps = steps

    def advance(self, amount=1, **stats):
        self.steps -= amount if stats else 0
        if self.steps <= 0:
            raise KeyboardInterrupt

    start = note = warn = close = staticmethod(lambda *a, **k: None)


@pytest.mark.parametrize(
    "options",
    [
        {"eval_every": 3},
        {"eval_every": 5},
        {"accumulate": 2, "dtype": "bfloat16", "dropout": 0.2, "eval_every": 3},
    ],
    ids=str,
)
def test_resumed_is_as_never_interrupted(pairs, tmp_path, encoders, options):
    settings = Seq2SeqTrainingConfig(**{**FAST, **options}, epochs=3)
    whole = train_seq2seq([pairs], tmp_path / "whole", settings, model=encoders("bert"), device="cpu")
    stop = Interrupting(settings.eval_every + 1)  # in the middle of an epoch
    with pytest.raises(KeyboardInterrupt):
        train_seq2seq([pairs], tmp_path / "m", settings, model=encoders("bert"), device="cpu", progress=stop)
    with pytest.raises(OrdtoolError, match="other settings \\(max_target\\)"):
        other = Seq2SeqTrainingConfig(**{**FAST, **options}, epochs=3, max_target=10)
        train_seq2seq([pairs], tmp_path / "m", other, model=encoders("bert"), device="cpu", resume=True)
    resumed = train_seq2seq(
        [pairs], tmp_path / "m", settings, model=encoders("bert"), device="cpu", resume=True
    )
    assert resumed == whole
    left, right = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "m"))
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("kind", ["roberta", "classifier"])
def test_other_encoders(pairs, tmp_path, encoders, kind):
    """A position offset, and a head that is of no use."""
    settings = Seq2SeqTrainingConfig(**FAST, epochs=6)
    report = train_seq2seq([pairs], tmp_path / "m", settings, model=encoders(kind), device="cpu")
    assert report.dev_loss < 4
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert config["position_offset"] == (1 if kind == "roberta" else 0)
    assert config["head"] == "tied"


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_encoder_decoders(pairs, tmp_path, writers, kind):
    from ordtool.generation.engine import generate

    settings = Seq2SeqTrainingConfig(batch_size=6, learning_rate=1e-2, epochs=12, holdout=0.14)
    report = train_seq2seq([pairs], tmp_path / "m", settings, model=writers(kind), device="cpu")
    assert report.kind == "encoder-decoder"
    untrained = Seq2SeqTrainingConfig(batch_size=6, learning_rate=1e-9, epochs=0.1, holdout=0.14)
    before = train_seq2seq([pairs], tmp_path / "n", untrained, model=writers(kind), device="cpu")
    assert report.dev_loss < before.dev_loss - 0.5
    generate(["cat red"], str(tmp_path / "m"), device="cpu", max_new_tokens=3)


def test_patience_and_the_best_weights(pairs, tmp_path, encoders):
    """A learning rate that destroys: the first measurement stays the best."""
    settings = Seq2SeqTrainingConfig(**{**FAST, "learning_rate": 1.0}, epochs=30, eval_every=4, patience=2)
    report = train_seq2seq([pairs], tmp_path / "m", settings, model=encoders("bert"), device="cpu")
    assert report.steps < 30 * 4


class Listener(Interrupting):
    def __init__(self):
        self.warnings = []

    def warn(self, message):
        self.warnings.append(message)

    advance = staticmethod(lambda *a, **k: None)


@pytest.mark.parametrize("overlong", ["truncate", "drop"])
def test_long_pairs_are_counted(pairs, tmp_path, encoders, overlong):
    with open(pairs, "a") as file:
        file.write(json.dumps({"source": "cat " * 60, "target": "the cat"}) + "\n")
        file.write(json.dumps({"source": "the tree", "target": ["the " * 50, "a cat"]}) + "\n")
    settings = Seq2SeqTrainingConfig(**FAST, epochs=0.2, overlong=overlong, max_source=12, max_target=14)
    heard = Listener()
    report = train_seq2seq(
        [pairs], tmp_path / "m", settings, model=encoders("bert"), dev=[pairs], device="cpu", progress=heard
    )
    # Training and held-out pairs are the same file, so each counts twice.
    assert (report.truncated, report.dropped) == ((4, 0) if overlong == "truncate" else (0, 4))
    assert report.pairs == (33 if overlong == "truncate" else 31)
    assert any("4 pair(s) too long" in text for text in heard.warnings)


def test_a_cut_target_does_not_learn_its_end(encoders):
    from ordtool.seq2seq.models import load_seq2seq_model
    from ordtool.seq2seq.pair_encoder import PairEncoder

    model, tokenizer = load_seq2seq_model(encoders("bert"))
    settings = Seq2SeqTrainingConfig(max_source=6, max_target=4)
    encoder = PairEncoder(model, tokenizer, settings)
    ((source, targets),) = encoder.rows({"cat dog bird tree river": ["cat dog bird tree", "cat"]})
    assert len(source) == 6 and source[-1] == tokenizer.sep_token_id
    assert tokenizer.sep_token_id not in targets[0] and len(targets[0]) == 4
    assert targets[1][-1] == tokenizer.sep_token_id


def test_what_is_refused(pairs, tmp_path, encoders, writers, parsers):
    for wrong in (
        {"overlong": "cut"}, {"vocabulary": "all"}, {"holdout": 0}, {"epochs": 0}, {"max_source": 1},
    ):  # fmt: skip
        with pytest.raises(UsageError) as caught:
            Seq2SeqTrainingConfig(**{**FAST, **wrong})
        assert caught.value.hint
    plain = Seq2SeqTrainingConfig(**FAST)
    for model, message in (
        (writers("gpt2"), "a causal language model \\(GPT2LMHeadModel\\), and an encoder"),
        (encoders("distilbert"), "DistilBertModel can't be trained to write"),
        # Known as a causal model once the parsing package has been imported, and as nothing before.
        (parsers(), "not a model that can be trained to write|OnlstmForCausalLM.*, and an encoder"),
    ):
        with pytest.raises(OrdtoolError, match=message) as caught:
            train_seq2seq([pairs], tmp_path / "m", plain, model=model, device="cpu")
        assert caught.value.hint
        assert not list(tmp_path.glob("m*"))
    with pytest.raises(UsageError, match="don't fit in the model's 40 positions"):
        big = Seq2SeqTrainingConfig(**FAST, max_source=30, max_target=30)
        train_seq2seq([pairs], tmp_path / "m", big, model=encoders("bert"), device="cpu")
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(OrdtoolError, match="no pairs in it"):
        train_seq2seq([empty], tmp_path / "m", plain, model=encoders("bert"), device="cpu")
    assert not list(tmp_path.glob("m*"))


def test_the_command(run_in_process, fails_in_process, tmp_path, pairs, encoders):
    bert = encoders("bert")
    done = run_in_process(
        "train", "seq2seq", "pairs.jsonl", "-m", bert, "-o", "m", "--epochs", 1, "--batch-size", 8,
        "--device", "cpu", "--threads", 1, "--holdout", 0.2,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == b""
    assert "nats a token" in done.stderr
    written = run_in_process("generate", "-m", "m", "-p", "cat red", "--max-new-tokens", 3, "--beams", 2)
    assert written.returncode == 0, written.stderr
    assert set(json.loads(written.stdout)) == {"text", "output", "finish_reason"}
    assert "did you mean" in fails_in_process(
        "train", "seq2seq", "pairs.jsonl", "-o", "n", "-m", "minillm", status=2
    )
    assert "can't come from a pipe" in fails_in_process(
        "train", "seq2seq", "-", "-m", bert, "-o", "n", status=2
    )
    wrong = fails_in_process(
        "train", "seq2seq", "pairs.jsonl", "-o", "n", "-m", bert, "--target-field", "text"
    )
    assert "pairs.jsonl:1: no field 'text' (keys: source, target)" in wrong
    assert "hint: --source-field and --target-field" in wrong
    assert not list(tmp_path.glob("n*"))


def test_killed_while_a_checkpoint_is_written(pairs, tmp_path, encoders, killed_while_writing):
    settings = Seq2SeqTrainingConfig(**FAST, epochs=3, eval_every=3)
    options = {"model": encoders("bert"), "device": "cpu"}
    whole = train_seq2seq([pairs], tmp_path / "whole", settings, **options)
    killed_while_writing("checkpoint-6", lambda: train_seq2seq([pairs], tmp_path / "m", settings, **options))
    assert train_seq2seq([pairs], tmp_path / "m", settings, **options, resume=True) == whole
    left, right = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "m"))
    assert all(torch.equal(left[name], right[name]) for name in left)
