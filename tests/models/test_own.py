"""Models of ordtool's own are known wherever a folder is loaded."""

import json
from pathlib import Path

import pytest

CODE = """
import sys
from pathlib import Path
from ordtool.models.loading import load_config, load_model
folder = Path(sys.argv[1])
print(load_config(folder).model_type, type(load_model(folder, sys.argv[2]).model).__name__)
"""


@pytest.mark.parametrize(
    ("kind", "head", "wanted"),
    [("own", "base", "ordtool_lm OrdtoolLMModel"), ("unilm", "causal", "ordtool_unilm UnilmForSeq2Seq")],
)
def test_the_loader_knows_them_in_a_new_process(kind, head, wanted, writers, launcher, tmp_path):
    done = launcher.run(["-c", CODE, writers(kind), head], cwd=tmp_path)
    assert done.stdout.decode().strip() == wanted, done.stderr


def test_ladders_stand_beside_a_model_of_train_lm(run_forked, run_in_process, writers, tmp_path):
    rows = [{"text": f"the {'cat' if i % 2 else 'tree'} sat", "label": "ab"[i % 2]} for i in range(32)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fast = ("-r", 2, "--epochs", 2, "--batch-size", 8, "--cache-dir", "states", "-m", writers("own"))
    for task, output in (("classify", "c"), ("lm", "l")):
        done = run_in_process(
            "train", "ladder", "a.jsonl", "--task", task, "--max-length", 32, "-o", output, *fast
        )
        assert done.returncode == 0, done.stderr
    # In a process that has loaded nothing of ordtool yet.
    done = run_forked("predict", "a.jsonl", "-m", "c")
    assert done.returncode == 0 and "on 32 records that had a label" in done.stderr
    greedy = ("-m", "l", "-p", "the cat", "--max-new-tokens", 6)
    cached = run_in_process("generate", *greedy)
    assert cached.returncode == 0, cached.stderr
    assert json.loads(cached.stdout)["output"] == continued(tmp_path / "l", "the cat", 6)


def continued(folder: Path, prompt: str, tokens: int) -> str:
    """The likeliest tokens after a prompt, all of it read again for each."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    start = ids.shape[1]
    for _ in range(tokens):
        with torch.no_grad():
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
    return tokenizer.decode(ids[0, start:])
