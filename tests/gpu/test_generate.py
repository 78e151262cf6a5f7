"""On a card texts are those of the CPU, and graphs those of the steps one by one."""

import pytest
import torch

from ordtool.generation.config import Decoding
from ordtool.generation.engine import Prompt, TextGenerator
from ordtool.generation.prompts import PromptStyle
from ordtool.io.text import Record

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
TEXTS = ["the cat", "a dog ran under the tree and then", "bird", "the river was not red", "tree " * 20]


@pytest.fixture(scope="module")
def generators(writers):
    made = {}

    def get(kind, device="cuda", dtype=torch.float32):
        key = kind, device, dtype
        if key not in made:
            made[key] = TextGenerator(writers(kind), device=device, dtype=dtype, fast_start=True)
        return made[key]

    return get


def write(generator, decoding, texts=TEXTS):
    records = [Record("x", number, text) for number, text in enumerate(texts, start=1)]
    prompts = [Prompt(i, record, generator.encode(record, PromptStyle())) for i, record in enumerate(records)]
    return generator.run(prompts, decoding)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"repetition_penalty": 1.7},
        {"no_repeat_ngram": 2},
        {"temperature": 0.9, "n": 3, "top_k": 50, "top_p": 0.95, "min_p": 0.001, "typical": 0.9},
        {"temperature": 1.2},
        {"stop": ("e", "an")},
        {"choices": ("cat", "the old tree")},
        {"beams": 3},
    ],
    ids=str,
)
def test_the_texts_of_the_cpu(generators, options):
    decoding = Decoding(max_new_tokens=20, **options)
    there, here = (write(generators("llama", device), decoding) for device in ("cuda", "cpu"))
    assert [[o.text for o in r.outputs] for r in there] == [[o.text for o in r.outputs] for r in here]


def test_steps_are_graphs(generators):
    generator = generators("llama")
    write(generator, Decoding(max_new_tokens=5))
    assert generator.backend.notes == [] and generator.backend._static._graphs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", [{}, {"temperature": 0.8}], ids=str)
def test_a_text_is_the_same_alone(generators, dtype, options):
    generator = generators("flat", dtype=dtype)
    decoding = Decoding(max_new_tokens=12, **options)
    assert write(generator, decoding)[0] == write(generator, decoding, TEXTS[:1])[0]
