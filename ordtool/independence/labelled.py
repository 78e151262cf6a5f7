"""Vectors with class labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordtool.errors import OrdtoolError, UsageError
from ordtool.independence.rows import MIN_ROWS

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Labelled:
    """Vectors with their classes.

    Attributes:
        vectors: `(rows, dim)`.
        labels: Class indices, `(rows,)`.
        names: Of the classes.
    """

    vectors: Array
    labels: NDArray[np.int64]
    names: tuple[str, ...]

    def __len__(self) -> int:
        """Give the number of rows."""
        return len(self.vectors)

    def take(self, index: NDArray[np.intp]) -> Labelled:
        """Give some of the rows."""
        return Labelled(self.vectors[index], self.labels[index], self.names)


def split(data: Labelled, holdout: float, seed: int = 0) -> tuple[Labelled, Labelled]:
    """Hold out a random share of the rows.

    Raises:
        UsageError: If the share leaves less than four rows on either side.
    """
    count = round(len(data) * holdout) if 0 < holdout < 1 else 0
    if min(count, len(data) - count) < MIN_ROWS:
        raise UsageError(
            f"holding out {holdout:g} of {len(data)} rows leaves nothing to train on or to measure with",
            "a share such as 0.1, or --test-vectors",
        )
    order = np.random.default_rng([seed, 0x53504C]).permutation(len(data))
    return data.take(np.sort(order[count:])), data.take(np.sort(order[:count]))


def with_names_of(data: Labelled, train: Labelled, name: str) -> Labelled:
    """Number the classes of `data` as those of `train` are.

    Raises:
        OrdtoolError: If a class is not among them, or the vectors are of another width.
    """
    if data.vectors.shape[1] != train.vectors.shape[1]:
        raise OrdtoolError(
            f"{name}: has {data.vectors.shape[1]} dimensions, and the training vectors {train.vectors.shape[1]}"
        )
    unknown = [label for label in data.names if label not in train.names]
    if unknown:
        raise OrdtoolError(
            f"{name}: the label {unknown[0]!r} is not in the training data ({', '.join(train.names[:20])})"
        )
    places = np.array([train.names.index(label) for label in data.names])
    return Labelled(data.vectors, places[data.labels], train.names)
