"""What `ordtool generate` imports before its first token: a start takes as long as its imports."""

import json
import os
import subprocess
import sys

import pytest

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
    """Run a command in a process of its own: its output, and the modules that it imported."""

    def call(*args):
        done = subprocess.run(
            [sys.executable, "-c", CODE, "generate", *map(str, args), "--device", "cpu", "-q"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "100"},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["output"], set(json.loads(done.stderr.splitlines()[-1]))

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
    output, modules = imported(*args)
    assert output
    assert "torch" in modules and "ordtool.generation.llama.fast_start" in modules
    assert not [name for name in (*HEAVY, *NEVER) if name in modules]


def test_a_chat_starts_without_transformers(imported, writers):
    _, modules = imported("-m", writers("chat"), "-p", "the cat", "--max-new-tokens", 4)
    assert not [name for name in (*HEAVY, *NEVER) if name in modules]


def test_another_model_starts_without_what_it_does_not_need(imported, writers):
    _, modules = imported("-m", writers("gpt2"), "-p", "the cat", "--max-new-tokens", 4)
    from transformers.generation import candidate_generator

    assert "transformers" in modules
    # Releases up to 5.21 import scikit-learn themselves, wherever it is installed.
    theirs = {"sklearn"} if hasattr(candidate_generator, "roc_curve") else set()
    assert not [name for name in NEVER if name in modules and name not in theirs]
