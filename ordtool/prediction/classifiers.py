"""What a classifier is to `predict`: what labels texts, vectors or tokens, and what it gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ordtool.prediction.evaluation import Evaluation
from ordtool.prediction.items import Item, Prediction
from ordtool.tuning.data import Fields

Rows = NDArray[np.float32]


class Scores(NamedTuple):
    """What a classifier says about some records; of one text, each array lacks its first axis.

    Attributes:
        rows: Probabilities `(records, classes)`; of a regression, scores `(records, 1)`.
        vectors: What they are read from, `(records, dim)`.
    """

    rows: Rows
    vectors: Rows


class TextClassifier(Protocol):
    """What labels texts.

    Attributes:
        labels: Names of the classes, in the order of the probabilities; none for a regression.
        pair_field: The key of the second text, where it takes two.
    """

    labels: list[str]
    pair_field: str | None

    def predict(
        self, texts: str | Sequence[str], pairs: str | Sequence[str] | None = None, *, batch_size: int = 32
    ) -> Scores:
        """Return probabilities or scores, and vectors."""


class VectorClassifier(Protocol):
    """What labels vectors."""

    def predict_vectors(self, vectors: NDArray[np.floating]) -> Scores:
        """Return probabilities or scores of vectors `(rows, dim)`, and the vectors that they are read from."""


class TokenClassifier(Protocol):
    """What labels the words of texts, or finds answers in them.

    Attributes:
        labels: Names of the classes; none for answers.
        fields: The keys that a record has usually.
        takes_words: Whether it labels words, rather than finding answers.
    """

    labels: list[str]
    fields: Fields
    takes_words: bool

    def predict(self, items: Sequence[Item], batch_size: int) -> Sequence[Prediction]:
        """Return a prediction an item."""

    def evaluation(self) -> Evaluation:
        """Return what measures its predictions."""


class Classifier(NamedTuple):
    """A loaded classifier, by what it takes.

    Attributes:
        texts: What labels texts.
        vectors: What labels vectors; None where the model takes texts alone.
        tokens: What labels words or finds answers, in which case it is alone.
    """

    texts: TextClassifier | None = None
    vectors: VectorClassifier | None = None
    tokens: TokenClassifier | None = None

    @property
    def labels(self) -> list[str]:
        """Names of the classes; none of regressions and answers."""
        if self.tokens is not None:
            return self.tokens.labels
        return [] if self.texts is None else self.texts.labels

    @property
    def fields(self) -> Fields:
        """The keys that a record has usually."""
        if self.tokens is not None:
            return self.tokens.fields
        return Fields(pair=None if self.texts is None else self.texts.pair_field)

    def evaluation(self) -> Evaluation:
        """Return what measures its predictions."""
        return Evaluation(self.labels) if self.tokens is None else self.tokens.evaluation()
