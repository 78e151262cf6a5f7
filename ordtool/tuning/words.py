"""Sentences whose words have labels, such as parts of speech: from JSONL and CoNLL-U to token ids and targets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordtool.arguments import as_strings
from ordtool.errors import OnError, OrdtoolError, reject
from ordtool.io.conllu import conllu_sentences, holds_conllu
from ordtool.io.inputs import Input, open_input
from ordtool.io.tables import rows_of
from ordtool.tuning.data import Fields
from ordtool.tuning.encoding import NO_TARGET, Encoded, check_offsets, filler

TREEBANK_TAGS = "xpos"
_HINT = "`field` and `label_field` name the fields"
_WORD = re.compile(r"[^\W_]+(?:['’.,-][^\W_]+)*|\S")


@dataclass(frozen=True, slots=True)
class TaggedSentence:
    """A sentence, its words, and perhaps their labels.

    Attributes:
        where: `file:line`.
        text: The sentence.
        offsets: Where each word stands in it, in characters, half-open.
        labels: Of each word; None where they aren't known.
        data: The object that it came in.
    """

    where: str
    text: str
    offsets: tuple[tuple[int, int], ...]
    labels: tuple[str, ...] | None = None
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def words(self) -> tuple[str, ...]:
        """The words."""
        return tuple(self.text[start:stop] for start, stop in self.offsets)


def split_words(text: str) -> tuple[tuple[int, int], ...]:
    """Find the words of a text, for texts that come without: runs of letters and digits, and each other sign alone."""
    return tuple(found.span() for found in _WORD.finditer(text))


def joined(words: Sequence[str]) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Put words together with spaces between; return the text and where each word stands."""
    offsets, position = [], 0
    for word in words:
        offsets.append((position, position + len(word)))
        position += len(word) + 1
    return " ".join(words), tuple(offsets)


def read_tagged(paths: str | Path | Sequence[str | Path], fields: Fields) -> list[TaggedSentence]:
    """Read sentences with labels; `-` is stdin.

    Args:
        paths: JSONL with a list of words and a list of labels, or CoNLL-U.
        fields: Their keys; of CoNLL-U the labels are universal tags, or with `xpos` those of the treebank.

    Raises:
        OrdtoolError: With `file:line`, for a sentence without words or labels, or with more of one than of the other.
    """
    paths = as_strings(paths)
    found = []
    for path in paths:
        with open_input(path) as stream:
            found += [_labelled(sentence, fields) for sentence in tagged_sentences(stream, fields)]
    if not found:
        raise OrdtoolError(
            f"{', '.join(paths)}: holds no records", 'a line looks like {"tokens": [...], "labels": [...]}'
        )
    return found


def _labelled(sentence: TaggedSentence, fields: Fields) -> TaggedSentence:
    if sentence.labels is None:
        raise OrdtoolError(f"{sentence.where}: its words have no labels under {fields.label!r}", _HINT)
    return sentence


def tagged_sentences(
    stream: Input, fields: Fields, on_error: OnError | None = None
) -> Iterator[TaggedSentence]:
    """Read the sentences of CoNLL-U, or of JSON lines with words, labelled or not.

    Args:
        stream: An input that is open.
        fields: See `read_tagged`.
        on_error: Called with each bad sentence, which is then skipped; None raises it.
    """
    if holds_conllu(stream):
        for found in conllu_sentences(stream, on_error):
            tags = found.tags if fields.label == TREEBANK_TAGS else found.universal
            labels = tags if all(tags) else None
            data = {fields.text: list(found.words)} | ({fields.label: list(labels)} if labels else {})
            yield TaggedSentence(f"{stream.source}:{found.line}", found.text, found.offsets, labels, data)
        return
    for row in rows_of(
        stream, (fields.text,), optional=(fields.label,), jsonl=True, hint=_HINT, on_error=on_error
    ):
        try:
            yield sentence_of(row.data, row.where, fields)
        except OrdtoolError as error:
            reject(error, on_error)


