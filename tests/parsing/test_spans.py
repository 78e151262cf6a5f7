"""The span scorer: its network, its trees, its training."""

import json
import math
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from ordtool.errors import OrdtoolError, UsageError
from ordtool.parsing.config import ParseConfig
from ordtool.parsing.loading import load_parser
from ordtool.parsing.parser import parse
from ordtool.parsing.spans.config import SpanTrainingConfig
from ordtool.parsing.spans.copying import pack, unpack
from ordtool.parsing.spans.data import read_teacher_trees
from ordtool.parsing.spans.inference import SpanParser
from ordtool.parsing.spans.model import SpanConfig, SpanModel, span_mask
from ordtool.parsing.spans.training import train_spans
from ordtool.parsing.text.vocabulary import Vocabulary
from ordtool.parsing.trees.builders import unbiased_spans
from ordtool.parsing.trees.chart import chart_distances, chart_spans
from ordtool.progress import Silent

SHAPE = SpanConfig(
    vocab_size=30,
    embedding_size=10,
    hidden_size=24,
    num_attention_heads=3,
    intermediate_size=40,
    span_size=12,
)
NOUNS, VERBS, ADJECTIVES = (
    "dog cat man woman tree river".split(),
    "sees likes finds".split(),
    "old young big".split(),
)


def model(seed=0):
    torch.manual_seed(seed)
    made = SpanModel(SHAPE).eval()
    with torch.no_grad():
        for parameter in made.parameters():  # far from zero, so that everything counts
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return made


def batch(lengths, seed=0):
    random = np.random.default_rng(seed)
    longest = max(lengths)
    words = torch.from_numpy(random.integers(1, 30, (len(lengths), longest)))
    marks = torch.from_numpy(random.integers(0, 512, (len(lengths), longest + 1)))
    return words, marks, torch.tensor(lengths)


def test_a_sentence_is_scored_the_same_alone_and_beside_longer_ones():
    made, lengths = model().double(), [3, 9, 1, 6]
    words, marks, sizes = batch(lengths)
    together = made(words, marks, sizes)
    for row, length in enumerate(lengths):
        alone = made(words[row : row + 1, :length], marks[row : row + 1, : length + 1], sizes[row : row + 1])
        np.testing.assert_allclose(
            together[row, : length + 1, : length + 1].detach(), alone[0].detach(), atol=1e-12
        )


def test_scores_are_those_of_the_formula():
    """The bilinear form, pair by pair, from the vectors of the words on both sides of each boundary."""
    made, (words, marks, lengths) = model().double(), batch([5])
    scores = made(words, marks, lengths)[0]
    boundaries = made.read(words, marks, lengths).boundaries[0]
    made_vectors = made.boundary(boundaries)
    size = SHAPE.span_size
    for start in range(6):
        for end in range(start + 1, 6):
            left, right = F.gelu(made_vectors[start, :size]), F.gelu(made_vectors[end, size:])
            expected = (left * right).sum() / math.sqrt(size)
            expected = expected + made.ends(made_vectors[start])[0] + made.ends(made_vectors[end])[1]
            assert float(scores[start, end].detach()) == pytest.approx(float(expected.detach()), abs=1e-12)


def test_words_marks_and_both_sides_count():
    made, (words, marks, lengths) = model(), batch([6])
    before = made(words, marks, lengths)
    for changed in (words.index_fill(1, torch.tensor([5]), 7), words.index_fill(1, torch.tensor([0]), 7)):
        assert not torch.allclose(made(changed, marks, lengths)[0, 1, 4], before[0, 1, 4])
    without = made(words, torch.zeros_like(marks), lengths)
    assert not torch.allclose(without[0, 1, 4], before[0, 1, 4])


def test_the_mask_marks_spans_of_two_words_up_to_all_but_one():
    mask = span_mask(torch.tensor([2, 4]), 4)
    assert not mask[0].any()
    assert sorted(map(tuple, mask[1].nonzero().tolist())) == [(0, 2), (0, 3), (1, 3), (1, 4), (2, 4)]


