"""Trees without a model, raised at punctuation as a model's own are: what its weights of marks are worth alone.

    python benchmarks/raised.py MODEL TREES...

Sentence F1 by the default protocol of right-branching, left-branching and balanced trees whose boundaries are raised by the
weights in MODEL's configuration, and how many words its vocabulary lacks.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ordtool.models.catalog import resolve_model
from ordtool.parsing.text.vocabulary import WordLookup
from ordtool.parsing.trees.builders import build_spans
from ordtool.parsing.trees.punctuation import marks_between, raise_marked
from ordtool.parsing.trees.scoring import score_trees
from ordtool.parsing.trees.treebank import Tree, read_trees


def balanced(length: int) -> np.ndarray:
    """Heights whose unbiased tree is balanced: minus the depth at which each boundary splits."""
    heights = np.zeros(length)
    stack = [(0, length, 0)]
    while stack:
        start, end, depth = stack.pop()
        if end - start > 1:
            middle = (start + end) // 2
            heights[middle] = -depth
            stack += [(start, middle, depth + 1), (middle, end, depth + 1)]
    return heights


SHAPES: dict[str, Callable[[int], np.ndarray]] = {
    "right": lambda length: np.linspace(1, 0, length),
    "left": lambda length: np.linspace(0, 1, length),
    "balanced": balanced,
}


def raised_spans(
    tree: Tree, shape: Callable[[int], np.ndarray], weights: dict[str, float]
) -> list[tuple[int, int]]:
    """The spans, over all tokens, of one sentence's tree."""
    words = [k for k, mark in enumerate(tree.punctuation) if not mark]
    if len(words) < 2:
        return []
    heights = raise_marked(
        shape(len(words)), marks_between(tree.tokens, tree.punctuation, tree.tags), weights
    )
    return [(words[start], words[end - 1] + 1) for start, end in build_spans(heights, "unbiased")]


def main() -> None:
    folder = resolve_model(sys.argv[1])
    weights = json.loads((Path(folder) / "config.json").read_text()).get("parse_marks") or {}
    lookup = WordLookup.from_folder(folder)
    print(f"weights of marks: {weights}")
    for path in sys.argv[2:]:
        trees = list(read_trees([path]))
        for name, shape in SHAPES.items():
            spans = [raised_spans(tree, shape, weights) for tree in trees]
            [row] = score_trees(spans, trees, baselines=False)
            print(f"{path}: {name}, raised: sentence F1 {row.sentence_f1:.1f}, corpus F1 {row.corpus_f1:.1f}")
        words = [w for t in trees for w, mark in zip(t.tokens, t.punctuation, strict=True) if not mark]
        unknown = sum(lookup.tokens[lookup.word_id(word)].startswith("<unk") for word in words)
        print(f"{path}: {100 * unknown / len(words):.1f}% of {len(words):,} words unknown")


if __name__ == "__main__":
    main()
