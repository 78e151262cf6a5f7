"""A model's own mask over its attention: against the softmax of its scores, as characters and as a picture."""

import numpy as np
import pytest
import torch

from ordtool.errors import UsageError
from ordtool.generation.attention_map import attention_map
from ordtool.models.loading import load_model, load_tokenizer


def test_a_bert_against_its_scores(encoders):
    folder = encoders("bert")
    found = attention_map(folder, "the cat sat", 1)
    assert found.visible.all() and (found.layer, found.layers) == (1, 3)
    model = load_model(folder, "base").model
    ids = torch.tensor([load_tokenizer(folder)("the cat sat")["input_ids"]])
    assert len(found.tokens) == ids.shape[1]
    attention, hidden = model.encoder.layer[0].attention.self, model.embeddings(ids)[0]
    mean, heads = 0, attention.num_attention_heads
    for head in range(heads):
        size = hidden.shape[1] // heads
        rows = slice(head * size, (head + 1) * size)
        query, key = (hidden @ m.weight[rows].T + m.bias[rows] for m in (attention.query, attention.key))
        mean = mean + (query @ key.T / size**0.5).softmax(-1) / heads
    np.testing.assert_allclose(found.weights, mean.detach().numpy(), rtol=1e-4, atol=1e-6)
    with pytest.raises(UsageError, match="has 3 layers"):
        attention_map(folder, "the cat", 4)
    with pytest.raises(UsageError, match="tokens"):
        attention_map(folder, "cat " * 65)


def test_a_causal_model_from_the_command(run_in_process, fails_in_process, writers, tmp_path):
    model = writers("llama")
    ours = ["generate", "--show-mask", "-m", model, "--text", "the cat sat"]
    done = run_in_process(*ours)
    assert done.returncode == 0, done.stderr
    rows = done.stdout.decode().splitlines()[2:-1]
    count = len(rows)
    for place, row in enumerate(rows, start=1):
        cells = row[len(str(count)) + 1 :][: 2 * count : 2]
        assert [cell == "·" for cell in cells] == [key > place for key in range(1, count + 1)]
    assert len(attention_map(model, "the cat sat").tokens) == count
    assert run_in_process(*ours, "-o", "m.svg").returncode == 0
    first = (tmp_path / "m.svg").read_bytes()
    assert b"hidden by the mask" in first and b"cat" in first
    assert "exists" in fails_in_process(*ours, "-o", "m.svg")
    assert run_in_process(*ours, "-o", "m.svg", "--force").returncode == 0
    assert (tmp_path / "m.svg").read_bytes() == first
    assert "one text" in fails_in_process("generate", "--show-mask", "-m", model, status=2)
    assert "did you mean 'causal'" in fails_in_process("generate", "--show-mask", "casual", status=2)
    reversed_rows = run_in_process("generate", "--show-mask", "reversed").stdout.decode().splitlines()[1:]
    assert [row.count("■") for row in reversed_rows] == [8, 7, 6, 5, 4, 3, 2, 1]
