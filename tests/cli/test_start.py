"""What commands import before their first result: a start takes as long as its imports."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ordtool.tuning.training import train_ladder

QUESTIONS = Path(__file__).parents[2] / "examples" / "questions.jsonl"
# Seconds each, and needed for none of it.
NEVER = (
    "sklearn", "sentence_transformers", "pandas", "matplotlib", "nltk", "numba", "datasets", "torchvision",
    "torch._inductor.compile_fx", "transformers.trainer", "transformers.pipelines", "ordtool.parsing", "ordtool.embedding",
    "ordtool.extrapolation", "ordtool.tuning",
)  # fmt: skip
HEAVY = (
    "transformers", "huggingface_hub", "scipy", "accelerate", "sympy", "torch._dynamo", "torch._inductor",
    "torch.distributed.tensor", "torch.distributed.checkpoint",
)  # fmt: skip
CODE = """
import json, sys
from ordtool.cli.app import main
try:
    main(sys.argv[1:])
finally:
    print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


@pytest.fixture
def imported(tmp_path):
    """Run a command in a process of its own: its first line, and the modules that it imported."""

    def call(command, *args, stdin=""):
        done = subprocess.run(
            [sys.executable, "-c", CODE, *command.split(), *map(str, args), "--device", "cpu", "-q"],
            capture_output=True,
            text=True,
            input=stdin,
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "100"},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[0]), set(json.loads(done.stderr.splitlines()[-1]))

    return call


@pytest.mark.parametrize(
    "args",
    [
        ("-m", "tinylm", "-p", "The capital of France is"),
        ("-m", "tinylm", "-p", "Once", "--stop", "zebra", "--logprobs", "--max-new-tokens", 4),
        ("-m", "tinylm", "-p", "Once", "--choices", "upon,a time"),
        ("-m", "tinylm", "-p", "Once", "--temperature", 0.7, "--top-p", 0.9, "--repetition-penalty", 1.2),
    ],
    ids=["greedy", "stop", "choices", "drawn"],
)
def test_a_plain_model_starts_without_transformers(imported, args):
    found, modules = imported("generate", *args)
    assert found["output"]
    assert "torch" in modules and "ordtool.generation.llama.fast_start" in modules
    assert not [name for name in (*HEAVY, *NEVER) if name in modules]


def test_a_chat_starts_without_transformers(imported, writers):
    _, modules = imported("generate", "-m", writers("chat"), "-p", "the cat", "--max-new-tokens", 4)
    assert not [name for name in (*HEAVY, *NEVER) if name in modules]


def test_another_model_starts_without_what_it_does_not_need(imported, writers):
    _, modules = imported("generate", "-m", writers("gpt2"), "-p", "the cat", "--max-new-tokens", 4)
    from transformers.generation import candidate_generator

    assert "transformers" in modules
    # Releases up to 5.21 import scikit-learn themselves, wherever it is installed.
    theirs = {"sklearn"} if hasattr(candidate_generator, "roc_curve") else set()
    assert not [name for name in NEVER if name in modules and name not in theirs]


def heavy_among(modules):
    return [name for name in (*HEAVY, "sklearn", "pandas", "matplotlib", "numba") if name in modules]


def test_a_plain_bert_embeds_without_transformers(imported, encoders):
    found, modules = imported("embed", "--json", "-m", encoders("plain-bert"), stdin="the cat sat\n")
    assert len(found["vector"]) == 24
    assert "torch" in modules and heavy_among(modules) == []


def test_pairs_are_scored_without_transformers(imported, encoders):
    pairs = "the cat\ta dog\t1\na tree\tthe river\t3\nold\tnear\t2\n"
    found, modules = imported("score similarity", "--json", "-m", encoders("plain-bert"), "-", stdin=pairs)
    assert found["pairs"] == 3
    assert heavy_among(modules) == []


def test_a_ladder_beside_a_plain_bert_labels_without_transformers(imported, encoders, tmp_path):
    train_ladder(QUESTIONS, tmp_path / "ladder", model=str(encoders("plain-bert")), epochs=1)
    found, modules = imported("predict", "-m", tmp_path / "ladder", stdin="Who was Galileo?\n")
    assert found["prediction"] in ("number", "person", "place", "thing")
    assert heavy_among(modules) == []
