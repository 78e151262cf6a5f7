"""Does a checkpoint of CPM's full shape, 2.6 billion parameters in bfloat16, load and write inside 12 GB?

Makes a random checkpoint (5.2 GB of disk), then loads it in a process of its own and writes 16 tokens. Prints the peak
of resident memory and tokens a second.

    python benchmarks/cpm_size.py --vocabulary data/chinese/cpm_chinese_vocab.model
    python benchmarks/cpm_size.py --layers 2 --hidden 64 --heads 4      # does it run?
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def make(folder: Path, layers: int, hidden: int, heads: int, vocabulary: Path) -> None:
    """Save a random GPT-2 of the shape, a shard at a time: weights are stretches of one row of random numbers."""
    import torch
    import transformers
    from safetensors.torch import save_file

    config = transformers.GPT2Config(
        vocab_size=30000, n_positions=1024, n_embd=hidden, n_layer=layers, n_head=heads,
        bos_token_id=1, eos_token_id=7, pad_token_id=5, dtype=torch.bfloat16, architectures=["GPT2LMHeadModel"],
    )  # fmt: skip
    config.save_pretrained(folder)
    with torch.device("meta"):
        model = transformers.GPT2LMHeadModel(config)
    print(f"{model.num_parameters():,} parameters", flush=True)
    row = (
        torch.randn(4 * hidden * hidden + 999_983, generator=torch.Generator().manual_seed(0)) * 0.02
    ).bfloat16()
    places: dict[str, str] = {}
    shards: list[dict[str, torch.Tensor]] = [{}]
    for name, weight in model.named_parameters():
        start, size = 7_919 * len(places) % 999_983, weight.numel()
        if name.endswith(".bias"):
            value = torch.zeros(weight.shape, dtype=torch.bfloat16)
        elif ".ln_" in name:
            value = torch.ones(weight.shape, dtype=torch.bfloat16)
        else:
            times = -(-size // (len(row) - start))
            value = row[start:].repeat(times)[:size].view(weight.shape).clone()
        if sum(w.numel() for w in shards[-1].values()) > 5e8:
            save_file(shards[-1], folder / f"model-{len(shards)}.safetensors", metadata={"format": "pt"})
            shards[-1] = {}
            shards.append({})
        shards[-1][name] = value
        places[name] = f"model-{len(shards)}.safetensors"
    save_file(shards[-1], folder / f"model-{len(shards)}.safetensors", metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copy(vocabulary, folder / "chinese_vocab.model")


def write(folder: Path) -> None:
    """Load the checkpoint, write 16 tokens, print one JSON line."""
    import torch

    from ordtool.generation.config import Decoding
    from ordtool.generation.engine import TextGenerator
    from ordtool.generation.prompts import PromptStyle
    from ordtool.io.text import Record

    start = time.perf_counter()
    writer = TextGenerator(folder, device="cpu", dtype=torch.bfloat16)
    loaded = time.perf_counter() - start
    start = time.perf_counter()
    # Drawn, as nearly all steps of random weights are near ties of a greedy choice.
    decoding = Decoding(max_new_tokens=16, temperature=1.0, top_k=50)
    list(writer.stream([Record("x", 1, "清华大学位于北京,")], decoding, PromptStyle()))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    row = {
        "load_seconds": round(loaded, 1),
        "tokens_per_second": round(16 / seconds, 2),
        "peak_gb": round(peak, 2),
    }
    print(json.dumps({**row, "cores": os.cpu_count(), "torch": torch.__version__}))


def main() -> None:
    """Make the checkpoint, then load it in a fresh process."""
    parser = argparse.ArgumentParser()
    data = Path(os.environ.get("ORDTOOL_DATA", "data"))
    parser.add_argument("--vocabulary", type=Path, default=data / "chinese" / "cpm_chinese_vocab.model")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--hidden", type=int, default=2560)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--make", type=Path, metavar="FOLDER", help="make the checkpoint there and end")
    parser.add_argument("--folder", type=Path, help="load the checkpoint that is there")
    args = parser.parse_args()
    if args.folder is not None:
        write(args.folder)
        return
    if not args.vocabulary.is_file():
        raise SystemExit(f"{args.vocabulary} is missing: name it with --vocabulary")
    if args.make is not None:
        args.make.mkdir(parents=True, exist_ok=True)
        make(args.make, args.layers, args.hidden, args.heads, args.vocabulary)
        return
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), args.layers, args.hidden, args.heads, args.vocabulary)
        subprocess.run([sys.executable, __file__, "--folder", folder], check=True)


if __name__ == "__main__":
    main()
