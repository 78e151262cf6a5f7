"""What a classifier is to `predict`: what labels texts, what labels vectors, and their scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

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


class Classifier(NamedTuple):
    """A loaded classifier, by what it takes.

    Attributes:
        texts: What labels texts.
        vectors: What labels vectors; None where the model takes texts alone.
    """

    texts: TextClassifier
    vectors: VectorClassifier | None = None
