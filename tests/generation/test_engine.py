"""The engine against plain loops over uncached forward passes, and against transformers' generate."""

import pytest
import torch

from ordtool.errors import OrdtoolError
from ordtool.generation.config import Decoding
from ordtool.generation.engine import Prompt, TextGenerator, generate
from ordtool.generation.prompts import PromptStyle, Template
from ordtool.generation.stopping import find_stop
from ordtool.io.text import Record
from ordtool.progress import Silent

TEXTS = [
    "the cat",
    "a dog ran under the tree and then",
    "bird",
    "the river was not red and it sang on the old tree near a small cat",
    "tree",
]
CAUSAL = ["llama", "flat", "gpt2"]
OWN = ["prefix", "permutation"]
KINDS = [*CAUSAL, *OWN, "unilm", "t5", "bart"]


@pytest.fixture(scope="module")
def generators(writers):
    made = {}

    def get(kind):
        if kind not in made:
            made[kind] = TextGenerator(writers(kind), device="cpu")
        return made[kind]

    return get


def prompts(generator, texts=TEXTS, style=None):
    style = style or PromptStyle()
    records = [Record("x", number, text) for number, text in enumerate(texts, start=1)]
    return [Prompt(i, record, generator.encode(record, style)) for i, record in enumerate(records)]


def loop(generator, ids, steps):
    """Greedy by definition: no cache, no batch, no padding."""
    model, backend = generator.backend.model, generator.backend
    ids, written = list(ids), []
    for _ in range(steps):
        with torch.no_grad():
            if model.config.model_type in ("ordtool_lm", "ordtool_unilm"):
                segments = torch.tensor([[0] * len(ids) + [1] * len(written)])
                logits = model(input_ids=torch.tensor([ids + written]), token_type_ids=segments).logits
            elif backend.continues:
                logits = model(input_ids=torch.tensor([ids + written])).logits
            else:
                decoder = torch.tensor([[backend.start, *written]])
                logits = model(input_ids=torch.tensor([ids]), decoder_input_ids=decoder).logits
        written.append(int(logits[0, -1].argmax()))
        if written[-1] == 2:
            break
    return written


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_in_a_batch_is_the_uncached_loop(generators, kind):
    generator = generators(kind)
    batch = prompts(generator)
    results = generator.run(batch, Decoding(max_new_tokens=10))
    for prompt, result in zip(batch, results, strict=True):
        ids = loop(generator, prompt.ids, 10)
        assert result.text == generator.codec.decode(generator.codec.before(prompt.ids), ids)
        assert result.outputs[0].finish_reason == ("stop" if ids[-1] == 2 else "length")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {"beams": 4},
        {"beams": 5, "n": 2, "length_penalty": 0.5},
        {"repetition_penalty": 1.7},
        {"no_repeat_ngram": 1},
        {"temperature": 0.9, "n": 3},
        {"top_k": 7},
        {"top_p": 0.8},
        {"min_p": 0.05, "temperature": 1.3},
        {"typical": 0.7},
        {"logprobs": True},
        {"stop": ("e", "an")},
        {"choices": ("cat", "the old tree", "dog")},
    ],
    ids=str,
)
def test_alone_is_as_in_a_batch(generators, kind, options):
    generator = generators(kind)
    batch = prompts(generator)
    decoding = Decoding(max_new_tokens=6, **options)
    assert generator.run(batch, decoding) == [generator.run([prompt], decoding)[0] for prompt in batch]


def test_near_ties_do_occur_and_are_decided_alone(generators, monkeypatch):
    from ordtool.generation import engine

    made = []
    real = engine.TokenSelector
    monkeypatch.setattr(engine, "TokenSelector", lambda *a, **k: made.append(real(*a, **k)) or made[-1])
    generator = generators("flat")
    decoding = Decoding(max_new_tokens=8)
    # Two tokens with the same embedding have the same logit, but for rounding.
    weight = generator.backend.model.get_output_embeddings().weight
    kept = weight.clone()
    first = loop(generator, prompts(generator)[0].ids, 1)[0]
    try:
        with torch.no_grad():
            weight[first - 1] = weight[first]
        batch = prompts(generator)
        assert generator.run(batch, decoding) == [generator.run([p], decoding)[0] for p in batch]
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    assert sum(choose.near_ties for choose in made) > 0


@pytest.mark.parametrize("kind", ["llama", "unilm", "bart"])
def test_beams_are_transformers_beams(generators, kind):
    generator = generators(kind)
    for prompt in prompts(generator)[:3]:
        ids = torch.tensor([prompt.ids])
        found = generator.backend.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            num_beams=4,
            num_return_sequences=2,
            max_new_tokens=7,
        )
        start = 1 if kind == "bart" else len(prompt.ids)
        theirs = [row[start:].tolist() for row in found]
        theirs = [row[: row.index(2)] if 2 in row else row for row in theirs]
        ours = generator.run([prompt], Decoding(max_new_tokens=7, beams=4, n=2))[0]
        before = generator.codec.before(prompt.ids)
        assert [o.text for o in ours.outputs] == [generator.codec.decode(before, row) for row in theirs]


