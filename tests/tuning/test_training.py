"""Training: the cache against the live backbone, resuming, saving, other tasks, other methods."""

import json
import shutil

import numpy as np
import pytest
import torch

from ordtool.errors import OrdtoolError, UsageError
from ordtool.models.own import register
from ordtool.models.releases import cache_argument, cache_of
from ordtool.prediction.text_classifiers import CheckpointClassifier, LadderClassifier
from ordtool.tuning.cache import CachedStates, LiveStates, build_cache, cache_bytes, cache_key
from ordtool.tuning.comparison import compare_tuning
from ordtool.tuning.config import ComparisonConfig, LadderTrainingConfig, ScheduleConfig, label_rate
from ordtool.tuning.data import Fields
from ordtool.tuning.dataset import read_data
from ordtool.tuning.encoding import Encoded, encode_blocks
from ordtool.tuning.loading import load_backbone, load_ladder_and_backbone
from ordtool.tuning.metrics import score_labels, text_loss
from ordtool.tuning.training import train_ladder

FAST = ScheduleConfig(epochs=4, batch_size=8, learning_rate=3e-3)


@pytest.fixture
def settings(tmp_path):
    def make(**options):
        options = {"reduction": 2, "schedule": FAST, "cache_dir": str(tmp_path / "states"), **options}
        return LadderTrainingConfig(**options)

    return make


def tensors(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_cached_states_are_the_backbones(bert, tmp_path):
    rng = np.random.default_rng(0)
    data = Encoded([rng.integers(5, 60, n) for n in (3, 9, 1, 5, 9)], None, np.zeros(5, int))
    folder = build_cache(bert, data, [1, 3], tmp_path)
    assert (folder / "states.npy").stat().st_size - 128 == cache_bytes(bert, data, [1, 3]) == 27 * 4 * 24 * 2
    cached = CachedStates(folder, torch.device("cpu")).batch([1, 2, 0])
    live = LiveStates(bert, data, [1, 3], torch.float32).batch([1, 2, 0])
    assert torch.equal(cached.mask, live.mask)
    real = live.mask.bool()
    for place in range(3):
        torch.testing.assert_close(
            cached.hidden[place][real].float(), live.hidden[place][real], rtol=2e-3, atol=2e-3
        )
    torch.testing.assert_close(cached.last[real].float(), live.last[real], rtol=2e-3, atol=2e-3)
    written = (folder / "states.npy").stat().st_mtime_ns
    assert build_cache(bert, data, [1, 3], tmp_path) == folder
    assert (folder / "states.npy").stat().st_mtime_ns == written


def test_another_text_layer_or_model_has_another_cache(bert, encoders):
    data = Encoded([np.array([5, 6]), np.array([7])])
    keys = {
        cache_key(bert, data, [1]),
        cache_key(bert, data, [1, 2]),
        cache_key(bert, Encoded([np.array([5, 6]), np.array([8])]), [1]),
        cache_key(bert, Encoded([np.array([5]), np.array([6, 7])]), [1]),
        cache_key(load_backbone(str(encoders("roberta"))), data, [1]),
    }
    assert len(keys) == 5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_cached_training_is_uncached_training(dtype, encoders, table, settings):
    data, dev = table("a.tsv", 40), table("d.tsv", 20, 1)
    first, second = (
        train_ladder([data], None, settings(cache=cache, dtype=dtype), model=str(encoders("bert")), dev=[dev])
        for cache in (True, False)
    )
    for a, b in zip(first.history.epochs, second.history.epochs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=0.02)
    losses = [row["loss"] for row in first.history.epochs]
    assert losses[-1] < losses[0]


def test_a_ladder_learns_and_is_the_same_in_another_process(
    encoders, table, settings, tmp_path, lines, launcher
):
    # An own copy, so that the ladder can be given the wrong one afterwards.
    home = tmp_path / "backbone"
    shutil.copytree(encoders("bert"), home)
    data, dev = table("a.tsv", 80), table("d.tsv", 20, 1)
    longer = settings(schedule=ScheduleConfig(epochs=5, batch_size=8, learning_rate=3e-3))
    trained = train_ladder([data], tmp_path / "ladder", longer, model=str(home), dev=[dev])
    losses = [row["loss"] for row in trained.history.epochs]
    assert min(losses[1:]) < losses[0]
    assert "side.embeddings.word_embeddings.weight" not in tensors(tmp_path / "ladder")
    assert not (tmp_path / "ladder.partial").exists()
    texts = [text for text, _ in lines(7, 5)]
    here, vectors = LadderClassifier.load(tmp_path / "ladder").predict(texts)
    code = (
        "import sys, numpy as np\nfrom ordtool.prediction.text_classifiers import LadderClassifier\n"
        "rows, vectors = LadderClassifier.load(sys.argv[1]).predict(sys.argv[3:])\nnp.save(sys.argv[2], rows)\n"
    )
    done = launcher.run(["-c", code, tmp_path / "ladder", tmp_path / "p.npy", *texts], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(tmp_path / "p.npy"), here)
    assert vectors.shape == (7, 24)
    # The Auto class says the same.
    import transformers

    register("ordtool_ladder")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "ladder")
    with torch.no_grad():
        logits = model(**model.backbone.tokenizer(texts, padding=True, return_tensors="pt")).logits
    torch.testing.assert_close(logits.softmax(-1), torch.tensor(here), rtol=1e-4, atol=1e-5)
    model.save_pretrained(tmp_path / "again")
    for name, tensor in tensors(tmp_path / "ladder").items():
        assert torch.equal(tensor, tensors(tmp_path / "again")[name])
    # Another backbone of the same shape is refused, wherever it is named.
    other = transformers.AutoModel.from_pretrained(home)
    with torch.no_grad():
        next(other.parameters()).add_(1)
    other.save_pretrained(home)
    with pytest.raises(OrdtoolError, match="belongs to another backbone"):
        load_ladder_and_backbone(tmp_path / "ladder")
    load_ladder_and_backbone(tmp_path / "ladder", backbone=str(encoders("bert")))
    shutil.rmtree(home)
    with pytest.raises(OrdtoolError, match="its backbone can't be loaded"):
        load_ladder_and_backbone(tmp_path / "ladder")


