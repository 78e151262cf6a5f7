r"""Key sizes, numbers of heads and talking heads: perplexity at equal parameters and steps, on several seeds.

    python benchmarks/heads.py --work /tmp/heads             # the books, hidden size 128: says how many hours it takes
    python benchmarks/heads.py --work /tmp/heads --table     # only print what is there
    python benchmarks/heads.py --work /tmp/smoke --steps 2 --hidden 32 --heads 4 --sweep 2 --layers 1 --seeds 1 --texts A

At `--heads` heads: standard heads, keys twice and four times as long, Lambda alone, M alone, both, both with longer keys;
and standard heads in the numbers of `--sweep`, of the same hidden size. Where queries and keys get wider, the feed-forward
blocks get narrower until the parameters are equal again. All share the text, a vocabulary and, for each seed, the order of
the text. The table has mean and standard deviation over seeds, and the mean difference to standard heads, seed by seed, with
its standard error: a difference that is not much larger says nothing. The same command goes on where it was, also within a
training.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from ordtool.io.text import read_documents
from ordtool.lm.corpus import train_tokenizer
from ordtool.lm.training import LMTrainingConfig, train_lm

# What a core multiplies and adds in a second, at a guess, until a training has been timed.
GUESSED_SPEED = 20e9


def variants(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Give the settings of each variant, by its name."""
    heads = options.heads
    found = {
        f"{heads} heads": {},
        "keys twice as long": {"key_size": 2},
        "keys four times as long": {"key_size": 4},
        "Lambda alone": {"talking_heads": "before"},
        "M alone": {"talking_heads": "after"},
        "talking heads, both": {"talking_heads": "both"},
        "keys twice as long, talking": {"key_size": 2, "talking_heads": "both"},
        **{f"{other} heads": {"heads": other} for other in options.sweep if other != heads},
    }
    return {name: _sizes(options, chosen) for name, chosen in found.items()}


def _sizes(options: argparse.Namespace, chosen: dict[str, Any]) -> dict[str, Any]:
    """Turn a number of times into a size of keys, and take what that costs from the feed-forward blocks."""
    plain = round(options.hidden * 8 / 3 / 16) * 16
    settings = {"heads": options.heads, "intermediate": plain, **chosen}
    if "key_size" in chosen:
        settings["key_size"] = chosen["key_size"] * options.hidden // settings["heads"]
        # A layer gets 2 hidden² (times - 1) parameters more; a unit of its gated block has 3 hidden.
        settings["intermediate"] = plain - round(2 * options.hidden * (chosen["key_size"] - 1) / 3)
    return settings


def names(options: argparse.Namespace) -> list[str]:
    """Those of the variants that leave something of the feed-forward blocks."""
    return [name for name, settings in variants(options).items() if settings["intermediate"] > 0]


def rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Read what has been trained."""
    path = options.work / "rows.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def train(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train a variant, or go on with it, and write down what came of it."""
    tokenizer = options.work / "tokenizer"
    if not tokenizer.exists():
        train_tokenizer(read_documents(options.texts), options.vocab_size).save_pretrained(tokenizer)
    settings = LMTrainingConfig(
        tokenizer=str(tokenizer), context=options.context, layers=options.layers, hidden=options.hidden,
        steps=options.steps, batch_size=options.batch_size, learning_rate=options.learning_rate, seed=seed,
        eval_every=max(1, options.steps // 4), **variants(options)[name],
    )  # fmt: skip
    output = options.work / f"{name.replace(' ', '-').replace(',', '')}-{seed}"
    busy = time.process_time()
    report = train_lm(
        options.texts, output, settings, device="cpu", resume=Path(f"{output}.partial").exists(), force=True
    )
    row = {
        "variant": name, "seed": seed, "parameters": report.parameters, "perplexity": report.perplexity,
        "bits_per_byte": report.bits_per_byte, "processor_seconds": round(time.process_time() - busy, 1),
        "torch": torch.__version__,
    }  # fmt: skip
    with (options.work / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    return row


def hours(left: int, done: list[dict[str, Any]], options: argparse.Namespace) -> float:
    """Processor hours of so many more trainings: by those that are done, or at a guess."""
    if done:
        return left * statistics.mean(row["processor_seconds"] for row in done) / 3600
    hidden, length = options.hidden, options.context
    parameters = options.layers * 12 * hidden * hidden + options.vocab_size * hidden
    a_token = 6 * parameters + 12 * options.layers * hidden * length
    return left * a_token * options.steps * options.batch_size * length / GUESSED_SPEED / 3600


def table(options: argparse.Namespace) -> str:
    """Set mean and spread beside each other, in Markdown."""
    by_name: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows(options):
        by_name.setdefault(row["variant"], {})[row["seed"]] = row
    lines = [
        "| | parameters | perplexity | seeds | beside standard heads, seed by seed | processor seconds |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    standard = by_name.get(f"{options.heads} heads", {})
    for name, runs in by_name.items():
        figures = [run["perplexity"] for run in runs.values()]
        pairs = [
            run["perplexity"] - standard[seed]["perplexity"] for seed, run in runs.items() if seed in standard
        ]
        beside = "" if runs is standard or not pairs else _spread(pairs, len(pairs), "+")
        spent = statistics.mean(run["processor_seconds"] for run in runs.values())
        parameters = next(iter(runs.values()))["parameters"]
        lines.append(
            f"| {name} | {parameters:,} | {_spread(figures, 1)} | {len(runs)} | {beside} | {spent:.0f} |"
        )
    return "\n".join(lines)


def _spread(values: list[float], count: int, sign: str = "") -> str:
    """Mean and standard deviation, or of a mean of `count` its standard error."""
    shown = f"{statistics.mean(values):{sign}.2f}"
    return shown + (f" ± {statistics.stdev(values) / math.sqrt(count):.2f}" if len(values) > 1 else "")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="where models and figures are kept")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--sweep", default="2,4,8,32,64", help="other numbers of standard heads")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--vocab-size", type=int, default=2048)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--texts", nargs="*", type=Path)
    options = parser.parse_args(arguments)
    options.sweep = [int(part) for part in options.sweep.split(",")]
    data = Path(os.environ.get("ORDTOOL_DATA", "data"))
    options.texts = options.texts or sorted((data / "books").glob("*.txt"))
    if not options.texts:
        parser.error(f"{data / 'books'} has no texts: set ORDTOOL_DATA, or name files with --texts")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Train each variant on each seed, and print."""
    options = parse(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    wanted = [(name, seed) for seed in range(options.seeds) for name in names(options)]
    for name, seed in (
        [] if options.table else wanted
    ):  # an interrupted run has every variant for the seeds done
        done = rows(options)
        finished = {(row["variant"], row["seed"]) for row in done}
        if (name, seed) in finished:
            continue
        left = sum(pair not in finished for pair in wanted)
        print(
            f"{left} of {len(wanted)} trainings, about {hours(left, done, options):.2f} processor hours",
            flush=True,
        )
        print(json.dumps(train(name, seed, options)), flush=True)
    print(table(options))


if __name__ == "__main__":
    main()