@pytest.mark.parametrize("kind", [*CAUSAL, "permutation", "unilm", "t5", "bart"])
def test_logprobs_are_those_of_one_forward_pass(generators, kind):
    generator = generators(kind)
    model, backend = generator.backend.model, generator.backend
    prompt = prompts(generator)[1]
    continuations = [[5, 9, 30, 2], [7], [11, 11]]
    with torch.no_grad():
        found = backend.logprobs(prompt.ids, continuations)
        for row, values in zip(continuations, found, strict=True):
            ids = torch.tensor([prompt.ids])
            if kind not in ("t5", "bart"):
                whole, end = [*prompt.ids, *row], len(prompt.ids)
                told = {"token_type_ids": torch.tensor([[int(i >= end) for i in range(len(whole))]])}
                inputs = {"input_ids": torch.tensor([whole])} | (told if kind == "unilm" else {})
                logits = model(**inputs).logits[0, end - 1 : -1]
            else:
                logits = model(input_ids=ids, decoder_input_ids=torch.tensor([[backend.start, *row]])).logits[
                    0, :-1
                ]
            expected = logits.log_softmax(-1)[range(len(row)), row]
            assert values == pytest.approx(expected.tolist(), abs=1e-5)


def test_score_and_tokens_agree(generators):
    generator = generators("llama")
    (result,) = generator.run(
        prompts(generator)[:1], Decoding(max_new_tokens=5, temperature=1.0, n=4, logprobs=True)
    )
    for output in result.outputs:
        values = [token.logprob for token in output.tokens]
        assert output.score == pytest.approx(sum(values) / len(values))


def test_choices_are_compared_by_their_whole_probability(generators):
    generator = generators("llama")
    (prompt,) = prompts(generator, ["the cat"])
    words = ("dog", "the small tree", "bird")
    (result,) = generator.run([prompt], Decoding(choices=words))
    scores = []
    for word in words:
        ids = generator.codec.tokenizer(" " + word)["input_ids"]
        scores.append(sum(generator.backend.logprobs(prompt.ids, [ids])[0]))
    assert [choice.score for choice in result.choices] == pytest.approx(scores, abs=1e-4)
    assert sum(choice.probability for choice in result.choices) == pytest.approx(1)
    assert result.text == words[scores.index(max(scores))]


def test_draws_follow_the_distribution(generators):
    generator = generators("llama")
    (prompt,) = prompts(generator, ["the cat"])
    with torch.no_grad():
        logits = generator.backend.model(input_ids=torch.tensor([prompt.ids])).logits[0, -1]
    expected = (logits / 0.7).softmax(-1)
    (result,) = generator.run([prompt], Decoding(max_new_tokens=1, temperature=0.7, n=4000, logprobs=True))
    counts = torch.zeros_like(expected)
    logprobs = logits.log_softmax(-1)
    for output in result.outputs:  # the token is known by its log-probability
        counts[(logprobs - output.tokens[0].logprob).abs().argmin()] += 1
    common = expected > 0.01
    error = (counts / 4000 - expected)[common].abs()
    assert (error < 4 * (expected[common] * (1 - expected[common]) / 4000).sqrt()).all()


