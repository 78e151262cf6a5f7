"""Logits with a cache, in a batch and behind left padding are those without, to 1e-5 where float32 itself is that exact.

In float64 the two ways agree to 1e-10 for every model, so they are one function; in float32 they differ by the rounding
of sums in another order, which grows with the size of the logits and the depth of the model.
"""

import pytest
import torch

from ordtool.generation.config import Decoding
from ordtool.generation.engine import Prompt, TextGenerator
from ordtool.generation.loading import load_backend
from ordtool.generation.prompts import PromptStyle
from ordtool.io.text import Record
from ordtool.models.entries import catalogue, model_folder
from ordtool.models.releases import cache_argument, cache_of

TEXTS = [
    "It was a bright cold day in April, and the clocks were",
    "The first of the rivers of Europe that come to mind is the Danube, which rises in the Black Forest and flows",
    "Once",
    "What is to be done? he asked, and nobody in the long, low room by the harbour answered him",
]
FEW = [TEXTS[0], TEXTS[2]]  # of unlike lengths, for what takes seconds a token


@pytest.fixture(scope="module")
def folders(writers, tmp_path_factory):
    """Folders by name: packaged and fetched models, and tiny random ones with weights of the usual size."""

    def get(name):
        if name in ("tinylm", "smollm2"):
            folder = model_folder(catalogue()[name])
            if not (folder / "config.json").is_file():
                pytest.skip(f"{name} is not here")
            return folder
        if name == "gpt2":
            return usual_gpt2(writers("gpt2"), tmp_path_factory.mktemp("gpt2"))
        return writers(name)

    return get


def usual_gpt2(source, folder):
    """GPT-2's shape, narrow: 12 layers of 12 heads, weights as it starts with."""
    import shutil

    import transformers

    torch.manual_seed(3)
    config = transformers.GPT2Config(
        vocab_size=331, n_embd=96, n_positions=128, bos_token_id=1, eos_token_id=2, pad_token_id=0
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, folder / name)
    return folder


def cached(backend, prompts, written):
    """Feed a left-padded batch of prompts, then a token at a time; logits before each written token."""
    inputs, _, _ = backend.batch(prompts)
    mask, ids, cache, rows = inputs["attention_mask"], inputs["input_ids"], None, []
    for step in range(len(written[0])):
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        out = backend.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            **cache_argument(cache),
        )
        cache = cache_of(out)
        rows.append(out.logits[:, -1])
        ids = torch.tensor([[row[step]] for row in written])
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
    return torch.stack(rows, dim=1)


def four_ways(folder, dtype, texts=TEXTS, steps=12):
    """Give logits `(prompts, steps, vocabulary)`: without a cache, with one, with one in a batch, without one in a batch."""
    backend, tokenizer = load_backend(folder, torch.device("cpu"), dtype)
    prompts = [tokenizer(text)["input_ids"][:40] for text in texts]
    draw = torch.Generator().manual_seed(0)
    written = torch.randint(10, len(tokenizer), (len(prompts), steps), generator=draw).tolist()
    pairs = list(zip(prompts, written, strict=True))
    with torch.inference_mode():
        alone = [
            backend.model(input_ids=torch.tensor([[*p, *w]]), use_cache=False).logits[0, len(p) - 1 : -1]
            for p, w in pairs
        ]
        inputs, _, columns = backend.batch([[*p, *w] for p, w in pairs])
        positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        batched = backend.model(**inputs, position_ids=positions, use_cache=False).logits
        return (
            torch.stack(alone),
            torch.cat([cached(backend, [p], [w]) for p, w in pairs]),
            cached(backend, prompts, written),
            batched[:, columns - steps - 1 : -1],
        )


def test_to_1e_5_in_float32(folders):
    alone, *others = four_ways(folders("gpt2"), torch.float32)
    for other in others:
        torch.testing.assert_close(other, alone, atol=1e-5, rtol=0)


def check_rounding(folder, **less):
    """Float64: one function. Float32: to 1e-5 of the largest logit, and as near to the truth as the plain pass."""
    exact, *others = four_ways(folder, torch.float64, **less)
    for other in others:
        torch.testing.assert_close(other, exact, atol=1e-10, rtol=0)
    alone, *others = four_ways(folder, torch.float32, **less)
    error, size = (alone - exact).abs().max(), exact.abs().max()
    assert error < 1e-5 * size
    for other in others:
        assert (other - exact).abs().max() < 4 * error
        assert (other - alone).abs().max() < 1e-5 * size


def test_tinylm_differs_by_rounding_alone(folders):
    """Its logits reach 15, and a plain float32 pass is 1.3e-5 off the exact ones: nothing can be nearer than that."""
    check_rounding(folders("tinylm"))


@pytest.mark.slow
def test_smollm2_differs_by_rounding_alone(folders):
    """Its logits reach 39 in 30 layers, and a plain float32 pass is 6e-5 off the exact ones."""
    check_rounding(folders("smollm2"), texts=FEW, steps=4)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_one_function_in_float64(folders, name):
    alone, *others = four_ways(folders(name), torch.float64)
    for other in others:
        torch.testing.assert_close(other, alone, atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", ["tinylm", "gpt2", pytest.param("smollm2", marks=pytest.mark.slow)])
@pytest.mark.parametrize("beams", [1, 4])
def test_text_alone_is_text_in_a_batch(folders, name, beams):
    generator = TextGenerator(folders(name), device="cpu")
    large = name == "smollm2"
    texts = [Record("x", number, text[:60]) for number, text in enumerate(FEW if large else TEXTS, start=1)]
    prompts = [Prompt(i, record, generator.encode(record, PromptStyle())) for i, record in enumerate(texts)]
    decoding = Decoding(max_new_tokens=8 if large else 16, beams=beams)
    assert generator.run(prompts, decoding) == [generator.run([prompt], decoding)[0] for prompt in prompts]
