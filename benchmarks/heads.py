"""Standard heads, a larger key size, talking heads and both: perplexity at equal parameters and steps.

Where q and k get wider, the feed-forward blocks get narrower until the parameters are equal again. All variants share
a vocabulary, the order of the text and, for each seed, the seed. Prints one JSON line a run, then a table.

    python benchmarks/heads.py --steps 4000 --hidden 256 --layers 4       # the books: hours on two cores
    python benchmarks/heads.py --steps 10 --hidden 32 --layers 2 --seeds 1 # does it run?
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch

from ordtool.io.text import read_documents
from ordtool.lm.corpus import train_tokenizer
from ordtool.lm.training import LMTrainingConfig, train_lm


def variants(hidden: int, heads: int, wider: int) -> dict[str, dict[str, object]]:
    """Give the options of each variant; `wider` times the key size."""
    key = hidden // heads
    plain = round(hidden * 8 / 3 / 16) * 16
    # Widening adds 2 hidden heads (wider - 1) key a layer; a unit of the gated block has 3 hidden.
    narrow = plain - round(2 * heads * key * (wider - 1) / 3)
    if narrow < 1:
        raise SystemExit(f"--wider {wider} leaves nothing of the feed-forward blocks")
    return {
        "standard": {"intermediate": plain},
        "larger key size": {"intermediate": narrow, "key_size": wider * key},
        "talking": {"intermediate": plain, "talking_heads": True},
        "both": {"intermediate": narrow, "key_size": wider * key, "talking_heads": True},
    }


def train(args, texts, tokenizer, name, options, seed) -> dict[str, object]:
    """Train one variant and print what came of it."""
    settings = LMTrainingConfig(
        tokenizer=str(tokenizer), context=args.context, layers=args.layers, hidden=args.hidden, heads=args.heads,
        steps=args.steps, batch_size=args.batch_size, learning_rate=args.learning_rate, seed=seed,
        eval_every=args.steps, **options,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        start, busy = time.perf_counter(), time.process_time()
        report = train_lm(texts, Path(folder) / "model", settings, device="cpu")
    row = {"variant": name, "seed": seed, "parameters": report.parameters, "perplexity": report.perplexity}
    row |= {"bits_per_byte": report.bits_per_byte, "seconds": round(time.perf_counter() - start, 1)}
    row |= {"processor_seconds": round(time.process_time() - busy, 1), **options}
    shape = {k: v for k, v in vars(args).items() if k not in ("texts", "seeds")}
    print(json.dumps({**shape, **row, "tokens": report.tokens, "torch": torch.__version__}), flush=True)
    return row


def main() -> None:
    """Train each variant on the books and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--wider", type=int, default=2)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--texts", nargs="*", type=Path)
    args = parser.parse_args()
    data = Path(os.environ.get("ORDTOOL_DATA", "data"))
    texts = args.texts or sorted((data / "books").glob("*.txt"))
    if not texts:
        raise SystemExit(f"{data / 'books'} has no texts: set ORDTOOL_DATA, or name files with --texts")
    kinds = variants(args.hidden, args.heads, args.wider)
    rows: dict[str, list[dict[str, object]]] = {name: [] for name in kinds}
    with tempfile.TemporaryDirectory() as folder:
        train_tokenizer(read_documents(texts), args.vocab_size).save_pretrained(folder)
        for seed in range(args.seeds):  # an interrupted run has every variant for the seeds done
            for name, options in kinds.items():
                rows[name].append(train(args, texts, folder, name, options, seed))
    print(f"{'':18}{'parameters':>12}{'perplexity':>12}{'each seed':>20}{'processor s':>13}")
    for name, runs in rows.items():
        found = [run["perplexity"] for run in runs]
        each = " ".join(f"{value:.2f}" for value in found)
        spent = statistics.mean(run["processor_seconds"] for run in runs)
        print(f"{name:18}{runs[0]['parameters']:12,}{statistics.mean(found):12.2f}{each:>20}{spent:13.0f}")


if __name__ == "__main__":
    main()
