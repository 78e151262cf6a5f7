"""Trees without a model, raised at punctuation as a model's own are: what its weights of marks are worth alone.

    python benchmarks/punctuation_bonus.py MODEL TREES...

Sentence F1 by the default protocol of right-branching, left-branching and balanced trees whose boundaries are raised by the
weights in MODEL's configuration, and how many words its vocabulary lacks.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ordtool.models.resolve import resolve_model
from ordtool.parsing.text.vocabulary import Vocabulary
from ordtool.parsing.trees.builders import build_spans
from ordtool.parsing.trees.config import TreeConfig
from ordtool.parsing.trees.punctuation import add_punctuation_bonus, punctuation_between
from ordtool.parsing.trees.scoring import score_trees
from ordtool.parsing.trees.treebank import Tree, read_trees


def balanced(length: int) -> np.ndarray:
    """Distances whose unbiased tree is balanced: minus the depth at which each boundary splits."""
    distances = np.zeros(length)
    stack = [(0, length, 0)]
    while stack:
        start, end, depth = stack.pop()
        if end - start > 1:
            middle = (start + end) // 2
            distances[middle] = -depth
            stack += [(start, middle, depth + 1), (middle, end, depth + 1)]
    return distances


SHAPES: dict[str, Callable[[int], np.ndarray]] = {
    "right": lambda length: np.linspace(1, 0, length),
    "left": lambda length: np.linspace(0, 1, length),
    "balanced": balanced,
}


def spans_with_bonus(
    tree: Tree, shape: Callable[[int], np.ndarray], weights: dict[str, float]
) -> list[tuple[int, int]]:
    """The spans, over all tokens, of one sentence's tree."""
    words = [k for k, is_mark in enumerate(tree.punctuation) if not is_mark]
    if len(words) < 2:
        return []
    punctuation = punctuation_between(tree.tokens, tree.punctuation, tree.tags)
    distances = add_punctuation_bonus(shape(len(words)), punctuation, weights)
    return [(words[start], words[end - 1] + 1) for start, end in build_spans(distances, "unbiased")]


def main() -> None:
    folder = resolve_model(sys.argv[1])
    config = json.loads((Path(folder) / "config.json").read_text())
    weights = dict(TreeConfig.from_model(config).punctuation_bonus)
    vocabulary = Vocabulary.from_folder(folder)
    print(f"punctuation bonus: {weights}")
    for path in sys.argv[2:]:
        trees = list(read_trees([path]))
        for name, shape in SHAPES.items():
            spans = [spans_with_bonus(tree, shape, weights) for tree in trees]
            [row] = score_trees(spans, trees, baselines=False)
            print(
                f"{path}: {name}, with the bonus: sentence F1 {row.sentence_f1:.1f}, corpus F1 {row.corpus_f1:.1f}"
            )
        words = [w for t in trees for w, is_mark in zip(t.tokens, t.punctuation, strict=True) if not is_mark]
        unknown = sum(vocabulary.tokens[vocabulary.word_id(word)].startswith("<unk") for word in words)
        print(f"{path}: {100 * unknown / len(words):.1f}% of {len(words):,} words unknown")


if __name__ == "__main__":
    main()
