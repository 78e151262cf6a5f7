"""Labelled trees over words, with the punctuation put back."""

from __future__ import annotations

from collections.abc import Sequence

from ordtool.parsing.trees.chart import Span
from ordtool.parsing.trees.punctuation import place_constituents, punctuation_tag
from ordtool.parsing.trees.treebank import Constituent

__all__ = ["label_tokens"]

_PARENTHESIS = "PRN"


def label_tokens(
    constituents: Sequence[Constituent],
    tags: Sequence[str] | None,
    tokens: Sequence[str],
    punctuation: Sequence[bool],
) -> tuple[list[Constituent], tuple[str, ...] | None]:
    """Make a labelled tree over all tokens of one over the words alone; punctuation hangs as in `attach_punctuation`.

    Brackets and quotes around a constituent are joined to it; those of a parenthesis (PRN), and what stands at the edges of
    a sentence, are outside of further nodes over the same words.

    Args:
        constituents: Nodes over words, parents before children.
        tags: Parts of speech of the words; None: not known.
        tokens: All tokens.
        punctuation: Which of them is punctuation.

    Returns:
        Nodes over tokens, parents before children; and a tag a token, that of punctuation by its surface.
    """
    words = list(dict.fromkeys((start, end) for _, start, end in constituents if end - start > 1))
    placed, bare = place_constituents(words, tokens, punctuation)
    positions = [k for k, is_mark in enumerate(punctuation) if not is_mark]
    nodes: list[Constituent] = []
    inside: dict[Span, Span] = {}
    for label, start, end in constituents:
        at = inside.get((start, end), placed[start, end])
        whole = (start, end) == (0, len(positions))
        if whole and (start, end) not in inside:
            at = (0, len(tokens))
        if whole or label == _PARENTHESIS:
            inside[start, end] = (positions[start], positions[end - 1] + 1)
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
    return nodes, tuple(
        punctuation_tag(token) if is_mark else next(own)
        for token, is_mark in zip(tokens, punctuation, strict=True)
    )
