"""What a teacher thinks of Chinese sentences, mended by what is known of Chinese: lessons for the pupil of train_chinese.sh.

    python benchmarks/chinese_trees.py TEXT.jsonl > LESSONS.jsonl
    python benchmarks/chinese_trees.py --unlabelled < TREES.mrg > TREES.jsonl      # gold trees without their labels

TEXT.jsonl is what `ordtool parse --posteriors` wrote. A teacher that learned phrases from English takes the particles of
Chinese for prepositions: `了 X`, where it is `V 了`. So no phrase begins with a particle, and none ends with a preposition
or a conjunction; their probabilities are divided by 50. Treebanks often set the last character of a longer word apart
(加速|度), and jieba doesn't: in a third of the sentences words of three characters or more come apart there, half of them,
each a phrase, so that the pupil meets both ways of writing.
"""

import json
import random
import sys

import numpy as np

from ordtool.parsing.text.chinese import is_han
from ordtool.parsing.trees.chart import chart_trees
from ordtool.parsing.trees.punctuation import is_punctuation
from ordtool.parsing.trees.treebank import read_trees

NEVER_FIRST = frozenset("的 了 着 们 得 地 之 等 吗 呢 吧 啊 性 度 者 化 率 型 界".split())
NEVER_LAST = frozenset(
    "和 与 或 及 以及 在 从 对 把 被 向 以 由 于 并 而 但 但是 因为 如果 虽然 是 为 将".split()
)
LESS = 0.02
LEAST = 0.05
"""Spans less likely than that aren't written."""

Span = tuple[int, int]


def mend(tokens: list[str], spans: dict[Span, float]) -> dict[Span, float]:
    """Make spans unlikely that begin with a particle, or end with a word that governs what follows."""
    return {
        (start, end): share * (LESS if tokens[start] in NEVER_FIRST or tokens[end - 1] in NEVER_LAST else 1)
        for (start, end), share in spans.items()
    }


def come_apart(
    tokens: list[str], spans: dict[Span, float], rng: random.Random
) -> tuple[list[str], dict[Span, float]]:
    """Set the last character of some words apart; the two parts are a phrase."""
    parts = [
        [word[:-1], word[-1]] if len(word) > 2 and all(map(is_han, word)) and rng.random() < 0.5 else [word]
        for word in tokens
    ]
    begins = np.cumsum([0, *map(len, parts)]).tolist()
    moved = {(begins[start], begins[end]): share for (start, end), share in spans.items()}
    moved |= {(begins[k], begins[k + 1]): 1.0 for k, part in enumerate(parts) if len(part) > 1}
    return [piece for part in parts for piece in part], moved


def lesson(tokens: list[str], spans: dict[Span, float]) -> dict[str, object]:
    """A record that `train spans` reads: probabilities, and the tree with the largest sum of them."""
    words = [k for k, token in enumerate(tokens) if not is_punctuation(token)]
    rank = {k: place for place, k in enumerate(words)}
    table = np.zeros((len(words), len(words) + 1))
    for (start, end), share in spans.items():
        table[rank[start], rank[end - 1] + 1] = share
    [tree] = chart_trees([table])
    return {
        "tokens": tokens,
        "spans": [[words[start], words[end - 1] + 1] for start, end in tree if end - start > 1],
        "posteriors": [[*span, round(share, 3)] for span, share in sorted(spans.items()) if share >= LEAST],
    }


def unlabelled() -> None:
    """Write the spans of bracketed trees: those of a dependency treebank have no label worth learning."""
    for tree in read_trees(["-"]):
        spans = sorted({(part.start, part.end) for part in tree.constituents})
        print(json.dumps({"tokens": tree.tokens, "spans": spans}, ensure_ascii=False))


def main() -> None:
    """Write the lessons."""
    if sys.argv[1] == "--unlabelled":
        return unlabelled()
    rng = random.Random(1)
    with open(sys.argv[1], encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            tokens = record["tokens"]
            spans = mend(tokens, {(start, end): share for start, end, share in record["posteriors"]})
            if rng.random() < 1 / 3:
                tokens, spans = come_apart(tokens, spans, rng)
            print(json.dumps(lesson(tokens, spans), ensure_ascii=False))


if __name__ == "__main__":
    main()
