"""What a parser gives: a sentence with its tree, and the ways to write and draw it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ordtool.parsing.trees.chart import Span
from ordtool.parsing.trees.draw import draw_tree, to_ansi
from ordtool.parsing.trees.svg import draw_svg
from ordtool.parsing.trees.treebank import Constituent, write_brackets, write_penn


@dataclass(frozen=True)
class Parse:
    """A sentence with its tree.

    Attributes:
        text: The text as it was given.
        tokens: Its tokens, surfaces unchanged.
        offsets: Where each token stands in the text, in characters, half-open.
        distances: Height of the boundary before each token, from 0 to about 1; 0 for punctuation, which the model
            doesn't read.
        spans: Constituents wider than one token, half-open, in pre-order.
        tags: Part-of-speech tags, where the input had them or the model gives them.
        data: Keys that are passed through.
        where: `file:line`.
        posteriors: Start, end and probability of every span wider than one token that isn't improbable; None: not asked for.
        constituents: Nodes with their labels, those over one token too, parents before children; None: there are no labels.
    """

    text: str
    tokens: list[str]
    offsets: list[Span]
    distances: list[float]
    spans: list[Span]
    tags: tuple[str, ...] | None = None
    data: dict[str, Any] | None = None
    where: str = ""
    posteriors: list[tuple[int, int, float]] | None = None
    constituents: list[Constituent] | None = None

    @cached_property
    def tree(self) -> str:
        """The tree as brackets without labels: `((The cat) (sat down) .)`."""
        return write_brackets(self.tokens, self.spans)

    @property
    def penn(self) -> str:
        """The tree as a treebank writes it, with a label `X` where there is none: `(X (X The) (X cat))`."""
        return write_penn(self.tokens, self.spans, self.tags, self.constituents)

    def draw(self, width: int = 80) -> str:
        """Draw the tree with lines, within `width` columns of a terminal; see `draw_tree`."""
        return to_ansi(draw_tree(self.tokens, self.spans, width), colour=False)

    def to_svg(self) -> str:
        """Draw the tree as an SVG document."""
        return draw_svg([(self.tokens, self.spans)])

    def to_nltk(self) -> Any:
        """Return an `nltk.Tree` of it; without words it is `None`."""
        from nltk import Tree

        return Tree.fromstring(self.penn) if self.tokens else None

    def _repr_svg_(self) -> str:
        """What a notebook shows."""
        return self.to_svg()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of the JSON output after the keys that are passed through."""
        fields: dict[str, Any] = {
            "text": self.text,
            "tokens": self.tokens,
            "offsets": self.offsets,
            "distances": self.distances,
            "spans": self.spans,
            "tree": self.tree,
        }
        if self.posteriors is not None:
            fields["posteriors"] = self.posteriors
        if self.constituents is not None:
            fields["constituents"] = [list(node) for node in self.constituents]
        if self.tags is not None:
            fields["tags"] = list(self.tags)
        return {**(self.data or {}), **fields}
