"""Vectors with class labels: read, split, numbered alike."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordtool.batching import hold_out
from ordtool.errors import OrdtoolError, UsageError
from ordtool.independence.validation import MIN_ROWS, check_aligned, check_rows
from ordtool.independence.variables import (
    TextEncoder,
    VariablesConfig,
    check_ids,
    read_source,
    to_variable,
    with_vectors,
)

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
        """Return the number of rows."""
        return len(self.vectors)

    def subset(self, index: NDArray[np.intp]) -> Labelled:
        """Return some of the rows."""
        return Labelled(self.vectors[index], self.labels[index], self.names)


def fingerprint(parts: Sequence[Labelled]) -> str:
    """Return the SHA-256 of vectors, labels and names of classes: what a resumed training is held to."""
    digest = hashlib.sha256()
    for part in parts:
        for array in (part.vectors, part.labels):
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        digest.update(repr(part.names).encode())
    return digest.hexdigest()


def read_labelled(
    vectors: str, labels: str | None, config: VariablesConfig, encode: TextEncoder | None = None
) -> Labelled:
    """Read vectors, or texts to embed, and a class label for each.

    Args:
        vectors: NPY, JSONL or text.
        labels: JSONL or an NPY of integers; None: the JSONL of the vectors holds them too.
        config: The keys; `label_field` is that of the labels.
        encode: Embeds texts; None: texts are refused.

    Raises:
        OrdtoolError: For files that don't fit each other, or labels that are none.
    """
    vector_source = read_source(vectors)
    if labels is None and vector_source.records is None:
        raise UsageError(
            f"{vector_source.name} has no labels in it",
            "name a second file: LABELS.jsonl, or integers in an .npy",
        )
    label_source = vector_source if labels is None else read_source(labels)
    without_labels = replace(config, label_field=None)
    variable = to_variable(vector_source, without_labels)
    classes = to_variable(label_source, without_labels if label_source.records is None else config)
    if classes.classes is None or classes.rows is None:
        raise OrdtoolError(
            f"{label_source.name}: holds no class labels",
            "integers of shape (rows,), or a .jsonl's `label_field`",
        )
    check_aligned([variable, classes], [variable.name, f"{classes.name} (labels)"])
    check_ids([variable, classes])
    rows = with_vectors(variable, encode).rows
    assert rows is not None
    return Labelled(
        check_rows(rows, variable.name, "float32"), np.argmax(classes.rows, axis=1), classes.classes
    )


def split(data: Labelled, holdout: float, seed: int = 0) -> tuple[Labelled, Labelled]:
    """Hold out a random share of the rows.

    Raises:
        UsageError: If the share leaves less than four rows on either side.
    """
    count = round(len(data) * holdout) if 0 < holdout < 1 else 0
    if min(count, len(data) - count) < MIN_ROWS:
        raise UsageError(
            f"holding out {holdout:g} of {len(data)} rows leaves nothing to train on or to measure with",
            "a share such as 0.1, or `test_vectors`",
        )
    kept, held = hold_out(len(data), count, [seed, 0x53504C])
    return data.subset(kept), data.subset(held)


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
    numbers = np.array([train.names.index(label) for label in data.names])
    return Labelled(data.vectors, numbers[data.labels], train.names)
