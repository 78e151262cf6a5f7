"""Which punctuation bonus makes the best trees? Asked of a treebank that is named, never of a test set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ordtool.errors import OrdtoolError
from ordtool.parsing.pcfg.inference import PcfgParser
from ordtool.parsing.trees.builders import unbiased_spans
from ordtool.parsing.trees.punctuation import punctuation_between
from ordtool.parsing.trees.scoring import score_trees
from ordtool.parsing.trees.treebank import Tree
from ordtool.progress import Progress

__all__ = ["choose_punctuation", "score_parser"]

# Nats that are tried, one kind after the other; a hyphen holds the words on its sides together.
_STEPS: tuple[tuple[tuple[str, ...], tuple[float, ...]], ...] = (
    (("comma",), (0.5, 1.0, 2.0, 4.0)),
    (("open", "close"), (1.0, 3.0)),
    (("colon",), (1.0, 3.0)),
    (("dash",), (1.0, 3.0)),
    (("hyphen",), (-1.0, -3.0)),
    (("quote",), (0.5, 1.0)),
)


def score_parser(parser: PcfgParser, trees: Sequence[Tree]) -> float:
    """Return the sentence F1 of a grammar's trees in percent, by the default protocol.

    Raises:
        OrdtoolError: No tree has two words.
    """
    vocabulary = parser.vocabulary
    gold, sentences, between, positions = [], [], [], []
    for tree in trees:
        dropped = [
            vocabulary.drop_punctuation and (mark or not vocabulary.keeps(token))
            for token, mark in zip(tree.tokens, tree.punctuation, strict=True)
        ]
        kept = [k for k, drop in enumerate(dropped) if not drop]
        if len(kept) > 1:
            gold.append(tree)
            positions.append(kept)
            sentences.append([tree.tokens[k] for k in kept])
            between.append(punctuation_between(tree.tokens, dropped, tree.tags))
    if not gold:
        raise OrdtoolError(
            "no tree of two words or more in the treebank", "name a folder of Penn-style trees"
        )
    predictions = []
    measured = parser.distances(vocabulary.encode_words(sentences), punctuation=between)
    for kept, distances in zip(positions, measured, strict=True):
        predictions.append([(kept[i], kept[j - 1] + 1) for i, j in unbiased_spans(distances[0])])
    return score_trees(predictions, gold, baselines=False)[0].sentence_f1


def choose_punctuation(
    parser: PcfgParser, trees: Sequence[Tree], paths: Sequence[str | Path], progress: Progress
) -> dict[str, Any]:
    """Find the punctuation bonus that makes the best trees, and give it to the parser.

    Args:
        parser: Its `punctuation_bonus` is replaced.
        trees: A development treebank.
        paths: Where it is from, for its name.
        progress: Told of each bonus that was tried.

    Returns:
        `parse_punctuation_bonus` and `parse_tuned_on` of a model's configuration.
    """
    name = ", ".join("/".join(Path(path).parts[-2:]) for path in paths)
    best: dict[str, float] = {}
    parser.punctuation_bonus = {}
    highest = score_parser(parser, trees)
    progress.note(f"{name}: {highest:5.1f}  no punctuation")
    if parser.vocabulary.drop_punctuation:
        for kinds, weights in _STEPS:
            before = best
            for weight in weights:
                tried = {**before, **dict.fromkeys(kinds, weight)}
                parser.punctuation_bonus = tried
                score = score_parser(parser, trees)
                progress.note(f"{name}: {score:5.1f}  {', '.join(f'{k} {w:g}' for k, w in tried.items())}")
                if score > highest:
                    highest, best = score, tried
    parser.punctuation_bonus = best
    chosen = f"{name} ({len(trees):,} sentences): sentence F1 {highest:.1f}"
    progress.note(f"chosen on {chosen}")
    return {"parse_punctuation_bonus": best, "parse_tuned_on": chosen}
