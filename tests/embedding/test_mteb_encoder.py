"""The encoder that mteb takes, by mteb's protocol: batches of columns in, an array out, cosines."""

import numpy as np
import pytest

import ordtool
from ordtool.embedding.mteb_encoder import MtebEncoder
from ordtool.errors import UsageError

TEXTS = ["A cat sleeps.", "Prices rose.", "The dog ran away.", "A cat sleeps."]


@pytest.fixture
def whitened(tmp_path):
    rows = ordtool.embed([f"{text} {n}" for text in TEXTS for n in range(30)], model="static")
    ordtool.Whitening(dims=8).fit(rows).save(tmp_path / "t.safetensors")
    return MtebEncoder("static", transform=tmp_path / "t.safetensors")


def test_batches_of_columns_and_plain_texts_give_whitened_vectors(whitened):
    expected = whitened.transform.transform(ordtool.embed(TEXTS, model="static"))
    batches = [{"text": TEXTS[:3], "id": ["a", "b", "c"]}, {"text": TEXTS[3:]}]
    found = whitened.encode(
        batches, task_metadata=None, hf_split="test", hf_subset="default", prompt_type=None
    )
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_array_equal(whitened.encode(TEXTS, task_name="any"), found)
    raw = MtebEncoder("static").encode(TEXTS)
    np.testing.assert_array_equal(raw, ordtool.embed(TEXTS, model="static"))


def test_similarities_are_cosines(whitened):
    rows = whitened.encode(TEXTS)
    every = whitened.similarity(rows, rows[:2])
    assert every.shape == (4, 2)
    for i in range(4):
        for j in range(2):
            lengths = np.linalg.norm(rows[i]) * np.linalg.norm(rows[j])
            assert every[i, j] == pytest.approx(rows[i] @ rows[j] / lengths, rel=1e-5)
    np.testing.assert_allclose(whitened.similarity_pairwise(rows, rows[::-1])[[0, 3]], 1, rtol=1e-6)
    assert whitened.similarity(rows[0], rows[0]).shape == (1, 1)


def test_layers_apart_are_refused():
    with pytest.raises(UsageError, match="one vector a text"):
        MtebEncoder("static", layers="all")


def test_it_is_mteb_s_protocol(whitened):
    models = pytest.importorskip("mteb.models")
    assert isinstance(whitened, models.EncoderProtocol)
    meta = whitened.mteb_model_meta
    assert (meta.name, meta.embed_dim) == ("ordtool/static-whitened", 8)
