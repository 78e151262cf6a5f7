"""Texts read side by side, against the article's formula in loops over uncached forward passes."""

import json
import math

import pytest
import torch

from ordtool.errors import OrdtoolError, UsageError
from ordtool.generation.config import Decoding
from ordtool.generation.engine import TextGenerator
from ordtool.generation.generate_job import GenerateConfig
from ordtool.generation.nbce import pooled
from ordtool.generation.prompts import PromptStyle, Template
from ordtool.io.text import Record

STYLE = PromptStyle(Template("{texts} so {question}"), contexts="texts")
TEXTS = ["the cat was red", "a dog ran under the old tree and sang", "bird near river"]
RECORD = Record("x", 1, "", {"texts": TEXTS, "question": "the bird"})


@pytest.fixture(scope="module")
def generators(writers):
    return {kind: TextGenerator(writers(kind), device="cpu") for kind in ("llama", "gpt2", "t5")}


def cut(logits):
    """Log-probabilities of the likeliest tokens that hold 95% together; None for the others."""
    highest = max(logits)
    total = math.fsum(math.exp(value - highest) for value in logits)
    logs = [value - highest - math.log(total) for value in logits]
    kept, mass = set(), 0.0
    for token in sorted(range(len(logs)), key=lambda token: -logs[token]):
        kept.add(token)
        mass += math.exp(logs[token])
        if mass >= 0.95:
            break
    return [value if token in kept else None for token, value in enumerate(logs)]


def merged(rows, beta, last):
    """The formula for one step: scores by token, and which text decides."""
    without, *told = map(cut, rows)
    entropies = [-sum(math.exp(value) * value for value in row if value is not None) for row in told]
    if last is not None:
        entropies[last] -= 0.1
    decides = min(range(len(told)), key=lambda text: entropies[text])
    row = told[decides]
    scores = {
        token: value if without[token] is None else (1 + beta) * value - beta * without[token]
        for token, value in enumerate(row)
        if value is not None
    }
    return scores, decides


@torch.no_grad()
def loop(generator, beta, steps):
    """Greedy: every text with the question, no batch, no padding, no cache."""
    model, backend = generator.backend.model, generator.backend
    rows = [list(generator.encode(each, STYLE)) for each in STYLE.side_by_side(RECORD)]
    written, decided = [], []
    for _ in range(steps):
        logits = []
        for row in rows:
            if backend.continues:
                out = model(input_ids=torch.tensor([row + written]))
            else:
                decoder = torch.tensor([[backend.start, *written]])
                out = model(input_ids=torch.tensor([row]), decoder_input_ids=decoder)
            logits.append(out.logits[0, -1].double().tolist())
        scores, decides = merged(logits, beta, decided[-1] if decided else None)
        written.append(max(scores, key=scores.__getitem__))
        decided.append(decides)
        if written[-1] == 2:
            break
    return rows[0], written


@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5"])
@pytest.mark.parametrize("beta", [0.0, 0.25, 2.0])
def test_greedy_is_the_formula(kind, beta, generators):
    generator = generators[kind]
    question, wanted = loop(generator, beta, 10)
    decoding = Decoding(max_new_tokens=10, beta=beta)
    ((_, _, result),) = generator.stream([RECORD], decoding, STYLE)
    assert result.text == generator.codec.decode(generator.codec.before(question), wanted)


def test_one_step_is_the_formula():
    draw = torch.Generator().manual_seed(3)
    for beta, last in ((0.25, None), (0.25, 2), (-1.0, 0), (3.0, 1)):
        logits = torch.randn(4, 29, generator=draw, dtype=torch.float64) * 3
        found, decides = pooled(logits, beta, last)
        scores, wanted = merged(logits.tolist(), beta, last)
        assert decides == wanted
        assert {token for token, value in enumerate(found.tolist()) if value > -math.inf} == set(scores)
        assert all(found[token].item() == pytest.approx(value, abs=1e-4) for token, value in scores.items())


def test_draws_follow_their_seed_and_stops_end_them(generators):
    generator = generators["llama"]
    options = {"max_new_tokens": 12, "temperature": 2.0}
    found = [
        [
            result.text
            for _, _, result in generator.stream([RECORD, RECORD], Decoding(**options, seed=seed), STYLE)
        ]
        for seed in (1, 1, 2)
    ]
    assert found[0] == found[1] != found[2]
    assert found[0][0] != found[0][1]  # each record has draws of its own
    text = found[0][0]
    word = text.split()[1]
    ((_, _, result),) = generator.stream([RECORD], Decoding(**options, seed=1, stop=(word,)), STYLE)
    assert (result.text, result.outputs[0].finish_reason) == (text[: text.index(word)], "stop")


def test_texts_together_may_be_longer_than_the_context(generators):
    generator = generators["gpt2"]
    many = ["the old cat sang and the dog ran under a red tree"] * 40
    record = Record("x", 1, "", {"texts": many, "question": "the bird"})
    ((_, _, result),) = generator.stream([record], Decoding(max_new_tokens=3), STYLE)
    assert result.text
    joined = Record("x", 1, "", {"texts": " ".join(many), "question": "the bird"})
    with pytest.raises(OrdtoolError, match="the model's context is"):
        generator.encode(joined, PromptStyle(STYLE.template))


def test_what_makes_no_sense_is_refused(generators):
    for options in ({"beams": 2}, {"n": 2, "temperature": 1.0}, {"choices": ("a", "b")}, {"logprobs": True}):
        with pytest.raises(UsageError, match="doesn't go with several contexts"):
            GenerateConfig(prompts=("x",), decoding=Decoding(**options), style=STYLE)
    for wrong in ("the cat", [], ["a", 3], None):
        record = Record("x", 1, "", {"texts": wrong, "question": "q"})
        with pytest.raises(OrdtoolError, match="'texts' must be a list of texts"):
            list(generators["llama"].stream([record], Decoding(), STYLE))
    for template in (None, Template("{question}")):
        with pytest.raises(UsageError, match="is no field of a template"):
            PromptStyle(template, contexts="texts")
    with pytest.raises(UsageError, match="`beta`"):
        Decoding(beta=-2.0)


def test_the_command_takes_a_list_in_a_field(writers, tmp_path, capsysbinary):
    from ordtool.cli.app import main

    (tmp_path / "q.jsonl").write_text(json.dumps(RECORD.data) + "\n")
    arguments = [
        str(tmp_path / "q.jsonl"),
        "-m",
        str(writers("llama")),
        "--max-new-tokens",
        "6",
        "--device",
        "cpu",
    ]
    template = ["--template", "{texts} so {question}"]
    with pytest.raises(SystemExit) as end:
        main(["generate", *arguments, *template, "--contexts", "texts", "--beta", "0.5"])
    out, err = capsysbinary.readouterr()
    assert end.value.code == 0, err
    found = json.loads(out)
    assert found["texts"] == TEXTS and found["output"]
    with pytest.raises(SystemExit) as end:
        main(["generate", *arguments, *template, "--contexts", "texts", "--context", "rerope"])
    assert end.value.code == 2
    assert b"two ways to read more" in capsysbinary.readouterr().err
