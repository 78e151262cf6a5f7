"""Phrases of a dependency treebank (CoNLL-U) as bracketed trees, to score unlabelled parsers with.

    python benchmarks/ud_trees.py TREEBANK.conllu > trees.mrg

A phrase is a word with all that depends on it, if that is two words or more, unbroken, and not the whole sentence;
punctuation neither makes nor breaks one. Heads are flat: a clause has a subject, a verb and an object side by side, and
no verb phrase. So there are few phrases to a sentence, and a binary tree, which has more of them, can't come near 100.
"""

import sys
from collections.abc import Iterator
from typing import NamedTuple

from ordtool.parsing.trees.treebank import escape_token


class Word(NamedTuple):
    """A word of a sentence: its form, universal tag and head (from 1; 0 for the root)."""

    form: str
    tag: str
    head: int


def read_conllu(lines: Iterator[str]) -> Iterator[list[Word]]:
    """The sentences of a file; words that are split into several, and empty ones, are left out."""
    words: list[Word] = []
    for line in lines:
        columns = line.rstrip("\n").split("\t")
        if len(columns) == 10 and columns[0].isdigit():
            words.append(Word(columns[1], columns[3], int(columns[6])))
        elif not line.strip() and words:
            yield words
            words = []
    if words:
        yield words


def phrases(words: list[Word]) -> set[tuple[int, int]]:
    """The spans of unbroken subtrees, half-open, from their first word to their last one."""
    kept = [k for k, word in enumerate(words) if word.tag != "PUNCT"]
    rank = {k: place for place, k in enumerate(kept)}
    below: dict[int, list[int]] = {k: [] for k in kept}
    for k in kept:
        above, steps = k, 0
        while above >= 0 and steps <= len(words):
            if above in below:
                below[above].append(k)
            above, steps = words[above].head - 1, steps + 1
    found = set()
    for members in below.values():
        places = [rank[k] for k in members]
        unbroken = places[-1] - places[0] == len(places) - 1
        if 1 < len(places) < len(kept) and unbroken:
            found.add((members[0], members[-1] + 1))
    return found


def brackets(words: list[Word], spans: set[tuple[int, int]]) -> str:
    """A tree of the words with one node a span."""
    opened = [0] * (len(words) + 1)
    closed = [0] * (len(words) + 1)
    for start, end in spans:
        opened[start] += 1
        closed[end] += 1
    pieces = []
    for k, word in enumerate(words):
        pieces.append(
            "(X " * opened[k]
            + f"({word.tag} {escape_token(word.form.replace(' ', ''))})"
            + ")" * closed[k + 1]
        )
    return f"(ROOT (S {' '.join(pieces)}))"


def main() -> None:
    for path in sys.argv[1:]:
        with open(path, encoding="utf-8") as lines:
            for words in read_conllu(lines):
                print(brackets(words, phrases(words)))


if __name__ == "__main__":
    main()