def test_resumed_is_uninterrupted(encoders, table, settings, tmp_path):
    data, dev = table("a.tsv", 40), table("d.tsv", 20, 1)
    options = {"initialisation": "random", "dropout": 0.2}
    train_ladder([data], tmp_path / "whole", settings(**options), model=str(encoders("bert")), dev=[dev])

    class Stop(Exception):
        pass

    class Stopping:
        def __init__(self):
            self.epochs = 0

        def start(self, *arguments, **stats):
            pass

        advance = warn = start

        def close(self):
            pass

        def note(self, message):
            self.epochs += "epoch" in message
            if "epoch 3" in message:
                raise Stop

    arguments = ([data], tmp_path / "parts", settings(**options))
    beside = {"dev": [dev], "model": str(encoders("bert"))}
    with pytest.raises(Stop):
        train_ladder(*arguments, **beside, progress=Stopping())
    assert (tmp_path / "parts.partial" / "checkpoint.safetensors").is_file()
    with pytest.raises(OrdtoolError, match="an interrupted run left this"):
        train_ladder(*arguments, **beside)
    with pytest.raises(OrdtoolError, match="had other settings \\(dropout, initialisation\\)"):
        train_ladder(*arguments[:2], settings(dropout=0.1), **beside, resume=True)
    counted = Stopping()
    counted.note = lambda message: None
    train_ladder(*arguments, **beside, resume=True, progress=counted)
    whole, parts = tensors(tmp_path / "whole"), tensors(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_early_stop_and_best_weights(encoders, table, settings):
    data, dev = table("a.tsv", 40), table("d.tsv", 20, 1)
    wild = settings(schedule=ScheduleConfig(epochs=30, batch_size=8, learning_rate=0.02, patience=2))
    found = train_ladder([data], None, wild, model=str(encoders("bert")), dev=[dev])
    best = max(row["accuracy"] for row in found.history.epochs)
    assert found.history.best.value == best
    assert len(found.history.epochs) <= found.history.epoch + 2


def test_regression_of_pairs(encoders, tmp_path, settings):
    rng = np.random.default_rng(0)
    words = "cat dog bird river tree sea".split()
    rows = []
    for _ in range(120):
        a, b = rng.choice(words, 3), rng.choice(words, 3)
        rows.append({"s1": " ".join(a), "s2": " ".join(b), "score": 5.0 * len(set(a) & {"cat"}) + 2})
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = Fields("s1", "s2", "score")
    own = settings(
        task="regress", fields=fields, schedule=ScheduleConfig(epochs=10, batch_size=8, learning_rate=3e-3)
    )
    found = train_ladder([path], tmp_path / "l", own, model=str(encoders("bert")))
    assert found.history.best.name == "pearson" and found.history.best.value > 20
    classifier = LadderClassifier.load(tmp_path / "l")
    assert classifier.labels == [] and classifier.pair_field == "s2"
    scores, _ = classifier.predict(["cat dog bird", "sea sea tree"], ["river", "river"])
    assert scores.shape == (2, 1) and scores[0] > scores[1]


def test_a_language_model_begins_at_its_backbone_and_falls(writers, tmp_path, settings):
    import transformers

    text = tmp_path / "book.txt"
    text.write_text("the cat sat on the red tree and the dog ran under it\n" * 60)
    llama = load_backbone(str(writers("llama")), writes=True)
    data = encode_blocks(llama.tokenizer, [text.read_text()], 32)
    own = settings(
        task="lm", max_length=32, schedule=ScheduleConfig(epochs=8, batch_size=4, learning_rate=1e-2)
    )
    found = train_ladder([text], tmp_path / "l", own, model=str(writers("llama")), dev=[text])
    losses = [row["loss"] for row in found.history.epochs]
    with torch.no_grad():
        total = count = 0.0
        for ids in data.ids:
            row = torch.tensor(ids)[None]
            total += float(llama.full(row, labels=row).loss) * (len(ids) - 1)
            count += len(ids) - 1
    assert found.history.best.value < min(losses[0], total / count) - 0.5
    register("ordtool_ladder")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "l")
    ids = torch.tensor(data.ids[0])[None]
    with torch.no_grad():
        whole = model(ids).logits
        # Token by token with the cache of both networks.
        cache, rows = None, []
        for place in range(ids.shape[1]):
            step = model(
                ids[:, place : place + 1],
                attention_mask=torch.ones(1, place + 1, dtype=torch.long),
                position_ids=torch.tensor([[place]]),
                **cache_argument(cache),
                use_cache=True,
            )
            cache = cache_of(step)
            rows.append(step.logits)
    torch.testing.assert_close(torch.cat(rows, dim=1), whole, rtol=1e-3, atol=1e-3)
    loss = torch.nn.functional.cross_entropy(whole[0, :-1], ids[0, 1:])
    assert float(loss) < losses[0]


