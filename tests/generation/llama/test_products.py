"""The products of a single row by numba, against float64 and torch's own."""

import json
import subprocess
import sys

import pytest
import torch
from torch.nn.functional import linear
from transformers import LlamaConfig, LlamaForCausalLM

from ordtool.generation.llama.llama import read_llama
from ordtool.generation.llama.products import choose_row_product, row_product
from ordtool.runtime import use_threads

pytest.importorskip("numba")
CPU = torch.device("cpu")


def draw(*size, dtype=torch.float32, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_row_times_matrices_is_that_of_float64(dtype):
    row = draw(1, 1, 577, dtype=dtype)
    for rows in (331, 1):
        matrix = draw(rows, 577, dtype=dtype, seed=rows)
        found = row_product(row, matrix)
        exact = row.double() @ matrix.double().T
        assert found.dtype == dtype
        assert found.shape == (1, 1, rows)
        if dtype == torch.bfloat16:  # half a unit of its eight bits
            assert ((found.double() - exact).abs() <= 2**-8 * (exact.abs() + 1e-3)).all()
        else:
            scale = row.double().abs() @ matrix.double().abs().T
            assert ((found.double() - exact).abs() <= 1e-6 * scale).all()


def test_infinities_and_nan_stay():
    row = torch.tensor([[1.0, float("inf"), 2.0]])
    matrix = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, -1.0, 0.0]])
    found = row_product(row, matrix)
    assert found[0, 0] == torch.inf
    assert found[0, 1].isnan()
    assert found[0, 2] == -torch.inf


def test_numba_only_for_what_it_can_and_what_is_worth_it():
    small, large = torch.zeros(8, 8), torch.zeros(4096, 4096)
    with use_threads(2):
        assert choose_row_product([small]) is linear
        assert choose_row_product([large, torch.zeros(4096)]) is row_product
        assert choose_row_product([large], "torch") is linear
        assert choose_row_product([small], "numba") is row_product
        assert choose_row_product([large, torch.zeros(64, 64, dtype=torch.float16)]) is linear
        assert choose_row_product([large, torch.zeros(64, 32).T]) is linear
    with use_threads(8):
        assert choose_row_product([large]) is linear
    with pytest.raises(ValueError, match="float32 and bfloat16"):
        choose_row_product([small.double()], "numba")
    with pytest.raises(ValueError, match="unknown kernel"):
        choose_row_product([small], "fortran")


def test_a_model_writes_by_it_what_float64_says(tmp_path):
    torch.manual_seed(1)
    config = LlamaConfig(
        hidden_size=24, intermediate_size=40, num_hidden_layers=3, vocab_size=331, initializer_range=0.3,
        num_attention_heads=6, num_key_value_heads=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    read = json.loads((tmp_path / "config.json").read_text())
    kinds = (("numba", torch.float32), ("torch", torch.float32), ("torch", torch.float64))
    models = {kind: read_llama(tmp_path, read, CPU, kind[1], kind[0]) for kind in kinds}
    ids = torch.randint(3, 331, (1, 9), generator=torch.Generator().manual_seed(2))
    logits = {}
    for key, model in models.items():
        out = model(ids)
        steps = []
        for token in range(5):
            out = model(torch.tensor([[token * 60 + 5]]), cache=out.cache)
            steps.append(out.logits[0, -1].double())
        logits[key] = torch.stack(steps)
    exact = logits["torch", torch.float64]
    assert (logits["numba", torch.float32] - exact).abs().max() < 1e-5 * exact.abs().max()
    assert not torch.equal(logits["numba", torch.float32], logits["torch", torch.float32])  # numba did run


def test_numba_is_not_waited_for_before_the_first_token(tmp_path):
    torch.manual_seed(1)
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=11, **shape)).save_pretrained(tmp_path)
    code = """
import json, sys, torch
from pathlib import Path
from ordtool.generation.llama.llama import read_llama
from ordtool.runtime import use_threads
folder = Path(sys.argv[1])
model = read_llama(folder, json.loads((folder / "config.json").read_text()), torch.device("cpu"), torch.float32, "numba")
out = model(torch.tensor([[1, 2, 3]]), logits_to_keep=1)
print("numba" in sys.modules)
model(torch.tensor([[4]]), cache=out.cache)
print("numba" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
