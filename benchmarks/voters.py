"""What each voter is worth: alone, all together, and all but one.

    python benchmarks/voters.py TREES -m MODEL -m MODEL ... [--weights 2,1,1] [--tune] [--odd | --even] [--count 500]

Sentence F1 by the default protocol of trees that models draw over the words of TREES, with punctuation and without.
`--tune` looks for weights, of 0 to 4 a model, that make the best trees with punctuation, and prints the rows with them: name
development trees for that. `--odd` and `--even` keep every second line of the file, counted from 1.
"""

import argparse
import json
from collections.abc import Sequence

import numpy as np

from ordtool.errors import OrdtoolError
from ordtool.models.resolve import resolve_model
from ordtool.parsing.loading import TreeModel, load_parser
from ordtool.parsing.trees.builders import mix_distances
from ordtool.parsing.trees.chart import chart_trees, vote_scores
from ordtool.parsing.trees.punctuation import attach_punctuation, punctuation_between
from ordtool.parsing.trees.scoring import score_trees
from ordtool.parsing.trees.treebank import Tree, read_trees
from ordtool.parsing.voting import guess_posteriors, mean_tables

Tables = list[np.ndarray]


def tables_of(model: TreeModel, trees: Sequence[Tree], punctuation: bool) -> Tables:
    """What a model thinks of every span of the words of gold trees."""
    words, between = [], []
    for tree in trees:
        words.append([t for t, mark in zip(tree.tokens, tree.punctuation, strict=True) if not mark])
        bits = punctuation_between(tree.tokens, tree.punctuation, tree.tags)
        between.append(bits if punctuation else np.zeros_like(bits))
    ids = model.vocabulary.encode_words(words)
    found: Tables = [np.zeros((0, 1))] * len(trees)
    order = sorted((k for k in range(len(trees)) if ids[k]), key=lambda k: len(ids[k]))
    for first in range(0, len(order), 32):
        batch = order[first : first + 32]
        sentences, bits = [ids[k] for k in batch], [between[k] for k in batch]
        if model.has_posteriors is True:
            tables = model.posteriors(sentences, bits)
        else:
            config = model.tree_config
            measured = model.distances(sentences)
            mixed = [mix_distances(layers, config.layer_weights) for layers in measured]
            tables = guess_posteriors(mixed, bits, config)
        for k, table in zip(batch, tables, strict=True):
            found[k] = table
    return found


def score(tables: Tables, trees: Sequence[Tree]) -> float:
    """Sentence F1 of the best trees of tables."""
    predictions = [
        attach_punctuation(spans, tree.tokens, tree.punctuation) if spans else []
        for spans, tree in zip(chart_trees(tables), trees, strict=True)
    ]
    return score_trees(predictions, trees, baselines=False)[0].sentence_f1


def hard(by_model: Sequence[Tables]) -> Tables:
    """Votes of each model's best tree."""
    found = [chart_trees(tables) for tables in by_model]
    return [vote_scores([trees[k] for trees in found], len(by_model[0][k])) for k in range(len(by_model[0]))]


def tuned(by_model: Sequence[Tables], trees: Sequence[Tree]) -> list[float]:
    """Weights that one after the other, twice over, make the best trees."""
    weights = [1.0] * len(by_model)
    best = score(mean_tables(by_model, weights), trees)
    for _ in range(2):
        for k in range(len(weights)):
            for weight in (0.0, 0.5, 1.0, 2.0, 4.0):
                tried = [*weights[:k], weight, *weights[k + 1 :]]
                if any(tried) and (found := score(mean_tables(by_model, tried), trees)) > best:
                    best, weights = found, tried
    return weights


def main() -> None:
    """Print the table, and one JSON line a row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trees", nargs="+")
    parser.add_argument("-m", "--model", action="append", required=True)
    parser.add_argument("--weights")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--odd", action="store_true")
    parser.add_argument("--even", action="store_true")
    parser.add_argument("--count", type=int)
    arguments = parser.parse_args()
    skipped: list[OrdtoolError] = []
    trees = [tree for tree in read_trees(arguments.trees, on_error=skipped.append) if len(tree.tokens) > 1]
    if arguments.odd or arguments.even:
        trees = [tree for tree in trees if int(tree.where.rsplit(":", 1)[1]) % 2 == arguments.odd]
    if arguments.count and len(trees) > arguments.count:
        step = len(trees) / arguments.count
        trees = [trees[int(k * step)] for k in range(arguments.count)]
    models = [load_parser(resolve_model(name, kind="parser")) for name in arguments.model]
    both = [[tables_of(model, trees, marks) for model in models] for marks in (True, False)]
    weights = [float(x) for x in arguments.weights.split(",")] if arguments.weights else [1.0] * len(models)
    if arguments.tune:
        weights = tuned(both[0], trees)
    names = [name.rstrip("/").split("/")[-1] for name in arguments.model]
    print(
        f"{len(trees):,} trees; weights "
        + ", ".join(f"{n} {w:g}" for n, w in zip(names, weights, strict=True))
    )
    print("| | with punctuation | without |\n|---|--:|--:|")

    def row(name: str, with_marks: float, without: float) -> None:
        print(f"| {name} | {with_marks:.1f} | {without:.1f} |")
        print(json.dumps({"voters": name, "f1": with_marks, "f1_no_punctuation": without}), flush=True)

    for k, name in enumerate(names):
        row(name, *(score(tables[k], trees) for tables in both))
    row("all, trees", *(score(hard(tables), trees) for tables in both))
    row("all, posteriors", *(score(mean_tables(tables, None), trees) for tables in both))
    if len(set(weights)) > 1:
        row("all, posteriors, weighted", *(score(mean_tables(tables, weights), trees) for tables in both))
    if len(models) > 2:
        for k, name in enumerate(names):
            rest = [j for j in range(len(models)) if j != k]
            some = [weights[j] for j in rest]
            if any(some):
                row(
                    f"all but {name}",
                    *(score(mean_tables([tables[j] for j in rest], some), trees) for tables in both),
                )


if __name__ == "__main__":
    main()
