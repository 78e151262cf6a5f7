"""Predicted trees: read from JSONL or brackets, and laid over the tokens of gold trees."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ordtool.errors import OrdtoolError
from ordtool.io.inputs import Input, open_input
from ordtool.io.jsonl import holds_jsonl
from ordtool.io.tables import rows_of
from ordtool.parsing.trees.chart import Span
from ordtool.parsing.trees.recognition import is_labelled
from ordtool.parsing.trees.treebank import (
    Constituent,
    Tree,
    decided_brackets,
    to_tree,
    to_unlabelled_tree,
    tree_files,
    unescape_token,
)

_DIGITS = re.compile(r"[0-9]+(?:[.,][0-9]+)*")
_QUOTES = {mark: '"' for mark in ("``", "''", "“", "”", "‘", "’", "`", "'", "„")}


@dataclass(frozen=True, slots=True)
class Prediction:
    """A predicted tree.

    Attributes:
        tokens: Its tokens.
        spans: Constituents over the tokens, half-open.
        where: `file:line`.
        tags: A part-of-speech tag for each token, where they are known.
        offsets: Where each token stands in its text, half-open, where that is known.
        constituents: Labelled nodes, parents before children, where there are labels.
        posteriors: Spans with the probability that each is a constituent, where somebody said so; others have none.
    """

    tokens: tuple[str, ...]
    spans: tuple[Span, ...]
    where: str
    tags: tuple[str, ...] | None = None
    offsets: tuple[Span, ...] | None = None
    constituents: tuple[Constituent, ...] | None = None
    posteriors: tuple[tuple[int, int, float], ...] | None = None


def read_predictions(path: str | Path) -> Iterator[list[Prediction]]:
    """Read predicted trees.

    Args:
        path: A JSONL file as `ordtool parse` writes it (`tokens` and `spans`), a file or folder of bracketed trees, with
            labels or without, or `-` for stdin; its beginning decides.

    Yields:
        The readings of each tree: one, or two where brackets can be read with labels and without (`(a (b c))`), the first as
        the other trees of the file are.

    Raises:
        OrdtoolError: With `file:line`, for what can't be read, missing fields, or spans that don't fit their tokens.
    """
    for file in tree_files([path]):
        with open_input(file) as stream:
            if holds_jsonl(stream):
                yield from ([_from_json(row.data, row.where)] for row in rows_of(stream, jsonl=True))
            else:
                yield from _read_brackets(stream)


def _from_json(data: dict[str, Any], where: str) -> Prediction:
    tokens, spans = data.get("tokens"), data.get("spans")
    if not isinstance(tokens, list) or not isinstance(spans, list):
        missing = " and ".join(
            repr(key) for key in ("tokens", "spans") if not isinstance(data.get(key), list)
        )
        raise OrdtoolError(
            f"{where}: no list {missing}", "a prediction is what ordtool parse --format jsonl writes"
        )
    if not all(isinstance(span, list) and _fits(span, len(tokens)) for span in spans):
        raise OrdtoolError(
            f"{where}: a span is no pair of places among its {len(tokens)} tokens",
            "spans are half-open: [start, end], 0 <= start < end <= number of tokens",
        )
    tags, offsets = _parallel(data, "tags", len(tokens)), _parallel(data, "offsets", len(tokens))
    return Prediction(
        tuple(str(token) for token in tokens),
        tuple((a, b) for a, b in spans),
        where,
        None if tags is None else tuple(str(tag) for tag in tags),
        None if offsets is None else tuple((int(a), int(b)) for a, b in offsets),
        _constituents(data.get("constituents"), len(tokens), where),
        _posteriors(data.get("posteriors"), len(tokens), where),
    )


def _fits(edges: Sequence[object], length: int) -> bool:
    """Whether values are the edges of a span of tokens."""
    if len(edges) != 2:
        return False
    start, end = edges
    return type(start) is int and type(end) is int and 0 <= start < end <= length


def _constituents(values: object, length: int, where: str) -> tuple[Constituent, ...] | None:
    if values is None:
        return None
    if not isinstance(values, list) or not all(
        isinstance(node, list) and len(node) == 3 and isinstance(node[0], str) and _fits(node[1:], length)
        for node in values
    ):
        raise OrdtoolError(
            f"{where}: 'constituents' is no list of [label, start, end] over its {length} tokens",
            "a prediction is what ordtool parse --format jsonl writes",
        )
    return tuple(Constituent(*node) for node in values)


def _posteriors(values: object, length: int, where: str) -> tuple[tuple[int, int, float], ...] | None:
    if values is None:
        return None
    if not isinstance(values, list) or not all(
        isinstance(entry, list)
        and len(entry) == 3
        and _fits(entry[:2], length)
        and isinstance(entry[2], int | float)
        and 0 <= entry[2] <= 1
        for entry in values
    ):
        raise OrdtoolError(
            f"{where}: 'posteriors' is no list of [start, end, probability] over its {length} tokens",
            "a probability is a number from 0 to 1",
        )
    return tuple((start, end, float(share)) for start, end, share in values)


def _parallel(data: dict[str, Any], key: str, length: int) -> list[Any] | None:
    """What a record says of each token under `key`; None where it says nothing, or of other tokens."""
    values = data.get(key)
    if not isinstance(values, list) or len(values) != length:
        return None
    pairs = all(isinstance(v, list) and len(v) == 2 and all(isinstance(x, int) for x in v) for v in values)
    return values if key != "offsets" or pairs else None


def _read_brackets(stream: Input) -> Iterator[list[Prediction]]:
    for atoms, where, labelled in decided_brackets(stream):
        readings = [to_tree(atoms, where), to_unlabelled_tree(atoms, where)]
        if not labelled:
            readings.reverse()
        yield [
            Prediction(
                reading.tokens,
                tuple((node.start, node.end) for node in reading.constituents),
                where,
                reading.tags if any(reading.tags) else None,
                constituents=reading.constituents if any(c.label for c in reading.constituents) else None,
            )
            for reading in (readings if is_labelled(atoms) is None else readings[:1])
        ]


def align_predictions(
    predictions: Iterable[Sequence[Prediction]], gold: Iterable[Tree]
) -> Iterator[tuple[list[Span], Tree]]:
    """Lay the spans of predictions over gold trees, in order; see `align_constituents`.

    Yields:
        The prediction's spans over the gold tree's tokens, and the gold tree.

    Raises:
        OrdtoolError: If tokens differ, or there are more predictions than gold trees or fewer.
    """
    for prediction, places, tree in _aligned(predictions, gold):
        yield [(places[start], places[end - 1] + 1) for start, end in prediction.spans], tree


def align_constituents(
    predictions: Iterable[Sequence[Prediction]], gold: Iterable[Tree]
) -> Iterator[tuple[list[Constituent], Tree]]:
    """Lay the labelled nodes of predictions over gold trees, in order.

    The tokens must be those of the gold tree, all of them or those that aren't punctuation; case, digits, quotes and
    bracket names may be written in another way.

    Yields:
        The prediction's nodes over the gold tree's tokens, and the gold tree.

    Raises:
        OrdtoolError: If a prediction has no labels, tokens differ, or there are more predictions than gold trees or fewer.
    """
    for prediction, places, tree in _aligned(predictions, gold):
        if prediction.constituents is None:
            raise OrdtoolError(
                f"{prediction.where}: a tree without labels",
                "labels come from a model that has learned some, such as ordtool parse -m english-gold",
            )
        nodes = [
            Constituent(label, places[start], places[end - 1] + 1)
            for label, start, end in prediction.constituents
        ]
        yield nodes, tree


def _aligned(
    predictions: Iterable[Sequence[Prediction]], gold: Iterable[Tree]
) -> Iterator[tuple[Prediction, list[int], Tree]]:
    """Yield each prediction that fits its gold tree, the place of each of its tokens there, and the gold tree."""
    count = 0
    for readings, tree in zip_longest(predictions, gold):
        count += 1
        if readings is None or tree is None:
            _refuse_count(readings, tree, count)
        for prediction in readings:
            places = _align(prediction.tokens, tree)
            if places is not None:
                yield prediction, places, tree
                break
        else:
            _refuse_tokens(readings[0], tree)


def _refuse_count(readings: Sequence[Prediction] | None, tree: Tree | None, count: int) -> None:
    hint = "parse the gold file itself: ordtool parse GOLD --format jsonl -o pred.jsonl"
    if readings is None and tree is not None:
        raise OrdtoolError(
            f"{tree.where}: gold tree {count} has no prediction: there are only {count - 1}", hint
        )
    where = readings[0].where if readings else ""
    raise OrdtoolError(f"{where}: prediction {count} has no gold tree: there are only {count - 1}", hint)


def _refuse_tokens(prediction: Prediction, tree: Tree) -> None:
    pairs = zip_longest(prediction.tokens, tree.tokens, fillvalue="nothing")
    mine, theirs = next(((a, b) for a, b in pairs if not _alike(a, b)), ("", ""))
    raise OrdtoolError(
        f"{prediction.where}: the tokens are not those of {tree.where} (found {mine!r}, expected {theirs!r})",
        "parse the gold file itself, which keeps its tokens: ordtool parse GOLD --format jsonl",
    )


def _align(tokens: Sequence[str], tree: Tree) -> list[int] | None:
    """Return each token's place in the gold tree, where punctuation may be skipped; None if they differ."""
    if len(tokens) == len(tree.tokens):
        same = all(map(_alike, tokens, tree.tokens))
        return list(range(len(tokens))) if same else None
    places: list[int] = []
    marks = tree.punctuation
    for place, token in enumerate(tree.tokens):
        if len(places) < len(tokens) and _alike(tokens[len(places)], token):
            places.append(place)
        elif not marks[place] and any(character.isalnum() for character in token):
            return None
    return places if len(places) == len(tokens) else None


def _alike(left: str, right: str) -> bool:
    return left == right or left == "<unk>" or _normal(left) == _normal(right)


@lru_cache(maxsize=1 << 16)
def _normal(token: str) -> str:
    token = unescape_token(token)
    return _QUOTES.get(token) or _DIGITS.sub("n", token.replace("’", "'").casefold())