@pytest.mark.parametrize("made", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize("lengths", [[7], [1, 2, 3, 9, 12]])
def test_heights_of_many_charts_are_the_trees_of_each(lengths, made):
    random = np.random.default_rng(len(lengths))
    scores = random.normal(size=(len(lengths), max(lengths), max(lengths) + 1))
    for table, length, heights in zip(scores, lengths, chart_distances(made(scores), lengths), strict=True):
        expected = chart_spans(table[:length, : length + 1])
        assert unbiased_spans(heights) == expected
        depths = [sum(a < place < b for a, b in expected) for place in range(1, length)]
        np.testing.assert_allclose(heights, [0, *(1 / depth for depth in depths)])


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """Sentences of a small grammar with their trees, as `ordtool parse` writes them."""
    random = np.random.default_rng(0)

    def noun_phrase():
        words = [
            "the",
            *([str(random.choice(ADJECTIVES))] if random.random() < 0.5 else []),
            str(random.choice(NOUNS)),
        ]
        inner = [(0, len(words))]
        if random.random() < 0.3:
            tail, spans = noun_phrase()
            at = len(words) + 1
            inner += [(at - 1, at + len(tail)), *((a + at, b + at) for a, b in spans)]
            words = [*words, "near", *tail]
            inner.append((0, len(words)))
        return words, inner

    lines = []
    for _ in range(500):
        subject, first = noun_phrase()
        object_, second = noun_phrase()
        at = len(subject) + 1
        tokens = [*subject, str(random.choice(VERBS)), *object_, "."]
        spans = {(0, len(tokens)), (at - 1, len(tokens) - 1), *first, *((a + at, b + at) for a, b in second)}
        lines.append(json.dumps({"tokens": tokens, "spans": sorted(s for s in spans if s[1] - s[0] > 1)}))
    path = tmp_path_factory.mktemp("trees") / "trees.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


TINY = {
    "vocab_size": 60, "embedding_size": 16, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "span_size": 16, "batch_words": 200, "epochs": 3, "learning_rate": 5e-3, "seed": 3, "dtype": "float32",
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(trees, tmp_path_factory):
    folder = tmp_path_factory.mktemp("spans") / "model"
    history = train_spans([trees], folder, SpanTrainingConfig(**TINY | {"epochs": 8, "holdout": 0.1}))
    return folder, history


def test_it_learns_the_trees_and_parses_by_them(trained):
    folder, history = trained
    assert [record["epoch"] for record in history] == list(range(1, 9))
    assert history[-1]["train_loss"] < history[0]["train_loss"] / 4
    assert history[-1]["agreement"] > 97
    config = ParseConfig(model=(str(folder),), device="cpu", dtype="float32")
    [result] = parse(["The old dog near the river likes the cat."], config)
    assert {(0, 6), (0, 3), (3, 6), (4, 6), (6, 9), (7, 9)} <= set(result.spans)
    assert not folder.with_name("model.training").exists()


def test_what_is_saved_is_what_was_trained_also_in_half(trees, trained, tmp_path):
    train_spans([trees], tmp_path / "a", SpanTrainingConfig(**TINY))
    train_spans([trees], tmp_path / "b", SpanTrainingConfig(**TINY), half=True)
    full, half = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert full.keys() == half.keys()
    for name, tensor in full.items():
        assert half[name].dtype == torch.float16 and torch.equal(half[name], tensor.half())
    texts = ["The big cat sees the tree.", "The man near the young woman finds the dog."]
    drawn = [
        [
            r.tree
            for r in parse(texts, ParseConfig(model=(str(tmp_path / name),), device="cpu", dtype="float32"))
        ]
        for name in "ab"
    ]
    assert drawn[0] == drawn[1]


KILLED = """
import os, signal, sys
from ordtool.cli.app import main
from ordtool.parsing.spans.trainer import SpanTrainer

save = SpanTrainer.save

def save_and_die(self):
    save(self)
    if self.at.epoch == 2:
        os.kill(os.getpid(), signal.SIGKILL)

SpanTrainer.save = save_and_die
main(sys.argv[1:])
"""


def test_killed_and_resumed_is_uninterrupted(run_in_process, fails_in_process, launcher, trees, tmp_path):
    train_spans([trees], tmp_path / "whole", SpanTrainingConfig(**TINY))
    options = [f"--{k.replace('_', '-')}={v}" for k, v in TINY.items()]
    renamed = {
        "embedding-size": "embedding",
        "hidden-size": "hidden",
        "num-hidden-layers": "layers",
        "num-attention-heads": "heads",
    }
    for long, short in renamed.items():
        options = [option.replace(f"--{long}=", f"--{short}=") for option in options]
    command = ["train", "spans", str(trees), "-o", "model", *options]
    killed = launcher.run(["-c", KILLED, *command], cwd=tmp_path)
    assert killed.returncode == -signal.SIGKILL and not (tmp_path / "model").exists()
    assert "--resume goes on with it" in fails_in_process(*command)
    assert run_in_process(*command, "--resume").returncode == 0
    a, b = (
        load_file(tmp_path / "whole" / "model.safetensors"),
        load_file(tmp_path / "model" / "model.safetensors"),
    )
    assert all(torch.equal(a[name], b[name]) for name in a)


class Stopping(Silent):
    """Ends the run when it hears a word, before the epoch's checkpoint."""

    def __init__(self, word):
        self.word, self.heard = word, []

    def note(self, message):
        self.heard.append(message)
        if self.word in message:
            raise KeyboardInterrupt


def test_a_run_is_resumed_only_with_its_own_options(trees, tmp_path):
    model = tmp_path / "model"
    with pytest.raises(KeyboardInterrupt):
        train_spans([trees], model, SpanTrainingConfig(**TINY), progress=Stopping("epoch 2"))
    with pytest.raises(OrdtoolError, match="had other settings \\(seed\\)"):
        train_spans([trees], model, SpanTrainingConfig(**TINY | {"seed": 77}), resume=True)


def test_a_run_stopped_before_its_first_checkpoint_begins_again(trees, tmp_path):
    model = tmp_path / "model"
    with pytest.raises(KeyboardInterrupt):
        train_spans([trees], model, SpanTrainingConfig(**TINY), progress=Stopping("epoch 1"))
    assert not list(tmp_path.glob("model*"))
    heard = Stopping("nothing")
    train_spans([trees], model, SpanTrainingConfig(**TINY | {"epochs": 1}), resume=True, progress=heard)
    assert any("begins anew" in message for message in heard.heard)


def test_brackets_without_labels_lose_no_words(tmp_path):
    """A tree that both readings fit is read as the others of its file."""
    lines = ["(The (cat (saw dogs)))", "(The (dog sleeps) .)", "(Dogs (bark (loudly today)))"]
    path = tmp_path / "t.brackets"
    path.write_text("\n".join(lines))
    found = [tree.words for tree in read_teacher_trees([path], Silent())]
    assert found == ["The cat saw dogs".split(), "The dog sleeps".split(), "Dogs bark loudly today".split()]


def parser_of(made, size=30):
    words = ["<eos>", "<unk>", *(f"w{k}" for k in range(size - 2))]
    return SpanParser(made, Vocabulary(words))


def test_batches_change_no_tree_and_a_long_line_is_read_in_pieces():
    reader = parser_of(model())
    random = np.random.default_rng(1)
    sentences = [random.integers(2, 30, length).tolist() for length in (1, 2, 5, 1100, 9, 30)]
    marks = [random.integers(0, 8, len(s) + 1).astype(np.uint16) for s in sentences]
    together = reader.distances(sentences, punctuation=marks)
    for sentence, between, found in zip(sentences, marks, together, strict=True):
        (alone,) = reader.distances([sentence], punctuation=[between])
        assert found.shape == (1, len(sentence)) and found[0, 0] == 0
        assert unbiased_spans(found[0]) == unbiased_spans(alone[0])
    long = unbiased_spans(together[3][0])
    assert {(0, 1100), (0, 512), (512, 1100), (512, 1024), (1024, 1100)} <= set(long)


def test_marks_can_be_left_out(trained):
    folder, _ = trained
    text = ["The dog, the cat (the man) likes the tree."]
    config = {"model": (str(folder),), "device": "cpu", "dtype": "float32"}
    [bare] = parse(["The dog the cat the man likes the tree"], ParseConfig(**config))
    [without] = parse(text, ParseConfig(**config, punctuation=False))
    words = [k for k, token in enumerate(without.tokens) if token.isalpha()]
    heights = [without.distances[k] for k in words]
    assert heights == bare.distances
    assert unbiased_spans(np.array(heights)) == bare.spans


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no tree of three words or more"),
        ('{"tokens": ["a", "b"], "spans": [[0, 2]]}\n', "no tree of three words or more"),
        ('{"text": "a b c"}\n', "trees.jsonl:1: no list 'tokens' and 'spans'"),
        ('{"tokens": ["a", "b", "c"], "spans": [[0, 9]]}\n', "trees.jsonl:1: a span is no pair"),
    ],
)
def test_bad_trees_are_told(content, message, tmp_path):
    (tmp_path / "trees.jsonl").write_text(content)
    with pytest.raises(OrdtoolError, match=message):
        train_spans([tmp_path / "trees.jsonl"], tmp_path / "model", SpanTrainingConfig(**TINY))
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"hidden_size": 30, "num_attention_heads": 4},
        {"epochs": 0},
        {"dropout": 1.0},
        {"learning_rate": 0},
        {"tokens": "x"},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(UsageError):
        SpanTrainingConfig(**wrong)


def test_weights_of_another_shape_are_told(trained, tmp_path):
    folder, _ = trained
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    with pytest.raises(OrdtoolError, match="the weights don't fit the configuration"):
        load_parser(tmp_path)


def test_a_batch_is_one_block_of_memory():
    """What a card gets in one copy is what each array would have been by itself."""
    random = np.random.default_rng(0)
    arrays = [
        random.integers(0, 1 << 40, (3, 5)),
        random.random((2, 3, 7)).astype(np.float32),
        np.zeros((0, 3), dtype=np.int64),
        random.integers(0, 99, (4, 6)).T,  # not in C's order
        np.array([True, False, True]),
    ]
    block, layout = pack(arrays)
    assert block.dtype == torch.uint8 and block.dim() == 1
    for found, array in zip(unpack(block, layout), arrays, strict=True):
        assert found.untyped_storage().data_ptr() == block.untyped_storage().data_ptr()
        assert found.shape == array.shape and (found.numpy() == array).all()
