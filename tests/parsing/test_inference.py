"""Distances for parsing: the bfloat16 scan of numba beside the one that training uses."""

import pytest
import torch

from ordtool.parsing.onlstm.inference import DistanceModel
from ordtool.parsing.onlstm.kernels_torch import numba_available
from ordtool.parsing.onlstm.scan import ordered_scan
from ordtool.parsing.text.vocabulary import Vocabulary

needs_numba = pytest.mark.skipif(not numba_available(), reason="numba is not installed")
CHUNK, CHUNKS, INPUT = 3, 7, 11


def layer_tensors(generator, prefix, columns, size=CHUNK * CHUNKS):
    gates = 4 * size + 2 * (size // CHUNK)
    shapes = {
        "weight_ih": (gates, columns),
        "weight_hh": (gates, size),
        "bias_ih": (gates,),
        "bias_hh": (gates,),
    }
    return {f"{prefix}.{name}": torch.randn(shape, generator=generator) / 2 for name, shape in shapes.items()}


@pytest.fixture
def model():
    generator = torch.Generator().manual_seed(3)
    words = Vocabulary(["<eos>", "<unk>", *(f"w{k}" for k in range(20))])
    tensors = {"model.embed_tokens.weight": torch.randn(len(words.tokens), INPUT, generator=generator)}
    for k, columns in enumerate((INPUT, CHUNK * CHUNKS, CHUNK * CHUNKS)):
        tensors |= layer_tensors(generator, f"model.layers.{k}", columns)
    config = {"num_hidden_layers": 3, "chunk_size": CHUNK, "parse_layer": 2}
    return DistanceModel.from_parts(config, tensors, words, matmul_dtype=torch.bfloat16)


@needs_numba
@pytest.mark.parametrize("input_gate", ["paper", "reversed"])
def test_one_window_is_the_scan_of_training(input_gate):
    from ordtool.parsing.onlstm.kernels_bf16 import bf16_scan

    generator = torch.Generator().manual_seed(0)
    seq, batch, size = 5, 13, CHUNK * CHUNKS
    gates = 4 * size + 2 * CHUNKS
    inputs = (3 * torch.randn(seq, batch, gates, generator=generator)).bfloat16()
    weight, bias = torch.randn(gates, size, generator=generator), torch.randn(gates, generator=generator)
    hidden, cell = (
        torch.randn(batch, size, generator=generator),
        torch.randn(batch, size, generator=generator),
    )
    options = {"matmul_dtype": torch.bfloat16, "kernel": "torch", "input_gate": input_gate}
    expected = ordered_scan(inputs.float() + bias, weight, hidden, cell, CHUNK, **options)
    advanced = cell.clone()
    states, distances = bf16_scan(
        inputs, weight.bfloat16().t().contiguous(), bias, hidden.bfloat16(), advanced, CHUNK, input_gate
    )
    torch.testing.assert_close(distances, expected.distances, atol=2e-4, rtol=0)
    torch.testing.assert_close(advanced, expected.cell, atol=2e-2, rtol=0)
    # The first step sees the same products, so it differs only by float32's rounding, and h by bfloat16's.
    torch.testing.assert_close(distances[0], expected.distances[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(states[0], expected.hidden_states[0].bfloat16(), atol=0, rtol=2**-7)


@needs_numba
def test_compiled_loops_measure_what_torch_measures(model):
    sentences = [[5, 3, 9, 2, 2], [4], [7, 8, 9, 10, 11, 12, 13], [2] * 300]
    plain = model.distances(sentences)
    compiled = model.distances(sentences, compiled=True)
    for one, other in zip(plain, compiled, strict=True):
        assert one.shape == other.shape
        assert abs(one - other).max() < 5e-3
    assert len(model.distances(sentences, depth=2, compiled=True)[0]) == 2


@needs_numba
def test_padding_does_not_reach_a_sentence(model):
    (alone,) = model.distances([[5, 3, 9]], compiled=True)
    beside = model.distances([[5, 3, 9], [2] * 9], compiled=True)[0]
    assert abs(alone - beside).max() < 1e-6
