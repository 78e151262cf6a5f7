"""Attention by regions on long texts, beside the plain attention of torch; six layers of SmolLM2-135M's shape."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from gpu_sections.measure import Bench, Row
from ordtool.extrapolation.patch import context_extension

LARGEST_FLOAT32 = (
    16_384  # beyond it plain attention in float32, which holds all scores, has no room on a card
)


def rows(bench: Bench) -> Iterator[Row]:
    """Seconds a forward pass over 16,384 tokens."""
    yield from passes(bench, "extrapolate", bench.pick(16_384, 300), ["self-extend", "dca", "lambda"])


def passes(bench: Bench, section: str, length: int, others: list[str]) -> Iterator[Row]:
    """Seconds a forward pass: torch's attention, ReRoPE, and in bfloat16 other methods."""
    for dtype in (torch.bfloat16, torch.float32):
        model = random_model(bench).to(bench.device, dtype)
        methods = ["none"] if dtype != torch.float32 or length <= LARGEST_FLOAT32 else []
        methods += ["rerope", *(others if dtype == torch.bfloat16 else [])]
        for method in methods:
            yield replace(measure(bench, model, method, length, dtype), section=section)
        del model
        bench.free()


def random_model(bench: Bench) -> Any:
    """A Llama with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = bench.pick(
        {"vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 6},
        {"vocab_size": 300, "hidden_size": 72, "intermediate_size": 64, "num_hidden_layers": 2},
    )
    trained = bench.pick(2048, 100)
    config = LlamaConfig(
        **shape, num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=trained
    )
    return LlamaForCausalLM(config).eval()


def measure(bench: Bench, model: Any, method: str, length: int, dtype: torch.dtype) -> Row:
    """Seconds of one pass; compiling, which the first pass may have to wait for, and memory stand in the note."""
    tokens = torch.randint(model.config.vocab_size, (1, length), device=bench.device)
    bench.free()
    with warnings.catch_warnings(record=True) as told, torch.inference_mode():
        warnings.simplefilter("always")
        with context_extension(model, method, length=length):

            def read() -> Any:
                return model(tokens, use_cache=False, logits_to_keep=1).logits

            start = time.perf_counter()
            read()
            bench.wait()
            first = time.perf_counter() - start
            seconds = bench.seconds(read, budget=0.6, warmup=1)
    for warning in told:
        print(f"note: {warning.message}", flush=True)
    kind = str(dtype).removeprefix("torch.")
    name = "torch's attention" if method == "none" else f"ordtool, {method}"
    note = f"{bench.peak_mb():,.0f} MB, first {first:.1f} s"
    return Row("extrapolate", f"{length:,} tokens, {kind}", name, seconds, "s a pass", note)
