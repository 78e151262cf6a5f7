"""Logits with a cache, in a batch and behind left padding are those without, to 1e-5.

In float64 the two ways agree to 1e-10 for every model, so they are one function; in float32 they differ by the rounding
of sums in another order, which grows with the size of the logits and the depth of the model.
"""

import pytest
import torch

from ordtool.generation.config import Decoding
from ordtool.generation.engine import Prompt, TextGenerator
from ordtool.generation.loading import load_backend
from ordtool.io.text import Record
from ordtool.models.catalog import catalogue, model_folder

TEXTS = [
    "It was a bright cold day in April, and the clocks were",
    "The first of the rivers of Europe that come to mind is the Danube, which rises in the Black Forest and flows",
    "Once",
    "What is to be done? he asked, and nobody in the long, low room by the harbour answered him",
]
STEPS = 12


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
    for step in range(STEPS):
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        out = backend.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )
        cache = out.past_key_values
        rows.append(out.logits[:, -1])
        ids = torch.tensor([[row[step]] for row in written])
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
    return torch.stack(rows, dim=1)


def four_ways(folder, dtype):
    """Give logits `(prompts, STEPS, vocabulary)`: without a cache, with one, with one in a batch, without one in a batch."""
    backend, tokenizer = load_backend(folder, torch.device("cpu"), dtype)
    prompts = [tokenizer(text)["input_ids"][:40] for text in TEXTS]
    draw = torch.Generator().manual_seed(0)
    written = torch.randint(10, len(tokenizer), (len(prompts), STEPS), generator=draw).tolist()
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
            batched[:, columns - STEPS - 1 : -1],
        )


@pytest.mark.parametrize("name", ["tinylm", "gpt2"])
def test_to_1e_5_in_float32(folders, name):
    alone, *others = four_ways(folders(name), torch.float32)
    for other in others:
        torch.testing.assert_close(other, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["tinylm", "gpt2", "llama"])
def test_one_function_in_float64(folders, name):
    alone, *others = four_ways(folders(name), torch.float64)
    for other in others:
        torch.testing.assert_close(other, alone, atol=1e-10, rtol=0)


@pytest.mark.slow
def test_smollm2_differs_by_rounding_alone(folders):
    """Its logits reach 40 in 30 layers, where float32 itself is 1e-4 off: no two orders of summing agree to 1e-5."""
    folder = folders("smollm2")
    exact, *others = four_ways(folder, torch.float64)
    for other in others:
        torch.testing.assert_close(other, exact, atol=1e-10, rtol=0)
    alone, *others = four_ways(folder, torch.float32)
    error = (alone - exact).abs().max()
    size = exact.abs().max()
    for other in others:
        # As near to the exact logits as the plain float32 pass, and to 1e-5 of the largest logit.
        assert (other - exact).abs().max() < 4 * error
        assert (other - alone).abs().max() < 1e-5 * size


@pytest.mark.parametrize("name", ["tinylm", "gpt2"])
@pytest.mark.parametrize("beams", [1, 4])
def test_text_alone_is_text_in_a_batch(folders, name, beams):
    generator = TextGenerator(folders(name), device="cpu")
    texts = [Record("x", number, text[:60]) for number, text in enumerate(TEXTS, start=1)]
    from ordtool.generation.prompts import PromptStyle

    prompts = [Prompt(i, record, generator.encode(record, PromptStyle())) for i, record in enumerate(texts)]
    decoding = Decoding(max_new_tokens=16, beams=beams)
    assert generator.run(prompts, decoding) == [generator.run([prompt], decoding)[0] for prompt in prompts]