def test_text_loss_is_the_cross_entropy():
    torch.manual_seed(0)
    output, weight = torch.randn(2, 300, 4, requires_grad=True), torch.randn(7, 4)
    labels = torch.randint(0, 7, (2, 300))
    labels[0, :50] = -100
    total, count = text_loss(output, labels, lambda rows: rows @ weight.T)
    wanted = torch.nn.functional.cross_entropy((output @ weight.T).flatten(0, 1), labels.flatten())
    assert count == 550
    torch.testing.assert_close(total / count, wanted)
    ours = torch.autograd.grad(total / count, output)[0]
    torch.testing.assert_close(ours, torch.autograd.grad(wanted, output)[0])


def test_scores_against_scipy_and_sklearn():
    from scipy.stats import pearsonr, spearmanr
    from sklearn.metrics import accuracy_score, f1_score

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 1)), rng.normal(size=50)
    found = score_labels(x, y, "regress")
    assert found.value == pytest.approx(100 * pearsonr(x[:, 0], y)[0])
    assert found.more["spearman"] == pytest.approx(100 * spearmanr(x[:, 0], y)[0])
    for classes in (3, 2):  # with 2, a class is guessed that no text has
        logits, labels = rng.normal(size=(50, 3)), rng.integers(0, classes, 50)
        found = score_labels(logits, labels, "classify")
        wanted = 100 * f1_score(labels, logits.argmax(1), average="macro")
        assert found.value == pytest.approx(100 * accuracy_score(labels, logits.argmax(1)))
        assert found.more["macro_f1"] == pytest.approx(wanted)


