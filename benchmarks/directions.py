r"""ON-LSTMs with the paper's input gate, with the reversed one, and of two directions, at an equal budget.

    python benchmarks/directions.py --work /tmp/directions --text voa.txt.gz \
        --tune dev.mrg --test masc=train.mrg --test gum=gum/

Every variant reads as many words as the others: the two models of two directions half as many each. For each seed a model is
trained on plain text. For each of two builders, the layers (alone, or two of them mixed) and the master gate whose distances
make the best trees of `--tune` are scored on the trees of `--test`: sentence F1 by the default protocol, with no help from
punctuation or from a lean to the right. `dev.mrg` and `train.mrg` are what `odd_trees.py` makes of MASC. The same command
goes on where it was; `--table` only prints.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ordtool import read_trees, score_trees, train_parser
from ordtool.parsing.onlstm.directions import BACKWARD_FOLDER
from ordtool.parsing.onlstm.model import OnlstmForCausalLM
from ordtool.parsing.onlstm.tokenizer import OnlstmTokenizer
from ordtool.parsing.training.recipes import recipe
from ordtool.parsing.training.selection import candidate_settings, sample_trees, score_settings
from ordtool.parsing.trees.config import DISTANCES, TreeConfig
from ordtool.parsing.trees.treebank import Tree
from ordtool.runtime import quiet_libraries

BUILDERS = ("paper", "unbiased")
VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "reversed": {"input_gate": "reversed"},
    "both directions": {"bidirectional": True},
}


def train(variant: str, seed: int, options: argparse.Namespace) -> tuple[Path, list[float]]:
    """Train a model, or go on with it, or find it done; give its folder and its perplexities."""
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
        train_parser(options.text, folder, config, threads=1, device="cpu", resume=resume)
        print(f"{folder.name}: {time.process_time() - busy:.0f} processor seconds", flush=True)
    history = json.loads((folder / "training.json").read_text())["history"]
    return folder, list({record.get("direction"): record["dev_perplexity"] for record in history}.values())


def choose(folder: Path, development: list[Tree], tests: dict[str, list[Tree]]) -> dict[str, Any]:
    """Choose layers and gate on trees, for each builder, and score the choice on others."""
    models = [OnlstmForCausalLM.from_pretrained(folder, trust_remote_code=False)]
    if (folder / BACKWARD_FOLDER).exists():
        models.append(OnlstmForCausalLM.from_pretrained(folder / BACKWARD_FOLDER, trust_remote_code=False))
    tokenizer = OnlstmTokenizer.from_pretrained(folder, trust_remote_code=False)

    def score(trees: list[Tree], settings: list[TreeConfig]) -> dict[TreeConfig, float]:
        return score_settings(models[0], tokenizer, trees, settings, *models[1:])

    layers = [model.config.num_hidden_layers for model in models]
    tried = candidate_settings(sum(layers), BUILDERS, backward=sum(layers[1:]), distances=DISTANCES)
    scores = score(development, tried)
    best = {
        builder: max((s for s in tried if s.builder == builder), key=lambda setting: scores[setting])
        for builder in BUILDERS
    }
    found = {name: score(trees, list(best.values())) for name, trees in tests.items()}
    return {
        "chosen": {builder: setting.name for builder, setting in best.items()},
        "f1": {f"{name}, {b}": found[name][setting] for name in tests for b, setting in best.items()},
    }


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Train and score what is not there yet, seed by seed, and yield every row."""
    path = options.work / "rows.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(row["variant"], row["seed"]): row for row in rows}
    tests = {} if options.table else {name: _trees(source, options) for name, source in options.test}
    development = [] if options.table else _trees(options.tune, options)
    for seed in range(1, options.seeds + 1):
        for variant in VARIANTS:
            if (variant, seed) in done:
                yield done[variant, seed]
            elif not options.table:
                folder, perplexities = train(variant, seed, options)
                row = {"variant": variant, "seed": seed, "perplexity": perplexities}
                row |= choose(folder, development, tests)
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                yield row
    for name, trees in tests.items():
        right = next(row for row in score_trees([[] for _ in trees], trees) if row.system == "right")
        print(f"right-branching trees, {name}: {right.sentence_f1:.1f}", flush=True)


def _trees(source: str, options: argparse.Namespace) -> list[Tree]:
    return sample_trees((tree for tree in read_trees([source]) if len(tree.tokens) > 1), options.trees)


def table(rows: list[dict[str, Any]]) -> str:
    """Set mean and spread of the seeds beside each other, in Markdown."""
    names = list(rows[0]["f1"])
    lines = [f"| | seeds | perplexity | {' | '.join(names)} |", f"|---|--:|--:|{'--:|' * len(names)}"]
    for variant in VARIANTS:
        own = [row for row in rows if row["variant"] == variant]
        if own:
            cells = [_spread([row["f1"][name] for row in own]) for name in names]
            ends = zip(*(row["perplexity"] for row in own), strict=True)
            perplexities = "; ".join(_spread(list(values)) for values in ends)
            lines.append(f"| {variant} | {len(own)} | {perplexities} | {' | '.join(cells)} |")
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
    quiet_libraries()
    options.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for row in measure(options):
        rows.append(row)
        print(json.dumps(row), flush=True)
    if rows:
        print(table(rows))


if __name__ == "__main__":
    main()
