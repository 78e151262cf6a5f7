"""An encoder that writes, through the engine: `minilm` as it is, under the sequence-to-sequence mask."""

import pytest
import torch

from ordtool.generation.config import Decoding
from ordtool.generation.engine import Prompt, TextGenerator
from ordtool.generation.prompts import PromptStyle
from ordtool.io.text import Record
from ordtool.models.entries import catalogue, model_folder
from ordtool.models.releases import cache_argument, cache_of

TEXTS = [
    "name: Alimentum; area: city centre; family friendly: no",
    "name: Aromi",
    "The first of the rivers of Europe that come to mind is the Danube, which rises in the Black Forest and flows east",
    "a b c",
]


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    from transformers import AutoTokenizer

    from ordtool.seq2seq.models import load_seq2seq_model
    from ordtool.seq2seq.training import _set_ends

    source = model_folder(catalogue()["minilm"])
    if not (source / "config.json").is_file():
        pytest.skip("minilm is not here")
    model, _ = load_seq2seq_model(source)
    tokenizer = AutoTokenizer.from_pretrained(source)
    _set_ends(model, tokenizer, tokenizer.sep_token_id)
    folder = tmp_path_factory.mktemp("unilm")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return TextGenerator(folder, device="cpu")


def prompts(writer):
    records = [Record("x", number, text) for number, text in enumerate(TEXTS, start=1)]
    return [Prompt(i, r, writer.encode(r, PromptStyle())) for i, r in enumerate(records)]


@pytest.mark.slow
@pytest.mark.parametrize("beams", [1, 4])
def test_minilm_writes_the_same_alone_and_in_a_batch(writer, beams):
    batch, decoding = prompts(writer), Decoding(max_new_tokens=12, beams=beams)
    assert writer.run(batch, decoding) == [writer.run([prompt], decoding)[0] for prompt in batch]


@pytest.mark.slow
def test_minilm_cached_in_a_padded_batch_is_uncached_alone(writer):
    model, backend = writer.backend.model, writer.backend
    ids = [prompt.ids for prompt in prompts(writer)]
    draw = torch.Generator().manual_seed(0)
    written = torch.randint(1000, 20000, (len(ids), 10), generator=draw)
    inputs, _, _ = backend.batch(ids)
    mask, step, cache, rows = inputs["attention_mask"], inputs["input_ids"], None, []
    with torch.inference_mode():
        for place in range(10):
            out = model(input_ids=step, attention_mask=mask, use_cache=True, **cache_argument(cache))
            cache, step = cache_of(out), written[:, place : place + 1]
            rows.append(out.logits[:, -1])
            mask = torch.cat([mask, torch.ones(len(ids), 1, dtype=torch.long)], 1)
        for row, prompt in enumerate(ids):
            for place in range(10):
                alone = backend.unbatched_logits(prompt, written[row, :place])
                torch.testing.assert_close(rows[place][row], alone, atol=1e-5, rtol=0)
