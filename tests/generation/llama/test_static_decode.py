"""Buffers of fixed shapes give the texts of the plain loop, on any device; a graph is only a faster way to the same."""

import pytest

from ordtool.generation.config import Decoding
from ordtool.generation.engine import Prompt, TextGenerator
from ordtool.generation.llama import static_decode
from ordtool.generation.llama.fast_start import FastStartBackend
from ordtool.generation.llama.static_decode import bucket_of
from ordtool.generation.prompts import PromptStyle
from ordtool.io.text import Record
from ordtool.models.entries import catalogue, model_folder

TEXTS = [
    "the cat",
    "a dog ran under the tree and then",
    "bird",
    "the river was not red and it sang on the old tree near a small cat",
    "tree",
    "not a bird " * 12,
]


@pytest.fixture(scope="module")
def pairs(writers):
    """The same model token by token, and in buffers of eight rows."""
    made = {}

    def get(name):
        if name not in made:
            folder = model_folder(catalogue()[name]) if name == "tinylm" else writers(name)
            plain = TextGenerator(folder, device="cpu", fast_start=True)
            static = TextGenerator(folder, device="cpu", fast_start=True)
            old = static.backend
            static.backend = FastStartBackend(old.model, old.pad, old.context, old.stops, rows=8)
            made[name] = plain, static
        return made[name]

    return get


def prompts(generator, texts=TEXTS):
    records = [Record("x", number, text) for number, text in enumerate(texts, start=1)]
    return [Prompt(i, record, generator.encode(record, PromptStyle())) for i, record in enumerate(records)]


OPTIONS = [
    {},
    {"repetition_penalty": 1.7},
    {"no_repeat_ngram": 2},
    {"temperature": 0.9, "n": 3, "top_k": 50, "top_p": 0.95, "min_p": 0.001, "typical": 0.9},
    {"temperature": 1.5, "repetition_penalty": 1.3, "seed": 3},
    {"logprobs": True},
    {"stop": ("e", "an")},
    {"choices": ("cat", "the old tree", "dog")},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", ["llama", "chat", "tinylm"])
def test_the_texts_of_the_plain_loop(pairs, name, options):
    decoding = Decoding(**{"max_new_tokens": 21, **options})
    plain, static = (g.run(prompts(g), decoding) for g in pairs(name))
    assert static == plain


def test_a_text_is_the_same_alone(pairs):
    _, static = pairs("llama")
    batch = prompts(static)
    for options in ({}, {"temperature": 0.8}):
        decoding = Decoding(max_new_tokens=12, **options)
        assert static.run(batch, decoding) == [static.run([prompt], decoding)[0] for prompt in batch]


@pytest.mark.parametrize("stops", [(), ("e ",)])
def test_the_same_pieces(pairs, stops):
    pieces = []
    for generator in pairs("llama"):
        came = []
        decoding = Decoding(max_new_tokens=15, stop=stops)
        list(generator.stream([Record("x", 1, text) for text in TEXTS], decoding, write=came.append))
        pieces.append(came)
    assert pieces[0] == pieces[1] and len(pieces[0]) > 10


def test_shapes_do_not_depend_on_what_is_written(pairs, monkeypatch):
    """Whatever the prompts, a step has the rows of the batch and a block of prompts the tokens of a block."""
    _, static = pairs("llama")
    seen = set()
    model = static.backend.model
    real = model.states

    def states(ids, *others):
        seen.add(tuple(ids.shape))
        return real(ids, *others)

    monkeypatch.setattr(model, "states", states)
    static.run(prompts(static), Decoding(max_new_tokens=3))
    static.run(prompts(static, TEXTS[:1]), Decoding(max_new_tokens=3))
    assert {shape for shape in seen if shape[1] == 1} == {(8, 1)}
    blocks = {shape for shape in seen if shape[1] > 1}
    assert all(rows * length <= static_decode.READ_TOKENS < (rows + 1) * length for rows, length in blocks)
    assert len(blocks) == len({length for _, length in blocks})


def test_writing_stops_soon_after_all_texts_have_ended(pairs, monkeypatch):
    _, static = pairs("llama")
    steps = []
    decoder = static.backend._static
    real = decoder._step
    monkeypatch.setattr(decoder, "_step", lambda *arguments: steps.append(1) or real(*arguments))
    results = static.run(
        prompts(static, TEXTS[:3]), Decoding(max_new_tokens=30, stop=("e", "a", "o", "t", "i"))
    )
    assert all(result.outputs[0].finish_reason == "stop" for result in results)
    assert len(steps) < 30 and len(steps) % static_decode.CHECK_EVERY == 0


def test_buckets():
    lengths = range(1, 5000)
    sizes = [bucket_of(length) for length in lengths]
    assert all(size >= length for size, length in zip(sizes, lengths, strict=True))
    assert sizes == sorted(sizes) and max(s / n for s, n in zip(sizes, lengths, strict=True) if n > 64) < 1.5
    assert len(set(sizes)) == 14
