"""Neural grammars: the inside algorithm, posteriors, trees, training."""

import gc
import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ordtool.errors import OrdtoolError, UsageError
from ordtool.parsing.loading import load_parser
from ordtool.parsing.parser import parse
from ordtool.parsing.pcfg.config import PcfgTrainingConfig
from ordtool.parsing.pcfg.inference import PcfgParser
from ordtool.parsing.pcfg.inside import Grammar, inside, span_posteriors
from ordtool.parsing.pcfg.model import PcfgConfig, PcfgModel
from ordtool.parsing.pcfg.steps import make_steps
from ordtool.parsing.pcfg.training import LengthBatches, rate_share, train_pcfg
from ordtool.parsing.text.vocabulary import Vocabulary
from ordtool.parsing.training.data import Encoded
from ordtool.parsing.trees.builders import unbiased_spans
from ordtool.parsing.trees.chart import chart_spans
from ordtool.parsing.trees.punctuation import crossing_potentials, punctuation_between
from ordtool.progress import Silent


def grammar(nonterminals=3, preterminals=5, dtype=torch.float64, seed=0):
    random = torch.Generator().manual_seed(seed)
    root = torch.randn(nonterminals, generator=random, dtype=dtype).softmax(0)
    rules = torch.randn(nonterminals + preterminals, 2 * nonterminals, generator=random, dtype=dtype)
    rules = (2 * rules).softmax(0)
    return Grammar(root, rules[:nonterminals], rules[nonterminals:])


def sentences(batch, length, preterminals=5, dtype=torch.float64, seed=1):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, preterminals, generator=random, dtype=dtype) * 2 - 6


def loops(words, rules, potentials=None):
    """Log P of a sentence by CKY over rules A -> B C, one by one."""
    root, nonterminals, preterminals = (
        x.numpy() for x in (rules.root, rules.nonterminal_children, rules.preterminal_children)
    )
    children = np.concatenate((nonterminals, preterminals))
    count, length = len(root), len(words)
    chart = {(i, i + 1): np.concatenate((np.zeros(count), np.exp(words[i].numpy()))) for i in range(length)}
    for width in range(2, length + 1):
        for i in range(length - width + 1):
            cell = np.zeros(len(children))
            for parent in range(count):
                for k in range(i + 1, i + width):
                    for left in range(len(children)):
                        for right in range(len(children)):
                            rule = children[left, parent] * children[right, count + parent]
                            cell[parent] += rule * chart[i, k][left] * chart[k, i + width][right]
            factor = 1.0 if potentials is None else math.exp(potentials[i, i + width])
            chart[i, i + width] = cell * factor
    return math.log(root @ chart[0, length][:count])


def test_the_probability_of_a_sentence_is_that_of_plain_loops():
    rules, words = grammar(), sentences(2, 6)
    expected = [loops(sentence, rules) for sentence in words]
    assert inside(words, rules).tolist() == pytest.approx(expected, rel=1e-12)
    assert inside(words[:, :2], rules).tolist() == pytest.approx([loops(s[:2], rules) for s in words])


def test_the_probabilities_of_all_sentences_of_a_length_are_less_than_one():
    """Over every pair of words the grammar gives what its derivations of two words have in all."""
    rules = grammar()
    emission = torch.randn(5, 4, dtype=torch.float64).log_softmax(-1)
    pairs = torch.tensor([(a, b) for a in range(4) for b in range(4)])
    total = inside(emission.T[pairs], rules).exp().sum()
    left, right = rules.preterminal_children.sum(0).reshape(2, 3)
    assert float(total) == pytest.approx(float((rules.root * left * right).sum()), rel=1e-12)


def test_gradients():
    rules = grammar()
    given = [sentences(2, 5), rules.root, rules.nonterminal_children, rules.preterminal_children]
    given = [x.clone().requires_grad_() for x in given]
    assert torch.autograd.gradcheck(lambda words, *parts: inside(words, Grammar(*parts)), given)


