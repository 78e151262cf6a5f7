"""ON-LSTMs and span scorers on a CUDA card against the same on the CPU."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from ordtool.parsing.onlstm.cross_entropy import linear_cross_entropy
from ordtool.parsing.onlstm.inference import DistanceModel
from ordtool.parsing.onlstm.model import OnlstmConfig, OnlstmForCausalLM
from ordtool.parsing.onlstm.scan import ordered_scan
from ordtool.parsing.spans.inference import SpanParser
from ordtool.parsing.spans.model import SpanConfig, SpanModel
from ordtool.parsing.text.vocabulary import Vocabulary
from ordtool.parsing.training.loss import ShardedLoss
from ordtool.parsing.training.recipes import TrainingConfig, recipe
from ordtool.parsing.training.trainer import train_parser
from ordtool.parsing.trees.chart import chart_distances

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(("hidden", "chunk"), [(1150, 10), (400, 10), (512, 16), (33, 3)])
@pytest.mark.parametrize("batch", [1, 5])
def test_the_fused_scan(hidden, chunk, batch, card):
    generator = torch.Generator().manual_seed(0)
    gates = 4 * hidden + 2 * (hidden // chunk)
    shapes = ((4, batch, gates), (gates, hidden), (batch, hidden), (batch, hidden))
    exact = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]
    exact[1] /= hidden**0.5
    args = [t.float().to(card).requires_grad_() for t in exact]
    exact = [t.requires_grad_() for t in exact]
    ours = ordered_scan(*args, chunk, kernel="triton")
    theirs = ordered_scan(*exact, chunk, kernel="torch")
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.detach().cpu().double(), b.detach(), rtol=0, atol=1e-5)
    found = torch.autograd.grad(ours.hidden_states.sum() + ours.cell.square().sum(), args)
    wanted = torch.autograd.grad(theirs.hidden_states.sum() + theirs.cell.square().sum(), exact)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a.cpu().double(), b, rtol=0, atol=1e-5 * float(b.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cross_entropy(dtype, card):
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias = (
        torch.randn(*shape, generator=generator).to(card).requires_grad_()
        for shape in ((300, 24), (9001, 24), (9001,))
    )
    targets = torch.randint(9001, (300,), generator=generator).to(card)
    targets[::7] = -100
    ours = linear_cross_entropy(hidden, weight, bias, targets, matmul_dtype=dtype)
    exact = [t.detach().double().requires_grad_() for t in (hidden, weight, bias)]
    theirs = F.cross_entropy(exact[0] @ exact[1].T + exact[2], targets)
    near = 1e-5 if dtype == torch.float32 else 5e-2
    assert ours.item() == pytest.approx(theirs.item(), rel=near)
    found, wanted = (
        torch.autograd.grad(ours, (hidden, weight, bias)),
        torch.autograd.grad(theirs, exact),
    )
    for a, b in zip(found, wanted, strict=True):
        assert (a.double() - b).norm() < near * b.norm()


SHAPE = {
    "vocab_size": 50,
    "embedding_size": 25,
    "hidden_size": 40,
    "num_hidden_layers": 2,
    "chunk_size": 5,
}
NO_DROPOUT = {f"{name}_dropout": 0.0 for name in ("input", "layer", "output", "weight", "word")}


def losses_of(place, windows, shards, **dropouts) -> tuple[ShardedLoss, list[float], list[torch.Tensor]]:
    """Losses of windows with carried states, and the gradients of the last one; exact ones on the CPU."""
    torch.manual_seed(3)
    model = OnlstmForCausalLM(OnlstmConfig(**SHAPE, **NO_DROPOUT | dropouts)).train()
    model.to(place, torch.float32 if place.type == "cuda" else torch.float64)
    config = TrainingConfig(batch_size=6, shards=shards, activation_penalty=0.5, temporal_penalty=0.25)
    loss = ShardedLoss(model, config)
    found = [float(loss(window[:, :-1], window[:, 1:])) for window in windows]
    return loss, found, [parameter.grad.cpu() for parameter in loss.parameters]


def windows(*lengths) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(50, (6, length + 1), generator=generator) for length in lengths]


@pytest.mark.parametrize("shards", [1, 2])
def test_recorded_windows_are_those_of_the_cpu(shards, card):
    """The second window as long is recorded, the third played again; another length comes between."""
    chosen = windows(7, 7, 4, 7, 4, 4, 7)
    loss, found, gradients = losses_of(card, chosen, shards)
    assert set(loss.graphs.recorded) == {7, 4}
    _, wanted, exact = losses_of(torch.device("cpu"), chosen, shards)
    assert found == pytest.approx(wanted, abs=1e-5)
    for a, b in zip(gradients, exact, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=1e-5 * float(b.abs().max()))


def test_recorded_windows_draw_new_masks_and_go_on_where_they_stopped(card):
    window = windows(7)[0]
    loss, _, _ = losses_of(card, [window] * 3, 1, input_dropout=0.5, weight_dropout=0.5)
    saved = {name: tensor.clone() for name, tensor in loss.tensors().items()}
    first = [float(loss(window[:, :-1], window[:, 1:])) for _ in range(3)]
    assert len(set(first)) == 3
    loss.load(saved)
    assert [float(loss(window[:, :-1], window[:, 1:])) for _ in range(3)] == first


def test_training_and_its_resumption(card, tmp_path):
    random = np.random.default_rng(0)
    words = "the a dog cat sees likes old young".split()
    lines = [
        " ".join(words[i] for i in (random.integers(2), 6, 2, 4 + random.integers(2), 1, 3))
        for _ in range(600)
    ]
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{line} .\n" for line in lines))
    config = recipe(
        vocab_size=30, embedding_size=12, hidden_size=20, num_hidden_layers=2, chunk_size=4, batch_size=6,
        window=9, warmup=5, learning_rate=0.01, epochs=3,
    )  # fmt: skip
    run = {"device": "cuda", "keep_checkpoints": True}
    history = train_parser(text, tmp_path / "model", config, **run)
    assert history[-1]["dev_perplexity"] < 6
    longer = replace(config, epochs=4)
    again = train_parser(text, tmp_path / "model", longer, resume=True, **run)
    assert again[:3] == history and again[3]["train_perplexity"] < 6


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_distances_of_sentences_of_any_length(dtype, card):
    torch.manual_seed(0)
    network = OnlstmForCausalLM(OnlstmConfig(**SHAPE | {"num_hidden_layers": 3}))
    config = network.config.to_dict()
    tensors = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    vocabulary = Vocabulary(["<eos>", "<unk>", *(f"w{k}" for k in range(48))])
    here = DistanceModel.from_parts(config, tensors, vocabulary)
    there = DistanceModel.from_parts(config, tensors, vocabulary, card, dtype)
    random = np.random.default_rng(0)
    for count, longest in ((1, 1), (5, 7), (5, 40), (13, 8), (1, 300)):
        ids = [random.integers(50, size=random.integers(1, longest + 1)).tolist() for _ in range(count)]
        for depth in (None, 2):
            pairs = zip(there.distances(ids, depth), here.distances(ids, depth), strict=True)
            for a, b in pairs:
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 if dtype is None else 0.02)


def test_trees_of_a_span_scorer(card):
    torch.manual_seed(0)
    config = SpanConfig(vocab_size=50, embedding_size=16, hidden_size=32, span_size=16)
    vocabulary = Vocabulary(["<eos>", "<unk>", *(f"w{k}" for k in range(48))])
    tensors = {name: tensor * 3 for name, tensor in SpanModel(config).state_dict().items()}
    random = np.random.default_rng(0)
    ids = [random.integers(50, size=random.integers(1, 30)).tolist() for _ in range(40)]
    parts = (asdict(config), tensors, vocabulary)
    found = SpanParser.from_parts(*parts, card).distances(ids)
    for a, b in zip(found, SpanParser.from_parts(*parts).distances(ids), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_chart(card):
    scores = np.random.default_rng(0).normal(size=(7, 12, 13)).astype(np.float32)
    lengths = [12, 1, 2, 7, 12, 3, 5]
    found = chart_distances(torch.from_numpy(scores).to(card), lengths)
    for a, b in zip(found, chart_distances(scores, lengths), strict=True):
        np.testing.assert_array_equal(a, b)