def test_comparison(bert, table, settings):
    pytest.importorskip("peft")
    data, dev = table("a.tsv", 40), table("d.tsv", 20, 1)
    own = settings()
    read = read_data([data], [dev], own, bert, [table("t.tsv", 30, 2)])
    before = {name: p.clone() for name, p in bert.model.named_parameters()}
    found, first = compare_tuning(bert, read, own, ComparisonConfig(runs=2, epochs=1))
    rows = {row.method: row.record() for row in found}
    assert list(rows) == ["ladder", "ladder, no cache", "full", "lora", "bitfit", "head"]
    assert len(rows["full"]["scores"]) == 2 and rows["full"]["deviation"] is not None
    assert rows["full"]["trained_parameters"] == sum(p.numel() for p in before.values()) + 2 * 24 + 2
    assert rows["head"]["trained_parameters"] == 2 * 24 + 2
    # Two matrices of rank 8 for the queries and the values of three layers, and the read-out.
    assert rows["lora"]["trained_parameters"] == 3 * 2 * 2 * 8 * 24 + 2 * 24 + 2
    assert first.test is not None and rows["ladder"]["scores"][0] == pytest.approx(first.test.value, abs=1e-3)
    # Nobody touched the frozen model.
    assert all(torch.equal(before[name], p) for name, p in bert.model.named_parameters())


def test_a_plain_checkpoint(encoders, lines):
    import transformers

    folder = encoders("classifier")
    classifier = CheckpointClassifier.load(folder, torch.device("cpu"))
    texts = [text for text, _ in lines(5)]
    rows, vectors = classifier.predict(texts, batch_size=2)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        for text, row in zip(texts, rows, strict=True):
            wanted = model(**tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0]
            torch.testing.assert_close(torch.tensor(row), wanted, rtol=1e-4, atol=1e-5)
    assert classifier.labels == ["LABEL_0", "LABEL_1"] and vectors.shape == (5, 24)


def test_long_trainings_of_labels_have_a_lower_rate():
    assert label_rate(1) == label_rate(200) == 3e-3
    assert label_rate(800) == pytest.approx(1.5e-3)

    def rate(task="classify", **schedule):
        config = LadderTrainingConfig(
            task=task, schedule=ScheduleConfig(epochs=100, batch_size=5, **schedule)
        )
        return config.schedule_for(40).peak

    assert rate() == rate("regress") == rate("pairs") == pytest.approx(1.5e-3)  # 800 steps
    assert rate(max_steps=50) == rate("lm") == rate("seq2seq") == 3e-3
    assert rate(learning_rate=0.02) == rate("lm", learning_rate=0.02) == 0.02


def test_settings_that_make_no_sense(settings):
    for options in (
        {"task": "magic"},
        {"kind": "rope"},
        {"reduction": 0},
        {"initialisation": "x"},
        {"pooling": "max"},
        {"dropout": 1.0},
        {"max_length": 1},
    ):
        with pytest.raises(UsageError):
            settings(**options)
    for options in (
        {"epochs": 0},
        {"learning_rate": -1},
        {"optimizer": "sgd"},
        {"warmup": 1.0},
        {"patience": 0},
    ):
        with pytest.raises(UsageError):
            ScheduleConfig(**options)
    for options in ({"methods": ("magic",)}, {"methods": ("full", "full")}, {"runs": 0}):
        with pytest.raises(UsageError):
            ComparisonConfig(**options)
