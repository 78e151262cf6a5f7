r"""ON-LSTMs with the paper's input gate, with the reversed one, and of two directions, at an equal budget.

    python benchmarks/directions.py --work /tmp/directions --text voa.txt.gz \
        --tune dev.mrg --test masc=train.mrg --test gum=gum/

Every variant reads as many words as the others: the two models of two directions half as many each. For each seed a model is
trained on plain text, its layers, distance and builder are chosen on the trees of `--tune`, and it is scored on those of
`--test`: sentence F1 by the default protocol, without a word from punctuation; beside it what it scores unchosen, its second
layer (or the second of both) with the paper's builder. `dev.mrg` and `train.mrg` are what `odd_trees.py` makes of MASC. The
same command goes on where it was; `--table` only prints.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ordtool import Parser, read_trees, score_trees, train_parser
from ordtool.parsing.config import ParseConfig
from ordtool.parsing.training.recipes import recipe
from ordtool.parsing.training.selection import sample_trees
from ordtool.parsing.trees.treebank import Tree

VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "reversed": {"input_gate": "reversed"},
    "both directions": {"bidirectional": True},
}


def train(variant: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train a model, or go on with it, or find it done; and say how it ended."""
    folder = options.work / f"{variant.replace(' ', '-')}-{seed}"
    changes = VARIANTS[variant]
    epochs = options.epochs / (2 if changes.get("bidirectional") else 1)
    config = recipe(
        "small", layout="sentences", vocab_size=options.vocab_size, embedding_size=options.embedding,
        hidden_size=options.hidden, chunk_size=options.chunk, epochs=epochs, batch_size=options.batch_size, shards=1,
        seed=seed, dtype=options.dtype, **changes,
    )  # fmt: skip
    if not folder.exists():
        busy = time.process_time()
        resume = Path(f"{folder}.training").exists()
        train_parser(options.text, folder, config, tune=options.tune, threads=1, device="cpu", resume=resume)
        print(f"{folder.name}: {time.process_time() - busy:.0f} processor seconds", flush=True)
    history = json.loads((folder / "training.json").read_text())["history"]
    ends = {record.get("direction"): record["dev_perplexity"] for record in history}
    settings = json.loads((folder / "config.json").read_text())
    chosen = {name: settings[name] for name in ("parse_layer_weights", "parse_builder", "parse_distance")}
    return {"folder": folder, "perplexity": list(ends.values()), **chosen}


def score(folder: Path, trees: list[Tree], options: argparse.Namespace, **how: Any) -> float:
    """Sentence F1 of a model's trees."""
    config = ParseConfig(model=str(folder), punctuation=False, device="cpu", dtype=options.dtype, **how)
    found = Parser(config).parse(list(tree.tokens) for tree in trees)
    return score_trees([parse.spans for parse in found], trees, baselines=False)[0].sentence_f1


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Train and score what is not there yet, seed by seed, and yield every row."""
    path = options.work / "rows.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(row["variant"], row["seed"]): row for row in rows}
    tests = {} if options.table else {name: _trees(source, options) for name, source in options.test}
    for seed in range(1, options.seeds + 1):
        for variant, changes in VARIANTS.items():
            if (variant, seed) in done:
                yield done[variant, seed]
            elif not options.table:
                made = train(variant, seed, options)
                folder = made.pop("folder")
                layer = "2,5" if changes.get("bidirectional") else "2"
                plain = {
                    "layer": layer,
                    "builder": "paper",
                    "right_branching_bias": 0.0,
                    "distance": "forget",
                }
                row = {"variant": variant, "seed": seed, **made}
                row["unchosen"] = {name: score(folder, t, options, **plain) for name, t in tests.items()}
                row["chosen"] = {name: score(folder, t, options) for name, t in tests.items()}
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                yield row


def _trees(source: str, options: argparse.Namespace) -> list[Tree]:
    return sample_trees((tree for tree in read_trees([source]) if len(tree.tokens) > 1), options.trees)


def table(rows: list[dict[str, Any]]) -> str:
    """Set mean and spread of the seeds beside each other, in Markdown."""
    names = [(kind, name) for kind in ("unchosen", "chosen") for name in rows[0][kind]]
    lines = [f"| | seeds | perplexity | {' | '.join(f'{name}, {kind}' for kind, name in names)} |"]
    lines.append(f"|---|--:|--:|{'--:|' * len(names)}")
    for variant in VARIANTS:
        own = [row for row in rows if row["variant"] == variant]
        if not own:
            continue
        cells = [_spread([row[kind][name] for row in own]) for kind, name in names]
        ends = [_spread(list(values)) for values in zip(*(row["perplexity"] for row in own), strict=True)]
        lines.append(f"| {variant} | {len(own)} | {'; '.join(ends)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def main(arguments: list[str] | None = None) -> None:
    """Train, score and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="where models and figures are kept")
    parser.add_argument("--text", nargs="+", default=[], help="training text, a sentence a line")
    parser.add_argument("--tune", help="development trees")
    parser.add_argument(
        "--test", action="append", default=[], help="NAME=TREES", type=lambda x: x.split("=", 1)
    )
    parser.add_argument("--trees", type=int, default=1000, help="most trees of a test")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--vocab-size", type=int, default=4000)
    parser.add_argument("--embedding", type=int, default=96)
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--chunk", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for row in measure(options):
        rows.append(row)
        print(json.dumps(row), flush=True)
    if rows:
        print(table(rows))


if __name__ == "__main__":
    main()