def sentence_of(data: dict[str, Any], where: str, fields: Fields) -> TaggedSentence:
    """Take the words, and labels if there are any, out of a JSON object.

    Raises:
        OrdtoolError: If they are no lists of strings, or of different lengths.
    """
    words, labels = data[fields.text], data.get(fields.label)
    if (
        not isinstance(words, list)
        or not words
        or not all(isinstance(w, str) and w.split() == [w] for w in words)
    ):
        raise OrdtoolError(
            f"{where}: field {fields.text!r} must be a list of words, which have no spaces", _HINT
        )
    if labels is not None:
        if not isinstance(labels, list) or not all(isinstance(label, str | int) for label in labels):
            raise OrdtoolError(f"{where}: field {fields.label!r} must be a list, with a label a word", _HINT)
        if len(labels) != len(words):
            raise OrdtoolError(f"{where}: {len(words)} words have {len(labels)} labels")
        labels = tuple(map(str, labels))
    text, offsets = joined(words)
    return TaggedSentence(where, text, offsets, labels, data)


@dataclass(frozen=True, slots=True)
class Piece:
    """A sentence, or as many of its words as fit in a model's length.

    Attributes:
        sentence: Its number.
        first: Its first word's number in the sentence.
        ids: The tokens, special ones included.
        places: The token that each word's label is read from, `(words,)`.
    """

    sentence: int
    first: int
    ids: NDArray[np.int64]
    places: NDArray[np.int64]


def cut_sentences(
    tokenizer: Any, sentences: Sequence[TaggedSentence], max_length: int, pooling: str
) -> list[Piece]:
    """Tokenize sentences; one that is too long is halved until its parts fit.

    Args:
        tokenizer: One that says where its tokens stand.
        sentences: The sentences.
        max_length: Tokens at most. A single word that has more is cut.
        pooling: `last` reads a word from its last token, anything else from its first.

    Returns:
        The pieces in the sentences' order.

    Raises:
        OrdtoolError: If the tokenizer doesn't say where its tokens stand.
    """
    check_offsets(tokenizer)
    found, parts = [], [(number, 0, len(s.offsets)) for number, s in enumerate(sentences) if s.offsets]
    while parts:
        spans = [(s.offsets[a][0], s.offsets[b - 1][1]) for n, a, b in parts for s in [sentences[n]]]
        texts = [sentences[n].text[start:stop] for (n, _, _), (start, stop) in zip(parts, spans, strict=True)]
        encoded = tokenizer(texts, return_offsets_mapping=True, verbose=False)
        longer = []
        for row, (number, a, b) in enumerate(parts):
            ids = encoded["input_ids"][row]
            if len(ids) > max_length and b - a > 1:
                longer += [(number, a, (a + b) // 2), (number, (a + b) // 2, b)]
                continue
            words = np.array(sentences[number].offsets[a:b], dtype=np.int64) - spans[row][0]
            tokens = np.array(encoded["offset_mapping"][row][:max_length], dtype=np.int64).reshape(-1, 2)
            kept = np.array(ids[:max_length] or [filler(tokenizer)], dtype=np.int64)
            found.append(Piece(number, a, kept, _places(words, tokens, pooling == "last")))
        parts = longer
    return sorted(found, key=lambda piece: (piece.sentence, piece.first))


def _places(words: NDArray[np.int64], tokens: NDArray[np.int64], last: bool) -> NDArray[np.int64]:
    """Return the first or last token that touches each word; the first of all for a word that none does."""
    if not len(tokens):
        return np.zeros(len(words), dtype=np.int64)
    starts, stops = tokens.T
    touches = (starts < words[:, 1:]) & (stops > words[:, :1]) & (stops > starts)
    places = len(tokens) - 1 - touches[:, ::-1].argmax(axis=1) if last else touches.argmax(axis=1)
    return np.where(touches.any(axis=1), places, 0)


def encode_words(
    tokenizer: Any,
    sentences: Sequence[TaggedSentence],
    names: Sequence[str],
    max_length: int,
    pooling: str,
) -> Encoded:
    """Encode sentences with the classes of their words, each at one token; of words that share one the last has it.

    Raises:
        OrdtoolError: For a label that is not among `names`, with its line; see `cut_sentences` too.
    """
    classes = {name: index for index, name in enumerate(names)}
    pieces = cut_sentences(tokenizer, sentences, max_length, pooling)
    targets = []
    for piece in pieces:
        sentence = sentences[piece.sentence]
        assert sentence.labels is not None
        row = np.full(len(piece.ids), NO_TARGET, dtype=np.int64)
        for place, label in zip(piece.places, sentence.labels[piece.first :], strict=False):
            if label not in classes:
                raise OrdtoolError(
                    f"{sentence.where}: the label {label!r} is not one of the training data's: "
                    + ", ".join(list(names)[:20])
                )
            row[place] = classes[label]
        targets.append(row)
    return Encoded([piece.ids for piece in pieces], token_targets=targets)
