"""`ordtool generate` against a loop of one-at-a-time `model.generate`, same model, same greedy text.

Prints a table and one JSON line a row. The prompts are the beginnings of lines of running text,
of 5 to 150 words, so that a batch is as uneven as real ones are.

    python benchmarks/generate.py --model smollm2 --prompts 64 --max-new-tokens 32
"""

import argparse
import json
import os
import platform
import random
import sys
import time
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from ordtool.generation.config import Decoding
from ordtool.generation.engine import TextGenerator
from ordtool.generation.prompts import PromptStyle
from ordtool.io.text import Record
from ordtool.models.resolve import resolve_model
from ordtool.runtime import quiet_libraries


def mixed_prompts(count: int, longest: int) -> list[str]:
    """Cut prompts of 5 to `longest` words, as many short as long, out of the data."""
    data = Path(os.environ.get("ORDTOOL_DATA", "data"))
    file = data / "text" / "state_union.txt"
    if not file.is_file():
        raise SystemExit(f"{file} is missing: set ORDTOOL_DATA to the folder of the data")
    words = file.read_text(encoding="utf-8").split()
    draw = random.Random(0)
    prompts = []
    for _ in range(count):
        start, size = draw.randrange(len(words) - 200), int(5 * (longest / 5) ** draw.random())
        prompts.append(" ".join(words[start : start + size]))
    return prompts


def ours(folder: Path, prompts: list[str], steps: int, batch: int) -> tuple[list[str], float, float]:
    """Write all prompts with the engine; texts, seconds, processor seconds."""
    writer = TextGenerator(folder, device="cpu", fast_start=True)  # as the command does
    records = [Record("x", number, text) for number, text in enumerate(prompts, start=1)]
    style = PromptStyle(chat=False)
    warm = Decoding(max_new_tokens=2)
    list(writer.stream(records[:1], warm, style))
    start, busy = time.perf_counter(), time.process_time()
    found = writer.stream(records, Decoding(max_new_tokens=steps, batch_size=batch), style)
    texts = [result.text for _, _, result in found]
    return texts, time.perf_counter() - start, time.process_time() - busy


def one_at_a_time(folder: Path, prompts: list[str], steps: int) -> tuple[list[str], float, float]:
    """Write the prompts one by one with transformers; texts, seconds, processor seconds."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    ).eval()
    texts = []

    def write(prompt: str, tokens: int) -> str:
        inputs = tokenizer(prompt, return_tensors="pt")
        out = model.generate(
            **inputs, max_new_tokens=tokens, do_sample=False, pad_token_id=tokenizer.eos_token_id
        )
        return tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    write(prompts[0], 2)
    start, busy = time.perf_counter(), time.process_time()
    texts = [write(prompt, steps) for prompt in prompts]
    return texts, time.perf_counter() - start, time.process_time() - busy


def main() -> None:
    """Run both and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--longest", type=int, default=150, help="words of the longest prompt")
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=32)
    args = parser.parse_args()
    quiet_libraries()
    transformers.utils.logging.disable_progress_bar()
    folder = resolve_model(args.model)
    prompts = mixed_prompts(args.prompts, args.longest)
    machine = {
        "cores": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "load": os.getloadavg()[0],
    }
    our_texts, our_seconds, our_busy = ours(folder, prompts, args.max_new_tokens, args.batch_size)
    print(f"ordtool: {our_seconds:.1f} s, {our_busy:.1f} processor s", file=sys.stderr, flush=True)
    their_texts, their_seconds, their_busy = one_at_a_time(folder, prompts, args.max_new_tokens)
    same = sum(a == b for a, b in zip(our_texts, their_texts, strict=True))
    print(
        f"{'':26}{'seconds':>9}{'prompts/s':>11}{'ratio':>7}{'processor s':>13}{'ratio':>7}{'same text':>11}"
    )
    for name, seconds, busy in (
        ("model.generate, one by one", their_seconds, their_busy),
        (f"ordtool, batches of {args.batch_size}", our_seconds, our_busy),
    ):
        ratio, spent = their_seconds / seconds, their_busy / busy
        print(
            f"{name:26}{seconds:9.1f}{len(prompts) / seconds:11.2f}{ratio:7.2f}{busy:13.1f}{spent:7.2f}"
            f"{same:8}/{len(prompts)}"
        )
        row = {"name": name, "seconds": round(seconds, 2), "ratio": round(ratio, 3)}
        row |= {"processor_seconds": round(busy, 2), "processor_ratio": round(spent, 3), "same_text": same}
        print(json.dumps({**vars(args), **row, **machine}))


if __name__ == "__main__":
    main()
