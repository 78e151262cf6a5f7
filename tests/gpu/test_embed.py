"""On a card vectors are those of the CPU."""

import numpy as np
import pytest
import torch

from ordtool.embedding.encoder import EncoderConfig, encode
from ordtool.embedding.loading import load_encoder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
WORDS = "the cat sat on a mat and an old river sang near red bird tree".split()
DRAW = np.random.default_rng(0)
TEXTS = ["", *(" ".join(DRAW.choice(WORDS, size)) for size in DRAW.integers(1, 30, 3000))]


def vectors(folder, **options):
    return encode(load_encoder(EncoderConfig(model=str(folder), **options)), TEXTS)


@pytest.mark.parametrize("pooling", ["mean", "cls,max", "last"])
@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_vectors_of_the_cpu(encoders, kind, pooling):
    options = {"dtype": "float32", "pooling": pooling}
    there = vectors(encoders(kind), device="cuda", batch_tokens=4000, **options)
    here = vectors(encoders(kind), device="cpu", **options)
    np.testing.assert_allclose(there, here, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_halves_stay_near(encoders, dtype):
    exact = vectors(encoders("bert"), device="cpu", dtype="float32")[1:]
    near = vectors(encoders("bert"), device="cuda", dtype=dtype)[1:]
    cosines = (exact * near).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(near, axis=1)
    assert cosines.min() > 0.999


def test_plain_bert_takes_the_packed_pass(encoders):
    assert load_encoder(EncoderConfig(model=str(encoders("bert")), device="cuda"))._packed