def test_posteriors_are_derivatives_by_potentials():
    rules, words = grammar(), sentences(2, 5)
    potentials = torch.randn(2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found = span_posteriors(words, rules, potentials)
    for row in range(2):
        for i in range(5):
            for j in range(i + 2, 6):
                moved = []
                for step in (-1e-5, 1e-5):
                    changed = potentials[row].clone()
                    changed[i, j] += step
                    moved.append(loops(words[row], rules, changed))
                assert float(found[row, i, j]) == pytest.approx((moved[1] - moved[0]) / 2e-5, abs=1e-8)
    assert found.sum((1, 2)).tolist() == pytest.approx([4, 4])
    assert found[:, 0, 5].tolist() == pytest.approx([1, 1])


def test_long_sentences_neither_vanish_nor_overflow():
    rules = grammar(dtype=torch.float32)
    exactly = Grammar(
        rules.root.double(), rules.nonterminal_children.double(), rules.preterminal_children.double()
    )
    words = (5 * sentences(1, 120, dtype=torch.float32)).requires_grad_()
    likelihood = inside(words, rules)
    likelihood.sum().backward()
    expected = inside(words.detach().double(), exactly)
    assert likelihood.tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    assert float(words.grad.sum()) == pytest.approx(120, rel=1e-3)  # every word has one preterminal


@pytest.mark.parametrize("kernels", ["triton", "numba"])
@pytest.mark.parametrize(("nonterminals", "preterminals", "length"), [(3, 5, 4), (20, 7, 5), (3, 2, 2)])
def test_kernels_do_what_pytorch_does(kernels, nonterminals, preterminals, length):
    pytest.importorskip(kernels)
    if kernels == "triton":
        from ordtool.parsing.pcfg.kernels_triton import TritonMerger as Kernels
    else:
        from ordtool.parsing.pcfg.kernels_numba import NumbaMerger as Kernels

    device = "cuda" if torch.cuda.is_available() and kernels == "triton" else "cpu"
    rules = grammar(nonterminals, preterminals, torch.float32)
    parts = (rules.root, rules.nonterminal_children, rules.preterminal_children)
    words = sentences(2, length, preterminals, torch.float32)
    potentials = torch.randn(2, length, length + 1)
    results = []
    for merger in (None, Kernels()):
        given = [x.clone().to(device).requires_grad_() for x in (words, *parts)]
        likelihood = inside(given[0], Grammar(*given[1:]), merger)
        likelihood.sum().backward()
        posteriors = span_posteriors(
            words.to(device), Grammar(*(x.to(device) for x in parts)), potentials.to(device), merger
        )
        results.append([likelihood.detach(), *(x.grad for x in given), posteriors])
    for plain, kernel in zip(*results, strict=True):
        torch.testing.assert_close(kernel, plain, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_rules_are_probabilities():
    torch.manual_seed(0)
    model = PcfgModel(PcfgConfig(11, 4, 6, 8))
    rules = model.grammar()
    assert float(rules.root.sum()) == pytest.approx(1, abs=1e-6)
    children = torch.cat((rules.nonterminal_children, rules.preterminal_children)).sum(0)
    torch.testing.assert_close(children, torch.ones(8))
    every = model.word_scores(torch.arange(11)[None], *model.emission_vectors())
    torch.testing.assert_close(every.exp().sum(1), torch.ones(1, 6))


def test_what_words_sum_to_and_its_gradient():
    """More words than are multiplied at a time."""
    torch.manual_seed(0)
    model = PcfgModel(PcfgConfig(5000, 2, 3, 8)).double()
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    (model.emission_vectors()[1] @ weights).backward()
    found = [parameter.grad for parameter in (model.words, model.symbols)]
    model.zero_grad()
    vectors = model.emission(model.symbols[2:]) + model.symbols[2:]
    ((vectors @ model.words.T).exp().sum(-1).log() @ weights).backward()
    torch.testing.assert_close(found, [model.words.grad, model.symbols.grad])


def test_a_step_in_bfloat16_is_nearly_one_in_float32():
    ids = np.random.default_rng(0).integers(0, 50, 400)
    gradients, losses = [], []
    for dtype in ("float32", "bfloat16"):
        torch.manual_seed(0)
        config = PcfgTrainingConfig(
            num_nonterminals=24, num_preterminals=40, state_size=32, dtype=dtype, clip=1e9
        )
        model = PcfgModel(config.shape(50))
        steps = make_steps(model, ids, config)
        steps.take(8, np.arange(0, 400, 8), 0.0)
        losses.append(steps.collect_loss())
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    plain, rounded = gradients
    assert float((plain - rounded).norm()) < 0.03 * float(plain.norm())
    assert not torch.equal(plain, rounded)


def test_punctuation_lowers_what_crosses_it():
    tokens = "a b , c d : e".split()
    between = punctuation_between(tokens, [t in ",:" for t in tokens])
    found = crossing_potentials(between, {"comma": 2.0, "colon": 1.0, "dash": 9.0})
    expected = {(0, 2): 0, (0, 3): -2, (1, 3): -2, (2, 4): 0, (2, 5): -1, (0, 5): -3, (1, 5): -3, (3, 5): -1}
    assert {span: float(found[span]) for span in expected} == expected


def small_parser(seed=0, **config):
    torch.manual_seed(seed)
    model = PcfgModel(PcfgConfig(12, 6, 8, 10))
    with torch.no_grad():
        for parameter in model.parameters():  # far from uniform rules
            parameter.mul_(3)
    words = Vocabulary(["<eos>", "<unk>", *(f"w{k}" for k in range(10))])
    return PcfgParser(model, words, {"comma": 2.0})


def test_batches_change_no_tree_and_a_long_line_is_read_in_pieces():
    parser = small_parser()
    random = np.random.default_rng(1)
    given = [random.integers(2, 12, length).tolist() for length in (1, 2, 7, 230, 7, 11)]
    marks = [random.integers(0, 2, len(s) + 1).astype(np.uint16) for s in given]
    together = parser.distances(given, punctuation=marks)
    for sentence, between, found in zip(given, marks, together, strict=True):
        [alone] = parser.distances([sentence], punctuation=[between])
        assert found.shape == (1, len(sentence)) and found[0, 0] == 0
        assert unbiased_spans(found[0]) == unbiased_spans(alone[0])
    tables = parser.posteriors(given[2:3], marks[2:3])
    assert unbiased_spans(together[2][0]) == chart_spans(tables[0])
    joined = {(start, end) for start in range(0, 230, 40) for end in (min(start + 40, 230), 230)}
    assert joined <= set(unbiased_spans(together[3][0]))


def test_a_line_of_thousands_of_words_is_its_pieces_joined_from_the_right():
    parser = small_parser()
    words = np.random.default_rng(1).integers(2, 12, 2_000).tolist()
    [found] = parser.distances([words])
    expected, nothing = set(), np.zeros(41, dtype=np.uint16)
    for start in range(0, 2_000, 40):
        [piece] = parser.posteriors([words[start : start + 40]], [nothing])
        expected |= {(start, 2_000)} | {(start + i, start + j) for i, j in chart_spans(piece)}
    assert set(unbiased_spans(found[0])) == expected


def test_long_sentences_leave_nothing_in_memory():
    def held():
        gc.collect()
        return sum(found.numel() for found in gc.get_objects() if type(found) is torch.Tensor)

    parser = small_parser()
    words = np.random.default_rng(1).integers(2, 12, 80).tolist()
    parser.posteriors([words], [np.zeros(81, dtype=np.uint16)])
    before = held()
    for length in (78, 79):  # whose splits are half a million numbers each
        parser.posteriors([words[:length]], [np.zeros(length + 1, dtype=np.uint16)])
    assert held() - before < 200_000


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Sentences of pairs: the first word of a pair says which one the second is."""
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("pcfg") / "pairs.txt"
    lines = []
    for _ in range(600):
        pairs = random.integers(0, 5, random.integers(2, 5))
        lines.append(" ".join(f"a{'xyzuv'[k]} b{'xyzuv'[k]}" for k in pairs))
    path.write_text("\n".join(lines) + "\n")
    return path


TINY = {
    "layout": "sentences", "num_nonterminals": 4, "num_preterminals": 12, "state_size": 24, "batch_size": 32,
    "holdout": 0.05, "seed": 1, "dtype": "float32",
}  # fmt: skip


def test_a_grammar_is_learned(text, tmp_path):
    treebank = tmp_path / "gold.mrg"
    treebank.write_text(
        "(S (NP (A ax) (B bx)) (VP (A ay) (B by)))\n(S (P (A au) (B bu)) (P (A az) (B bz)))\n"
    )
    config = PcfgTrainingConfig(**TINY, epochs=8, learning_rate=0.01)
    history = train_pcfg(text, tmp_path / "model", config, treebank=treebank, half=True)
    # There are ten words, each as frequent as the others: a grammar that knew no more would stay at 10.
    assert history[-1]["dev_perplexity"] < 7 < 9 < history[0]["train_perplexity"]
    assert history[-1]["f1"] == 100
    result = parse("ax bx av bv az bz ay by", model=str(tmp_path / "model"))
    assert {(0, 2), (2, 4), (4, 6), (6, 8)} < set(result.spans)
    assert load_file(tmp_path / "model" / "model.safetensors")["words"].dtype == torch.float16
    assert json.loads((tmp_path / "model" / "config.json").read_text())["num_nonterminals"] == 4


class Stopping(Silent):
    """Presses Ctrl-C at the second look at the loss."""

    def __init__(self):
        self.looks = 0

    def advance(self, amount=1, **stats):
        self.looks += bool(stats)
        if self.looks == 2:
            raise KeyboardInterrupt


def test_a_resumed_run_ends_with_the_same_weights(text, tmp_path):
    config = PcfgTrainingConfig(**TINY | {"batch_size": 8}, epochs=2)
    whole = train_pcfg(text, tmp_path / "whole", config)
    with pytest.raises(KeyboardInterrupt):
        train_pcfg(text, tmp_path / "model", config, progress=Stopping())
    history = train_pcfg(text, tmp_path / "model", config, resume=True)
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "model"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert [record["dev_perplexity"] for record in history] == [x["dev_perplexity"] for x in whole]


def test_punctuation_is_weighed_on_development_trees(text, tmp_path):
    trees = tmp_path / "dev.mrg"
    trees.write_text("(S (X (A ax) (B bx) (A ay)) (, ,) (Y (B by) (A az) (B bz)))\n" * 3)
    train_pcfg(text, tmp_path / "model", PcfgTrainingConfig(**TINY, epochs=1), tune=trees)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["parse_punctuation_bonus"]["comma"] > 0
    assert config["parse_tuned_on"].startswith(f"{tmp_path.name}/dev.mrg (3 sentences)")
    assert load_parser(tmp_path / "model").punctuation_bonus == config["parse_punctuation_bonus"]


def test_batches_hold_every_sentence_of_the_lengths_that_are_read():
    lengths = [1, 2, 5, 5, 9, 2, 5]
    starts = np.concatenate(([0], np.cumsum(lengths)))
    batches = LengthBatches(Encoded(np.arange(29, dtype=np.int32), starts), 2, 5, seed=0)
    assert (len(batches), batches.count) == (5, 3)
    epochs = [list(batches.epoch(number)) for number in range(2)]
    for epoch in epochs:
        found = sorted((length, int(start)) for length, first in epoch for start in first)
        assert found == [(2, 1), (2, 22), (5, 3), (5, 8), (5, 24)]
        assert all(len(first) <= 2 for _, first in epoch)


def test_the_rate_falls_over_the_last_fifth():
    assert [rate_share(step, 100) for step in (0, 79, 80, 90, 99)] == [1, 1, 1, 0.5, 0.05]


@pytest.mark.parametrize(
    "wrong", [{"max_length": 1}, {"epochs": 0}, {"num_preterminals": 0}, {"tokens": "x"}, {"clip": 0}]
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(UsageError):
        PcfgTrainingConfig(**wrong)


def test_options_of_the_other_kind_are_refused(run_in_process, text):
    done = run_in_process("train", "parser", str(text), "--kind", "pcfg", "--layers", "2", "-o", "m")
    assert done.returncode == 2
    assert "--layers goes with --kind onlstm" in done.stderr


def test_a_text_without_sentences_of_that_length_is_told(tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    with pytest.raises(OrdtoolError, match="no sentence of 2 to 40 words"):
        train_pcfg(tmp_path / "a.txt", tmp_path / "m", PcfgTrainingConfig(**TINY))
