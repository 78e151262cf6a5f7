import json
import signal

import numpy as np
import pytest
import torch

from ordtool.errors import OrdtoolError, UsageError
from ordtool.independence.bottleneck import (
    BottleneckConfig,
    BottleneckForClassification,
    bottleneck_objective,
    gaussian_gram,
    load_bottleneck,
    nhsic,
)
from ordtool.independence.bottleneck_comparison import (
    accuracy,
    check_methods,
    compare_methods,
    layer_dependence,
)
from ordtool.independence.bottleneck_training import (
    BottleneckTrainingConfig,
    train_bottleneck,
    unfinished_trainings,
)
from ordtool.independence.labelled import Labelled, split, with_names_of
from ordtool.independence.loss import centred, normalized_gram
from ordtool.io.checkpoint import write_checkpoint
from ordtool.progress import SILENT, Silent

SMALL = {"layers": (24, 16), "epochs": 12, "batch_size": 64, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def rings():
    """Two rings in six dimensions: no line tells them apart."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 600)
    vectors = rng.standard_normal((600, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return split(Labelled(vectors * (1 + 1.5 * labels[:, None]) + 5, labels, ("inner", "outer")), 0.25)


def test_gram_is_the_definition():
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    gram = gaussian_gram(x, 2.0)
    for i in range(7):
        for j in range(7):
            expected = torch.exp(-((x[i] - x[j]).double() ** 2).sum() / (2 * 4.0 * 3))
            assert gram[i, j] == pytest.approx(expected.item(), abs=1e-7)


def test_nhsic_is_the_trace():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 4)), rng.standard_normal((30, 2))
    h = np.eye(30) - 1 / 30
    parts = []
    for rows in (x, y):
        squared = ((rows[:, None] - rows) ** 2).sum(axis=2)
        k = h @ np.exp(-squared / (2 * 5.0**2 * rows.shape[1])) @ h
        parts.append(k @ np.linalg.inv(k + 1e-5 * 30 * np.eye(30)))
    found = nhsic(torch.tensor(x), torch.tensor(y)).item()
    assert found == pytest.approx(np.trace(parts[0] @ parts[1]), rel=1e-8)


def test_objective_and_its_gradient_are_autograds():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(20, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    target = torch.randn(20, 20, dtype=torch.float64, generator=generator)
    target = target + target.T
    found = bottleneck_objective(z, target, 1.5, 1e-3)
    (gradient,) = torch.autograd.grad(found, z)
    matrix = centred(gaussian_gram(z, 1.5))
    plain = (torch.linalg.solve(matrix + 0.02 * torch.eye(20, dtype=torch.float64), matrix) * target).sum()
    (expected,) = torch.autograd.grad(plain, z)
    assert found.item() == pytest.approx(plain.item(), rel=1e-10)
    assert torch.allclose(gradient, expected, rtol=1e-8, atol=1e-10)


def test_layers_learn_alone():
    model = BottleneckForClassification(BottleneckConfig(input_size=3, layer_sizes=[4, 5], num_labels=2))
    target = normalized_gram(gaussian_gram(torch.randn(9, 2), 5.0), 1e-5)
    states = model.hidden(torch.randn(9, 3), detach=True)
    bottleneck_objective(states[1], target, 5.0, 1e-5).backward()
    assert model.layers[0].weight.grad is None
    assert model.layers[1].weight.grad.abs().max() > 0


def test_the_bottleneck_learns_what_a_line_cannot(rings):
    found = {
        c.method: c for c in compare_methods(*rings, BottleneckTrainingConfig(**SMALL, sigma=2.0), runs=1)
    }
    assert list(found) == ["hsic", "backprop", "linear", "random"]
    assert found["hsic"].accuracies[0] > 0.95
    assert found["linear"].accuracies[0] < 0.7
    assert found["hsic"].dependence[-1][1] > found["random"].dependence[-1][1]
    record = found["hsic"].record()
    assert json.loads(json.dumps(record)) == record
    assert len(record["nhsic_labels"]) == 2


def test_the_objective_falls(rings):
    losses = train_bottleneck(rings[0], config=BottleneckTrainingConfig(**SMALL)).losses
    assert losses[-1] < losses[0]


def test_the_read_out_is_logistic_regression(rings):
    train = rings[0]
    model = train_bottleneck(train, config=BottleneckTrainingConfig(method="linear", ridge=0.01)).model
    x = (train.vectors - train.vectors.mean(axis=0)) / train.vectors.std(axis=0)
    from scipy.optimize import minimize

    def loss(flat):
        weight, bias = flat[:12].reshape(2, 6), flat[12:]
        logits = x @ weight.T + bias
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return -log_p[np.arange(len(x)), train.labels].mean() + 0.01 * (weight**2).sum()

    best = minimize(loss, np.zeros(14), method="BFGS", tol=1e-8).x
    logits = x @ best[:12].reshape(2, 6).T + best[12:]
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.allclose(model.probabilities(train.vectors), expected, atol=2e-4)


def test_a_seed_is_a_network(rings):
    def weights(seed):
        model = train_bottleneck(
            rings[0], config=BottleneckTrainingConfig(**{**SMALL, "epochs": 2}, seed=seed)
        ).model
        return b"".join(p.detach().numpy().tobytes() for p in model.parameters())

    assert weights(3) == weights(3) != weights(4)


def test_saved_and_loaded(rings, tmp_path):
    train, held_out = rings
    trained = train_bottleneck(train, config=BottleneckTrainingConfig(**SMALL), embed_model="minilm").model
    trained.save_pretrained(tmp_path / "model")
    assert {p.name for p in (tmp_path / "model").iterdir()} == {"config.json", "model.safetensors"}
    loaded = load_bottleneck(tmp_path / "model")
    assert np.array_equal(loaded.probabilities(held_out.vectors), trained.probabilities(held_out.vectors))
    assert loaded.config.id2label == {0: "inner", 1: "outer"}
    assert loaded.config.embedding_model == "minilm"
    from transformers import AutoModel

    assert isinstance(AutoModel.from_pretrained(tmp_path / "model"), BottleneckForClassification)
    with pytest.raises(OrdtoolError, match="don't fit a model for 6 dimensions"):
        loaded.probabilities(np.zeros((2, 5)))
    (tmp_path / "model" / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(OrdtoolError, match="model.safetensors: damaged"):
        load_bottleneck(tmp_path / "model")


def test_labels_and_loss_of_the_forward_pass():
    model = BottleneckForClassification(BottleneckConfig(input_size=3, layer_sizes=[4], num_labels=2))
    out = model(torch.zeros(5, 3), labels=torch.tensor([0, 1, 0, 1, 1]))
    assert out.logits.shape == (5, 2)
    assert out.loss.item() == pytest.approx(np.log(2), abs=1e-6)
    assert [tuple(state.shape) for state in out.hidden_states] == [(5, 4)]


def test_a_dimension_that_never_changes(rings):
    train = rings[0]
    wider = Labelled(np.hstack([train.vectors, np.ones((len(train), 1))]), train.labels, train.names)
    model = train_bottleneck(wider, config=BottleneckTrainingConfig(**SMALL, sigma=2.0)).model
    assert np.isfinite(model.probabilities(wider.vectors)).all()
    assert accuracy(model, wider) > 0.9
    assert all(np.isfinite(layer_dependence(model, wider, BottleneckTrainingConfig())[0]))


@pytest.mark.parametrize(
    "options",
    [
        {"layers": ()},
        {"layers": (0,)},
        {"layers": (10**12,)},
        {"sigma": 0},
        {"sigma": float("nan")},
        {"beta": -1},
        {"epochs": 0},
        {"batch_size": 1},
        {"method": "backdrop"},
        {"activation": "rely"},
    ],
)
def test_impossible_settings(options, rings):
    with pytest.raises(UsageError):
        train_bottleneck(rings[0], config=BottleneckTrainingConfig(**options))


def test_one_class_is_nothing_to_learn(rings):
    train = rings[0]
    with pytest.raises(OrdtoolError, match="all labels are 'a'"):
        train_bottleneck(Labelled(train.vectors, 0 * train.labels, ("a",)))


def test_splitting(rings):
    data = Labelled(np.arange(40.0)[:, None], np.arange(40) % 2, ("a", "b"))
    train, held_out = split(data, 0.25, seed=1)
    assert (len(train), len(held_out)) == (30, 10)
    assert sorted([*train.vectors[:, 0], *held_out.vectors[:, 0]]) == list(range(40))
    assert np.array_equal(held_out.labels, held_out.vectors[:, 0].astype(int) % 2)
    for share in (0, 1, -1, 0.01, float("nan")):
        with pytest.raises(UsageError, match="holding out"):
            split(data, share)


def test_names_of_the_training_data_count():
    train = Labelled(np.zeros((4, 2)), np.array([0, 1, 2, 0]), ("a", "b", "c"))
    other = Labelled(np.zeros((2, 2)), np.array([1, 0]), ("b", "c"))
    assert with_names_of(other, train, "t").labels.tolist() == [2, 1]
    with pytest.raises(OrdtoolError, match="label 'd' is not in the training data"):
        with_names_of(Labelled(np.zeros((1, 2)), np.array([0]), ("d",)), train, "t")
    with pytest.raises(OrdtoolError, match="has 3 dimensions"):
        with_names_of(Labelled(np.zeros((1, 3)), np.array([0]), ("a",)), train, "t")


def test_method_names():
    assert check_methods(["hsic", " linear"]) == ("hsic", "linear")
    for names in (["hsics"], ["hsic", "hsic"]):
        with pytest.raises(UsageError):
            check_methods(names)


class Interrupting(Silent):
    """Sends Ctrl-C when so many epochs are done."""

    def __init__(self, epochs):
        self.left = epochs

    def advance(self, amount=1, **stats):
        self.left -= bool(amount)
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


COMPARED = (
    BottleneckTrainingConfig(layers=(6, 4), epochs=3, batch_size=128),
    ("hsic", "backprop", "linear"),
    2,
)


@pytest.fixture(scope="module")
def uninterrupted(rings):
    return compare_methods(*rings, *COMPARED)


# In the first network, and in the third, beside two that are done.
@pytest.mark.parametrize("epochs", [1, 7])
def test_an_interrupted_comparison_ends_with_the_same_weights(rings, uninterrupted, tmp_path, epochs):
    def attempt(progress=SILENT, **permissions):
        with unfinished_trainings(
            tmp_path / "m", **{"resume": False, "force": False} | permissions
        ) as folder:
            return compare_methods(*rings, *COMPARED, folder=folder, progress=progress)

    with pytest.raises(KeyboardInterrupt):
        attempt(Interrupting(epochs))
    with pytest.raises(OrdtoolError, match="an interrupted run left this"):
        attempt()
    found = attempt(resume=True)
    assert not (tmp_path / "m.partial").exists()
    for one, other in zip(uninterrupted, found, strict=True):
        assert (one.accuracies, one.dependence) == (other.accuracies, other.dependence)
        for name, tensor in one.first.state_dict().items():
            assert torch.equal(tensor, other.first.state_dict()[name]), name


def test_a_training_is_resumed_with_its_own_data_and_settings(rings, tmp_path):
    train, other = rings
    folder, options = tmp_path / "m", {**SMALL, "epochs": 3}
    with pytest.raises(KeyboardInterrupt):
        train_bottleneck(train, folder, progress=Interrupting(2), **options)
    with pytest.raises(OrdtoolError, match="other settings \\(beta\\)"):
        train_bottleneck(train, folder, resume=True, beta=3, **options)
    with pytest.raises(OrdtoolError, match="the input has changed"):
        train_bottleneck(other, folder, resume=True, **options)
    found = train_bottleneck(train, folder, resume=True, **options)
    assert found.losses == train_bottleneck(train, **options).losses
    with pytest.raises(UsageError, match="needs the folder"):
        train_bottleneck(train, resume=True, **options)


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_a_damaged_checkpoint_is_one_line(rings, tmp_path, damage):
    options = {**SMALL, "epochs": 3}
    with pytest.raises(KeyboardInterrupt):
        train_bottleneck(rings[0], tmp_path / "m", progress=Interrupting(2), **options)
    file = tmp_path / "m.partial" / "hsic-0.safetensors"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:100])
    else:
        write_checkpoint(file, {}, {"values": [], "means": [], "seconds": 1, "done": True})
    with pytest.raises(OrdtoolError, match="not a readable checkpoint|damaged"):
        train_bottleneck(rings[0], tmp_path / "m", resume=True, **options)
