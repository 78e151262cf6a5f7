"""Text of a model of SmolLM2-135M's shape: our graphs beside transformers' `generate` in batches of 32."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from gpu_sections.measure import Bench, Row
from ordtool.generation.config import Decoding
from ordtool.generation.engine import TextGenerator
from ordtool.generation.prompts import PromptStyle
from ordtool.io.text import Record
from ordtool.runtime import quiet_libraries

THEIR_BATCH = 32


def rows(bench: Bench) -> Iterator[Row]:
    """Tokens a second, reading the prompts included."""
    quiet_libraries()
    steps, count, theirs = bench.pick((64, 256, 64), (4, 5, 3))
    with TemporaryDirectory() as name:
        folder = Path(name)
        save_model(folder, bench)
        prompts = random_prompts(count, bench.pick(150, 12), bench.pick(49_152, 300))
        work = f"{steps} new tokens after prompts of 5 to 150 words"
        for dtype in (torch.bfloat16, torch.float32):
            kind = str(dtype).removeprefix("torch.")
            speed = transformers_speed(bench, folder, prompts[:: max(1, count // theirs)], steps, dtype)
            yield Row("generate", work, f"transformers, {kind}, batches of 32", speed, "tokens/s")
            bench.free()
            for size in (32, None):
                speed, first, where = our_speed(bench, folder, prompts, steps, dtype, size)
                system = f"ordtool, {kind}, batches of {size or where}"
                note = f"first batch {first:.1f} s, {bench.peak_mb():,.0f} MB"
                yield Row("generate", work, system, speed, "tokens/s", note)
                bench.free()


def save_model(folder: Path, bench: Bench) -> None:
    """A Llama with random weights, and a tokenizer whose tokens are words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    size = bench.pick(49_152, 300)
    tokenizer = Tokenizer(models.WordLevel({f"w{number}": number for number in range(size)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="w0", eos_token="w0", pad_token="w0"
    ).save_pretrained(folder)
    shape = bench.pick(
        {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30},
        {"hidden_size": 72, "intermediate_size": 64, "num_hidden_layers": 2},
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size,
        **shape,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).to(bench.device).to(torch.bfloat16).cpu().save_pretrained(folder)


def random_prompts(count: int, longest: int, vocabulary: int) -> list[str]:
    """Prompts of 5 to `longest` words, as many short as long."""
    draw = np.random.default_rng(0)
    sizes = (5 * (longest / 5) ** draw.random(count)).astype(int)
    return [" ".join(f"w{number}" for number in draw.integers(1, vocabulary, size)) for size in sizes]


def our_speed(
    bench: Bench, folder: Path, prompts: list[str], steps: int, dtype: torch.dtype, size: int | None
) -> tuple[float, float, int]:
    """Tokens a second; seconds of the first run, which captures the graphs; the size of a batch."""
    writer = TextGenerator(folder, device=str(bench.device), dtype=dtype, fast_start=True)
    records = [Record("x", number, text) for number, text in enumerate(prompts, start=1)]
    decoding, style = Decoding(max_new_tokens=steps, batch_size=size), PromptStyle(chat=False)

    def run() -> float:
        start = time.perf_counter()
        results = list(writer.stream(records, decoding, style))
        assert len(results) == len(prompts)
        return time.perf_counter() - start

    first = run()
    again = min(run() for _ in range(bench.pick(2, 1)))
    for note in writer.backend.notes:
        print(f"note: {note}", flush=True)
    return len(prompts) * steps / again, first, writer.backend.batch_size


def transformers_speed(
    bench: Bench, folder: Path, prompts: list[str], steps: int, dtype: torch.dtype
) -> float:
    """Tokens a second of `generate`, prompts sorted by length and padded on the left."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", trust_remote_code=False)
    model = (
        AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
        .to(bench.device)
        .eval()
    )

    def write(texts: list[str], count: int) -> None:
        inputs = tokenizer(texts, return_tensors="pt", padding=True).to(bench.device)
        inputs.pop("token_type_ids", None)
        model.generate(**inputs, max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0)

    prompts = sorted(prompts, key=len)
    write(prompts[:THEIR_BATCH], 4)
    bench.wait()
    start = time.perf_counter()
    for low in range(0, len(prompts), THEIR_BATCH):
        write(prompts[low : low + THEIR_BATCH], steps)
    bench.wait()
    return len(prompts) * steps / (time.perf_counter() - start)
