"""What `predict` reads, an item at a time, and what it says of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordtool.tuning.words import TaggedSentence


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to label.

    Attributes:
        where: `file:line`.
        data: The object that it came in.
        text: Its text, if it is one.
        pair: The second text, if there are two.
        vector: The vector, if it is one.
        label: The label that is known, as text; of words their labels, of a question the right answers; None where
            none is known.
        sentence: The text with its words, if those are to be labelled.
    """

    where: str
    data: dict[str, Any]
    text: str | None = None
    pair: str | None = None
    vector: NDArray[np.floating] | None = None
    label: str | tuple[str, ...] | None = None
    sentence: TaggedSentence | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a classifier says about a record.

    Attributes:
        label: The likeliest class; of a regression, the score.
        probabilities: Of each class by name; None of a regression.
        vector: What the label was read from, `(dim,)`; None where nobody asked.
    """

    label: str | float
    probabilities: dict[str, float] | None = None
    vector: NDArray[np.float32] | None = None

    def record(self) -> dict[str, Any]:
        """Return `prediction`, `probabilities` and perhaps `vector` as JSON has them, numbers to six places."""
        shares = self.probabilities
        found: dict[str, Any] = {
            "prediction": self.label if isinstance(self.label, str) else round(self.label, 6),
            "probabilities": None if shares is None else {name: round(p, 6) for name, p in shares.items()},
        }
        if self.vector is not None:
            found["vector"] = [round(float(x), 6) for x in self.vector]
        return found

    @property
    def guess(self) -> str | float | Sequence[str]:
        """What is compared with what is known."""
        return self.label

    def line(self, text: str) -> str:
        """Return it as a person reads it, with the text that it is about."""
        label, shares = self.label, self.probabilities
        share = f"{shares[label]:6.1%}" if shares and isinstance(label, str) else ""
        shown = label if isinstance(label, str) else f"{label:.6g}"
        return f"{shown:<16} {share}  {text}"


@dataclass(frozen=True, slots=True)
class WordLabels(Prediction):
    """The labels of a text's words.

    Attributes:
        label: All labels, with spaces between.
        words: The words.
        labels: Of each word.
        shares: The probability of each label.
    """

    words: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    shares: tuple[float, ...] = ()

    def record(self) -> dict[str, Any]:
        """Return the words as `tokens`, and of each its `prediction` and that one's probability, in `probabilities`."""
        return {
            "tokens": list(self.words),
            "prediction": list(self.labels),
            "probabilities": [round(share, 6) for share in self.shares],
        }

    @property
    def guess(self) -> Sequence[str]:
        """What is compared with what is known."""
        return self.labels

    def line(self, text: str) -> str:
        """Return it as a person reads it: every word with its label."""
        return " ".join(f"{word}/{label}" for word, label in zip(self.words, self.labels, strict=True))


@dataclass(frozen=True, slots=True)
class Answer(Prediction):
    """The answer to a question.

    Attributes:
        label: The answer's text; empty if the context has none.
        span: Where it stands in the context, in characters, half-open.
        probability: Of the answer.
    """

    span: tuple[int, int] = (0, 0)
    probability: float = 0.0

    def record(self) -> dict[str, Any]:
        """Return `prediction`, the text; `span`; and `probability`."""
        return {"prediction": self.label, "span": list(self.span), "probability": round(self.probability, 6)}

    def line(self, text: str) -> str:
        """Return it as a person reads it, with the question."""
        return f"{self.label}  {self.probability:6.1%}  {text}"
