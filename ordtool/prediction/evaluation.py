"""How good predictions are where the input says what is right."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ordtool.correlation import pearson, spearman
from ordtool.tuning.questions import score_answers

_WIDEST = 12  # classes that a confusion table on a terminal has room for


class Evaluation:
    r"""Counts pairs of what is right and what was predicted.

    Of classes: accuracy; precision $TP/(TP+FP)$, recall $TP/(TP+FN)$ and F1, their harmonic mean, of each class; and
    macro F1, the mean of the F1s of the classes that occur, in the labels or the predictions. A ratio of nothing to nothing
    is 0, as in scikit-learn. Of a regression: Pearson's and Spearman's correlation, and the root of the mean squared error.

    Args:
        labels: Names of the classes; none for a regression.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = list(labels)
        self._pairs: Counter[tuple[str, str]] = Counter()
        self._scores: list[tuple[float, float]] = []

    @property
    def records(self) -> int:
        """How many were counted."""
        return self._pairs.total() + len(self._scores)

    def add(self, known: Any, predicted: Any) -> None:
        """Count a record; a regression passes over what is no finite number."""
        if isinstance(predicted, str):
            self._pairs[str(known), predicted] += 1
            return
        try:
            score = float(str(known))
        except ValueError:
            return
        if math.isfinite(score):
            self._scores.append((score, float(predicted)))

    def add_written(self, known: Any, predicted: Any) -> None:
        """Count a record as it stands in an output, if it has a label."""
        if known not in (None, "") and predicted is not None:
            self.add(known, predicted if self._labels else float(predicted))

    def record(self) -> dict[str, Any]:
        """Return the figures as a JSON object; shares and correlations are in percent, and null where there are none."""
        if not self._labels:
            return self._regression()
        classes = {name: self._class(name) for name in self._labels}
        seen = {name for pair in self._pairs for name in pair}
        right = sum(count for (known, predicted), count in self._pairs.items() if known == predicted)
        f1 = [classes[name]["f1"] for name in self._labels if name in seen]
        return {
            "records": self.records,
            "accuracy": _percent(right, self.records) if self.records else None,
            "macro_f1": round(sum(f1) / len(f1), 4) if f1 else None,
            "classes": classes,
            "confusion": {
                known: {p: count for p in self._labels if (count := self._pairs[known, p])}
                for known in self._labels
            },
        }

    def _class(self, name: str) -> dict[str, float]:
        right = self._pairs[name, name]
        known = sum(count for pair, count in self._pairs.items() if pair[0] == name)
        predicted = sum(count for pair, count in self._pairs.items() if pair[1] == name)
        return {
            "precision": _percent(right, predicted),
            "recall": _percent(right, known),
            "f1": _percent(2 * right, known + predicted),
            "support": known,
        }

    def _regression(self) -> dict[str, Any]:
        pairs = np.array(self._scores).reshape(-1, 2)
        known, predicted = pairs.T
        shares = [correlate(known, predicted) for correlate in (pearson, spearman)]
        correlations = [None if share is None else round(100 * share, 4) for share in shares]
        error = float(np.sqrt(np.mean((known - predicted) ** 2))) if len(pairs) else None
        return {
            "records": len(pairs),
            "pearson": correlations[0],
            "spearman": correlations[1],
            "rmse": None if error is None else round(error, 6),
        }


class WordEvaluation(Evaluation):
    """Counts words, as `Evaluation` does records."""

    def add(self, known: Any, predicted: Any) -> None:
        """Count the words of a record."""
        for label, guess in zip(known, predicted, strict=True):
            super().add(label, guess)

    def add_written(self, known: Any, predicted: Any) -> None:
        """Count the words of a record as it stands in an output, if they have labels."""
        if known not in (None, ""):
            self.add(*(json.loads(x) if isinstance(x, str) else x for x in (known, predicted)))

    def record(self) -> dict[str, Any]:
        """Return the figures as a JSON object, `words` for `records`."""
        found = super().record()
        return {"words": found.pop("records"), **found}


class AnswerEvaluation(Evaluation):
    """Means of F1 and exact match of answers, as SQuAD's evaluation has them."""

    def __init__(self) -> None:
        super().__init__([])
        self._guesses: list[str] = []
        self._answers: list[tuple[str, ...]] = []

    @property
    def records(self) -> int:
        """How many were counted."""
        return len(self._guesses)

    def add(self, known: Any, predicted: Any) -> None:
        """Count an answer beside the right ones; none means that the context has none."""
        self._answers.append((known,) if isinstance(known, str) else tuple(known))
        self._guesses.append(predicted)

    def add_written(self, known: Any, predicted: Any) -> None:
        """Count a record as it stands in an output."""
        if isinstance(known, str) and known.startswith('["'):
            known = json.loads(known)
        self.add(known or (), predicted or "")

    def record(self) -> dict[str, Any]:
        """Return `exact_match` and `f1` in percent, null where there was nothing."""
        f1, exact = score_answers(self._guesses, self._answers) if self._guesses else (None, None)
        return {
            "records": self.records,
            "exact_match": None if exact is None else round(exact, 4),
            "f1": None if f1 is None else round(f1, 4),
        }


def summary(record: dict[str, Any]) -> str:
    """Say the main figures of an `Evaluation.record` in a line."""
    if "exact_match" in record:
        figures = f"exact match {record['exact_match']:.2f}%, F1 {record['f1']:.2f}%"
    elif "accuracy" in record:
        figures = f"accuracy {record['accuracy']:.2f}%, macro F1 {record['macro_f1']:.2f}%"
    else:
        names = ("pearson", "spearman")
        parts = [f"{name} {record[name]:.2f}%" for name in names if record[name] is not None]
        figures = ", ".join([*parts, f"rmse {record['rmse']:.4g}"])
    counted = f"{record['words']} words" if "words" in record else f"{record['records']} records"
    return f"{figures} on {counted} that had a label"


Table = tuple[str, list[str], list[tuple[str, ...]]]


def tables(record: dict[str, Any]) -> list[Table]:
    """Lay out the classes of an `Evaluation.record`, and where they were confused: title, columns and rows of each.

    The confusion table is left out where it would be too wide to read; `record` has it all the same.
    """
    classes = record.get("classes", {})
    if not classes:
        return []
    rows = [
        (name, *(f"{found[figure]:.2f}" for figure in ("precision", "recall", "f1")), str(found["support"]))
        for name, found in classes.items()
    ]
    found: list[Table] = [("classes", ["class", "precision", "recall", "F1", "records"], rows)]
    if len(classes) <= _WIDEST:
        counts = [
            (known, *(str(row.get(name, 0)) for name in classes))
            for known, row in record["confusion"].items()
        ]
        found.append(("confusion: what is right, by what was predicted", ["right", *classes], counts))
    return found


def _percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 4) if whole else 0.0
