"""Master gates over a sentence, against the equations in float64, and what is drawn and built from them."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ordtool import OrdtoolError, Parser, UsageError, parse
from ordtool.parsing.config import ParseConfig
from ordtool.parsing.loading import load_parser
from ordtool.parsing.onlstm.gates import draw_gates, write_gates
from ordtool.parsing.trees.builders import paper_spans

TEXT = "the old cat sat on the mat."
WORDS = TEXT[:-1].split()


def gates_of(folder, ids):
    """Both master gates of every layer, word by word, by the paper's equations in float64."""
    tensors = {name: tensor.double() for name, tensor in load_file(folder / "model.safetensors").items()}
    config = json.loads((folder / "config.json").read_text())
    chunk, found = config["chunk_size"], []
    inputs = [tensors["model.embed_tokens.weight"][k] for k in [config["eos_token_id"], *ids]]
    for k in range(config["num_hidden_layers"]):
        w, u, b, v = (
            tensors[f"model.layers.{k}.{name}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        size = u.shape[1]
        n = size // chunk
        h = c = torch.zeros(size, dtype=torch.float64)
        outputs, forgets, written = [], [], []
        for x in inputs:
            z_mi, z_mf, z_o, z_c, z_i, z_f = (w @ x + u @ h + b + v).split([n, n, size, size, size, size])
            f_master = torch.cumsum(torch.softmax(z_mf, 0), 0)
            into = torch.softmax(z_mi, 0)
            i_master = 1 - torch.cumsum(into, 0)
            if config.get("input_gate") == "reversed":
                i_master = torch.stack([into[k:].sum() for k in range(n)])
            f_wide, i_wide = (gate.repeat_interleave(chunk) for gate in (f_master, i_master))
            overlap = f_wide * i_wide
            c = (torch.sigmoid(z_f) * overlap + f_wide - overlap) * c
            c = c + (torch.sigmoid(z_i) * overlap + i_wide - overlap) * torch.tanh(z_c)
            h = torch.sigmoid(z_o) * torch.tanh(c)
            outputs.append(h)
            forgets.append(f_master)
            written.append(i_master)
        found.append((torch.stack(forgets[1:]).numpy(), torch.stack(written[1:]).numpy()))
        inputs = outputs
    return found


def config(folder, **options):
    return ParseConfig(model=str(folder), dtype="float32", device="cpu", **options)


@pytest.fixture(params=["paper", "reversed"])
def folder(request, parsers, tmp_path):
    """A parser with either form of the input gate; the paper's is that of a folder that doesn't say."""
    if request.param == "paper":
        return parsers()
    made = shutil.copytree(parsers(), tmp_path / "reversed")
    settings = json.loads((made / "config.json").read_text()) | {"input_gate": request.param}
    (made / "config.json").write_text(json.dumps(settings))
    return made


def test_gates_are_those_of_the_equations(folder):
    found = Parser(config(folder)).gates(TEXT)
    [ids] = load_parser(folder).vocabulary.encode_words([WORDS])
    expected = gates_of(folder, ids)
    assert found.words == WORDS and len(found.forget) == len(found.input) == len(expected) == 3
    for forget, written, (f_master, i_master) in zip(found.forget, found.input, expected, strict=True):
        np.testing.assert_allclose(forget, f_master, atol=1e-5)
        np.testing.assert_allclose(written, i_master, atol=1e-5)
    np.testing.assert_allclose(found.forget_distances, [1 - f.mean(1) for f, _ in expected], atol=1e-5)
    np.testing.assert_allclose(found.input_distances, [i.mean(1) for _, i in expected], atol=1e-5)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("words", [7, 600])  # one window and several
def test_both_distances_are_means_of_the_gates(folder, compiled, words):
    reader = load_parser(folder)
    ids = np.random.default_rng(0).integers(4, 20, words).tolist()
    expected = gates_of(folder, ids)
    for gate, mean in (
        ("forget", [1 - f.mean(1) for f, _ in expected]),
        ("input", [i.mean(1) for _, i in expected]),
    ):
        [found] = reader.distances([ids], compiled=compiled, gate=gate)
        np.testing.assert_allclose(found, mean, atol=2e-5)


def test_trees_of_the_input_gate(parsers):
    [result] = parse([TEXT], config(parsers(), distance="input", layer="3"))
    heights = Parser(config(parsers())).gates(TEXT).input_distances[2]
    np.testing.assert_allclose(result.distances[:-1], heights, atol=1e-6)
    assert {s for s in result.spans if s != (0, 8)} == set(paper_spans(heights)) - {(0, 7)}


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_a_picture(parsers, tmp_path, suffix):
    gates = Parser(config(parsers())).gates(TEXT)
    axes = draw_gates(gates).axes
    drawn = np.array(axes[0].images[0].get_array())  # on top: the last layer's forget gate
    np.testing.assert_array_equal(drawn, gates.forget[2].T)
    line = axes[0].lines[0].get_ydata()
    np.testing.assert_allclose((line + 0.5) / drawn.shape[0], gates.forget_distances[2])
    for name in ("a", "b"):
        write_gates(gates, tmp_path / f"{name}.{suffix}")
    a, b = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in ("a", "b"))
    assert a == b and a.startswith(b"<?xml" if suffix == "svg" else b"\x89PNG")


def test_json_from_the_shell(run_in_process, parsers, tmp_path):
    options = ("--dtype", "float32", "--device", "cpu", "--gates", "gates.json")
    done = run_in_process("parse", "-m", parsers(), *options, stdin=TEXT.encode() + b"\n\n")
    assert done.returncode == 0 and done.stdout == b"", done.stderr
    found = json.loads((tmp_path / "gates.json").read_text())
    gates = Parser(config(parsers())).gates(WORDS)
    assert found["words"] == WORDS and [layer["layer"] for layer in found["layers"]] == [1, 2, 3]
    np.testing.assert_allclose(found["layers"][1]["input"], gates.input[1], atol=1e-6)
    np.testing.assert_allclose(found["layers"][2]["forget_distances"], gates.forget_distances[2], atol=1e-6)


@pytest.mark.parametrize(
    ("args", "text", "message"),
    [
        (["-m", "english", "--gates", "a.svg"], "it sat", "a span scorer has no master gates"),
        (["-m", "english", "--distance", "input"], "it sat", "-m english-onlstm"),
        (["-m", "english-onlstm", "-m", "english-onlstm", "--gates", "a.svg"], "it sat", "of one model"),
        (["-m", "english-onlstm", "--gates", "a.svg"], "it sat\nit ran", "more than one"),
        (["-m", "english-onlstm", "--gates", "a.svg"], "...", "no word"),
        (["--gates", "a.txt"], "it sat", "a plot is one of"),
        (["--gates", "a.svg", "-o", "b.jsonl"], "it sat", "leave one of them out"),
    ],
)
def test_what_has_no_gates(run_in_process, tmp_path, args, text, message):
    done = run_in_process("parse", *args, stdin=text.encode())
    assert done.returncode in (1, 2) and message in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_unknown_distance():
    with pytest.raises(UsageError, match="unknown `distance` 'imput'"):
        ParseConfig(distance="imput")


@pytest.fixture
def both(parsers, tmp_path):
    """A parser of two models that read in two directions, and each of them alone, as it would read a text from the left."""
    weights = {}
    for name, seed in (("forward", 1), ("backward", 2)):
        weights[name] = shutil.copytree(parsers(), tmp_path / name)
        random = torch.Generator().manual_seed(seed)
        tensors = load_file(weights[name] / "model.safetensors")
        tensors = {key: torch.randn(x.shape, generator=random) * 0.5 for key, x in tensors.items()}
        save_file(tensors, weights[name] / "model.safetensors")
    made = shutil.copytree(weights["forward"], tmp_path / "both")
    settings = json.loads((made / "config.json").read_text())
    settings.pop("parse_layer_weights", None)
    (made / "config.json").write_text(json.dumps(settings | {"direction": "both", "parse_layer": 2}))
    (made / "backward").mkdir()
    for file in ("config.json", "model.safetensors"):
        shutil.copy(weights["backward"] / file, made / "backward" / file)
    (made / "backward" / "config.json").write_text(json.dumps(settings | {"direction": "backward"}))
    return made, weights["forward"], weights["backward"]


def single(folder, words):
    """Distances of every layer by a model that reads words from the left, in float64: `(layers, words)`."""
    [ids] = load_parser(folder).vocabulary.encode_words([words])
    gates = gates_of(folder, ids)
    return np.stack([1 - f.mean(1) for f, _ in gates]), np.stack([i.mean(1) for _, i in gates])


@pytest.mark.parametrize("gate", ["forget", "input"])
def test_two_directions_are_two_models_on_the_sentence_and_its_reversal(both, gate):
    folder, forward, backward = both
    which = ["forget", "input"].index(gate)
    left = single(forward, WORDS)[which]
    right = single(backward, WORDS[::-1])[which]
    n = len(WORDS)
    aligned = np.empty_like(right)
    for gap in range(
        1, n
    ):  # between word gap - 1 and word gap: crossed when the n - gap + 1-th word was read
        aligned[:, gap] = right[:, n - gap]
    aligned[:, 0] = aligned[:, 1:].mean(axis=1)
    reader = load_parser(folder)
    [ids] = reader.vocabulary.encode_words([WORDS])
    assert reader.layers == 6
    found = reader.distances([ids, ids[:3]], gate=gate)[0]
    np.testing.assert_allclose(found, np.concatenate((left, aligned)), atol=1e-5)
    np.testing.assert_allclose(reader.distances([ids], 5, gate=gate, compiled=True)[0], found[:5], atol=1e-5)
    # Without weights in its configuration: layer 2 of both, the mean of their standardised distances.
    [result] = parse([TEXT], config(folder, distance=gate))
    pair = np.stack((left[1], aligned[1]))
    standard = (pair - pair.mean(1, keepdims=True)) / pair.std(1, keepdims=True)
    mixed = standard.mean(0) * pair.std(1).mean() + pair.mean()
    np.testing.assert_allclose(result.distances[: len(WORDS)], mixed, atol=1e-5)
    assert {s for s in result.spans if s != (0, 8)} == set(paper_spans(mixed)) - {(0, 7)}
    [alone] = parse([TEXT], config(folder, distance=gate, layer="6"))
    np.testing.assert_allclose(alone.distances[: len(WORDS)], aligned[2], atol=1e-5)


def test_gates_of_two_directions(both):
    folder, _, backward = both
    gates = Parser(config(folder)).gates(TEXT)
    [ids] = load_parser(folder).vocabulary.encode_words([WORDS])
    for layer, (forget, written) in enumerate(gates_of(backward, ids[::-1])):
        np.testing.assert_allclose(gates.forget[3 + layer], forget[::-1], atol=1e-5)
        np.testing.assert_allclose(gates.input[3 + layer], written[::-1], atol=1e-5)
    assert [layer["backward"] for layer in gates.to_dict()["layers"]] == [False] * 3 + [True] * 3
    labels = [axes.get_ylabel() for axes in draw_gates(gates).axes]
    assert sum("from the right" in label for label in labels) == 3


@pytest.mark.parametrize("words", [0, 1])
def test_two_directions_of_short_sentences(both, words):
    reader = load_parser(both[0])
    assert reader.distances([[4] * words])[0].shape == (6, words)


def test_half_of_two_directions(both):
    folder = both[0]
    settings = json.loads((folder / "backward" / "config.json").read_text())
    (folder / "backward" / "config.json").write_text(json.dumps(settings | {"direction": "forward"}))
    with pytest.raises(OrdtoolError, match="one has to read forward, the other backward"):
        load_parser(folder)
    shutil.rmtree(folder / "backward")
    with pytest.raises(OrdtoolError, match="backward/config.json: can't be read"):
        load_parser(folder)
