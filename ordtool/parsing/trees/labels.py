"""Labelled trees over words, with the punctuation put back."""

from __future__ import annotations

from collections.abc import Sequence

from ordtool.parsing.trees.chart import Span
from ordtool.parsing.trees.punctuation import matching_pairs, place_constituents, punctuation_tags
from ordtool.parsing.trees.treebank import Constituent

__all__ = ["label_tokens"]

_PARENTHESIS = "PRN"


def label_tokens(
    constituents: Sequence[Constituent],
    tags: Sequence[str] | None,
    tokens: Sequence[str],
    punctuation: Sequence[bool],
    offsets: Sequence[tuple[int, int]] | None = None,
) -> tuple[list[Constituent], tuple[str, ...] | None]:
    """Make a labelled tree over all tokens of one over the words alone; punctuation hangs as in `attach_punctuation`.

    Brackets and quotes around a constituent are joined to it; those of a parenthesis (PRN), and what stands at the edges of
    a sentence, are outside of further nodes over the same words.

    Args:
        constituents: Nodes over words, parents before children.
        tags: Parts of speech of the words; None: not known.
        tokens: All tokens.
        punctuation: Which of them is punctuation.
        offsets: Character offsets, half-open, where they are known: they tell quotes from apostrophes, dashes from hyphens.

    Returns:
        Nodes over tokens, parents before children; and a tag a token, that of punctuation by its surface and its partner.
    """
    words = list(dict.fromkeys((start, end) for _, start, end in constituents if end - start > 1))
    pairs = matching_pairs(tokens, punctuation, offsets)
    placed, without_pair, bare = place_constituents(words, punctuation, pairs)
    length = len(punctuation) - sum(punctuation)
    nodes: list[Constituent] = []
    inside: dict[Span, Span] = {}
    for label, start, end in constituents:
        at = inside.get((start, end), placed[start, end])
        whole = (start, end) == (0, length)
        if whole and (start, end) not in inside:
            at = (0, len(tokens))
        if whole or label == _PARENTHESIS:
            inside[start, end] = without_pair[start, end]
        nodes.append(Constituent(label, *at))
    labelled = {(start, end) for _, start, end in constituents}
    # Brackets around a word that is no phrase by itself, or around none.
    nodes += [
        Constituent(_PARENTHESIS, *at)
        for span, at in placed.items()
        if at[1] - at[0] > 1 and span not in labelled
    ]
    nodes += [Constituent(_PARENTHESIS, *at) for at in bare]
    if (0, len(tokens)) not in {node[1:] for node in nodes}:
        nodes.append(Constituent("", 0, len(tokens)))
    nodes.sort(key=lambda node: (node.start, -node.end))
    if tags is None:
        return nodes, None
    own = iter(tags)
    marks = punctuation_tags(tokens, punctuation, pairs, offsets)
    return nodes, tuple(next(own) if tag is None else tag for tag in marks)
