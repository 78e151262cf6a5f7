"""Standard heads, a larger key size, talking heads and both: perplexity at equal parameters and steps.

Where q and k get wider, the feed-forward blocks get narrower until the parameters are equal again. Prints a table
and one JSON line a row.

    python benchmarks/heads.py --steps 4000                      # the books: hours on two cores
    python benchmarks/heads.py --steps 10 --hidden 32 --layers 2 # does it run?
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import torch

from ordtool.transformer.training import LmSettings, train_lm


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
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--texts", nargs="*", type=Path)
    args = parser.parse_args()
    data = Path(os.environ.get("ORDTOOL_DATA", "../shared/data"))
    texts = args.texts or sorted((data / "books").glob("*.txt"))
    if not texts:
        raise SystemExit(f"{data / 'books'} has no texts: set ORDTOOL_DATA, or name files with --texts")
    print(f"{'':18}{'parameters':>12}{'perplexity':>12}{'bits/byte':>11}{'seconds':>9}")
    for name, options in variants(args.hidden, args.heads, args.wider).items():
        settings = LmSettings(
            context=args.context, layers=args.layers, hidden=args.hidden, heads=args.heads, steps=args.steps,
            batch_size=args.batch_size, seed=args.seed, eval_every=max(args.steps // 4, 1), **options,
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            report = train_lm(texts, Path(folder) / "model", settings, device="cpu")
        seconds = time.perf_counter() - start
        print(
            f"{name:18}{report.parameters:12,}{report.perplexity:12.2f}{report.bits_per_byte:11.4f}{seconds:9.0f}"
        )
        row = {"variant": name, "parameters": report.parameters, "perplexity": report.perplexity}
        row |= {"bits_per_byte": report.bits_per_byte, "seconds": round(seconds, 1), **options}
        print(
            json.dumps(
                {**{k: v for k, v in vars(args).items() if k != "texts"}, **row, "torch": torch.__version__}
            )
        )


if __name__ == "__main__":
    main()
