"""`--compile`: what comes out is what comes out without; torch's compiler is asked for no code, so that it takes seconds."""

import json

import numpy as np
import pytest
import torch

from ordtool.embedding.encoder import EncoderConfig, encode
from ordtool.embedding.loading import load_encoder
from ordtool.errors import OrdtoolError
from ordtool.models import compiling


@pytest.fixture
def passes(monkeypatch):
    """Compile to torch's own operations, and count the passes that run compiled."""
    found = []

    def backend(graph, inputs):
        def run(*arguments):
            found.append(len(arguments))
            return graph.forward(*arguments)

        return run

    monkeypatch.setattr(compiling, "BACKEND", backend)
    torch.compiler.reset()
    yield found
    torch.compiler.reset()


@pytest.mark.slow
def test_what_is_written_compiled_is_what_is_written(passes, run_in_process, writers):
    prompts = b"the cat sat\nthe bird in the tree sat on\n"
    command = [
        "generate",
        "-m",
        writers("gpt2"),
        "--max-new-tokens",
        "5",
        "--device",
        "cpu",
        "--batch-size",
        "2",
    ]
    written = []
    for more in ([], ["--compile"]):
        assert not passes
        done = run_in_process(*command, *more, stdin=prompts)
        assert done.returncode == 0, done.stderr
        written.append([json.loads(line)["output"] for line in done.stdout.splitlines()])
    assert written[0] == written[1] and len(written[0]) == 2
    assert len(passes) > 4


def test_vectors_compiled_are_the_vectors(passes, encoders):
    folder = str(encoders("distilbert"))
    texts = ["the cat", "", "a dog sat on the mat", "the bird"]
    options = {"device": "cpu", "dtype": "float32", "batch_size": 2}
    plain = encode(load_encoder(EncoderConfig(folder, **options)), texts)
    assert not passes
    compiled = encode(load_encoder(EncoderConfig(folder, **options, compile=True)), texts)
    np.testing.assert_allclose(compiled, plain, atol=1e-6)
    assert passes


def test_what_has_code_of_its_own_is_left_alone(passes, run_in_process, encoders, writers):
    encoder = load_encoder(EncoderConfig(str(encoders("bert")), device="cpu", compile=True))
    assert any("nothing to compile" in note for note in encoder.notes)
    done = run_in_process(
        "generate",
        "-m",
        writers("llama"),
        "-p",
        "the cat",
        "--max-new-tokens",
        "2",
        "--compile",
        "--device",
        "cpu",
    )
    assert done.returncode == 0 and "nothing to compile" in done.stderr and not passes


def test_a_compiler_that_fails(monkeypatch, encoders):
    def backend(graph, inputs):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(compiling, "BACKEND", backend)
    torch.compiler.reset()
    with pytest.raises(OrdtoolError, match="can't compile this model here: .*no compiler here"):
        load_encoder(EncoderConfig(str(encoders("distilbert")), device="cpu", compile=True))
    torch.compiler.reset()


def test_what_does_not_go_together(fails_in_process, writers):
    command = ["generate", "-m", writers("gpt2"), "-p", "a", "--compile", "--context", "rerope"]
    assert "--compile and --context" in fails_in_process(*command, status=2)