def test_top_k_1_is_greedy(generators):
    generator = generators("gpt2")
    batch = prompts(generator)
    assert generator.run(batch, Decoding(max_new_tokens=6, top_k=1)) == generator.run(
        batch, Decoding(max_new_tokens=6)
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beams", [1, 3])
def test_stop_cuts_exactly(generators, kind, beams):
    generator = generators(kind)
    batch = prompts(generator)
    whole = generator.run(batch, Decoding(max_new_tokens=12, beams=beams))
    for prompt, full in zip(batch, whole, strict=True):
        text = full.text
        for stop in {text[4:6], text[2:9], text[-3:]} - {""}:
            (result,) = generator.run([prompt], Decoding(max_new_tokens=12, stop=(stop,), beams=beams))
            assert find_stop(result.text, [stop]) is None
            if beams == 1:
                assert result.text == text[: text.find(stop)]
                assert result.outputs[0].finish_reason == "stop"


def test_streamed_pieces_are_the_text(generators):
    generator = generators("llama")
    for stop in ((), ("t", "ang "), ("iv",)):
        for prompt in prompts(generator):
            pieces = []
            decoding = Decoding(max_new_tokens=20, stop=stop)
            (result,) = generator.run([prompt], decoding, write=pieces.append)
            assert "".join(pieces) == result.text
            assert result == generator.run([prompt], decoding)[0]


def test_long_texts_tell_how_long_they_are(generators):
    class Heard(Silent):
        def advance(self, amount=1, **stats):
            told.append((amount, *stats.values()))

    told = []
    generator = generators("t5")  # whose positions have no end
    (result,) = generator.run(
        prompts(generator)[:1], Decoding(max_new_tokens=150, logprobs=True), progress=Heard()
    )
    assert len(result.outputs[0].tokens) == 150
    assert told == [(0, "64"), (0, "128"), (1,)]


@pytest.mark.parametrize("kind", ["gpt2", "llama", "unilm"])
def test_context_is_filled_and_not_passed(generators, kind):
    generator = generators(kind)
    long = " ".join(["cat"] * 200)
    ids = generator.codec.tokenizer(long)["input_ids"]
    record = Record("x", 1, "")
    near = [Prompt(i, record, tuple(ids[:size])) for i, size in enumerate((60, 63, 64, 20))]
    batch = near[:2] + near[3:]
    results = generator.run(batch, Decoding(max_new_tokens=30, logprobs=True))
    assert [len(result.outputs[0].tokens) for result in results][:2] == [4, 1]
    assert len(results[2].outputs[0].tokens) in range(1, 31)
    with pytest.raises(OrdtoolError, match="context is 64"):
        generator.encode(Record("x", 1, long), PromptStyle())


def test_stream_keeps_order_and_survives_bad_records(generators):
    generator = generators("llama")
    texts = ["the cat", "", "a dog ran", " ", "bird " * 90, "tree"]
    records = [Record("f", number, text) for number, text in enumerate(texts, start=1)]
    bad = []
    decoding = Decoding(max_new_tokens=4, batch_size=2)
    found = list(generator.stream(records, decoding, on_error=bad.append))
    assert [record.line for _, record, _ in found] == [1, 3, 6]
    assert [done for done, _, _ in found] == [1, 3, 6]
    assert [error.message.split(":")[1] for error in bad] == ["2", "4", "5"]
    # Without a handler the good ones before the bad one come first.
    stream = generator.stream(records, decoding)
    assert next(stream)[1].line == 1
    with pytest.raises(OrdtoolError, match="f:2: empty prompt"):
        next(stream)


def test_resumed_draws_are_those_of_one_run(generators):
    generator = generators("llama")
    records = [Record("f", number, text) for number, text in enumerate(TEXTS, start=1)]
    decoding = Decoding(max_new_tokens=5, temperature=1.0, seed=3)
    whole = [result for _, _, result in generator.stream(records, decoding)]
    rest = [result for _, _, result in generator.stream(records, decoding, start=2)]
    assert rest == whole[2:]
    assert whole != [
        r for _, _, r in generator.stream(records, Decoding(max_new_tokens=5, temperature=1.0, seed=4))
    ]


def test_chat_template_and_few_shot(generators):
    chat = generators("chat")
    template = Template("{text} => {label}")
    shots = ({"text": "cat", "label": "red"}, {"text": "dog", "label": "old"})
    record = Record("x", 1, "bird", {"text": "bird"})

    def text(style):
        return chat.codec.tokenizer.decode(chat.encode(record, style))

    assert text(PromptStyle()) == "<s>user: bird</s><s>assistant:"
    assert text(PromptStyle(chat=False)) == "bird"
    assert text(PromptStyle(system="be red")) == "<s>system: be red</s><s>user: bird</s><s>assistant:"
    assert text(PromptStyle(template, shots)) == "cat => red\ndog => old\nbird =>"
    assert text(PromptStyle(template, shots, chat=True)) == (
        "<s>user: cat =></s><s>assistant: red</s><s>user: dog =></s><s>assistant: old</s>"
        "<s>user: bird =></s><s>assistant:"
    )


def test_few_shot_answers_end_at_the_separator(generators):
    generator = generators("llama")
    style = PromptStyle(Template("{text}={label}"), ({"text": "a", "label": "b"},))
    assert style.stop == ("\n",)
    results = generator.run(prompts(generator, style=style), Decoding(max_new_tokens=30), style=style)
    for result in results:
        assert "\n" not in result.text
        assert result.text == result.text.strip()


def test_generate_in_one_call(writers, generators):
    results = generate(TEXTS, str(writers("llama")), device="cpu", max_new_tokens=5)
    generator = generators("llama")
    assert results == generator.run(prompts(generator), Decoding(max_new_tokens=5))


def test_bfloat16_is_the_same_alone_and_in_a_batch(writers):
    generator = TextGenerator(writers("llama"), device="cpu", dtype=torch.bfloat16)
    batch = prompts(generator)
    decoding = Decoding(max_new_tokens=12)
    assert generator.run(batch, decoding) == [generator.run([prompt], decoding)[0] for prompt in batch]
