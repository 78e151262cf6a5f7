"""What `ordtool predict` does: records in, labels out, by whatever kind of model the folder holds.

A kind of model is one entry in `KINDS`: the `model_type` of its config.json, and the function that loads a `Predictor`.
Any other folder must be a sequence-classification checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from ordtool.errors import OrdtoolError

if TYPE_CHECKING:
    import numpy as np

    from ordtool.cli._predicting_input import Item, Reader
    from ordtool.io.resumable import Lines
    from ordtool.progress import Progress

KINDS = {
    "hsic_bottleneck": "ordtool.cli._predicting_bottleneck:load",
    "ordtool_ladder": "ordtool.cli._predicting_ladder:load",
}
"""`model_type` -> "module:function" of `(folder, options, progress) -> Predictor`."""
CLASSIFIER = "ordtool.cli._predicting_ladder:load_classifier"

WINDOW = 512


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """What every kind of model may be told.

    Attributes:
        embed: The embedding model, where the classifier takes vectors and texts are given.
        device: Where to compute.
        threads: CPU threads.
        batch_size: Records a batch.
        backbone: Where a ladder's backbone is now; None: as the ladder says.
        vectors: Give vectors too.
    """

    embed: str | None = None
    device: str = "auto"
    threads: int | None = None
    batch_size: int = 32
    backbone: str | None = None
    vectors: bool = False


@dataclass(frozen=True, slots=True)
class Answers:
    """What a classifier says about some records.

    Attributes:
        rows: Probabilities `(records, classes)`; scores `(records, 1)` of a regression.
        vectors: What they were read from, `(records, dim)`; None where nobody asked.
    """

    rows: np.ndarray
    vectors: np.ndarray | None = None


class Predictor(Protocol):
    """A classifier.

    Attributes:
        labels: Names of the classes, in the order of the probabilities; none for a regression.
        takes_vectors: Whether it can be given vectors.
        pair_field: The key of the second text, of a classifier of pairs.
    """

    labels: list[str]
    takes_vectors: bool
    pair_field: str | None

    def predict_texts(self, texts: Sequence[str], pairs: Sequence[str] | None) -> Answers:
        """Answer for texts, or pairs of texts."""

    def predict_vectors(self, vectors: np.ndarray) -> Answers:
        """Answer for vectors, `(rows, dim)`."""


def load_predictor(model: str, options: PredictOptions, progress: Progress) -> Predictor:
    """Load the classifier in a folder, by what its config.json says it is.

    Raises:
        OrdtoolError: If the folder holds no classifier that is known.
    """
    from ordtool.models.resolve import resolve_model

    folder = resolve_model(model, progress)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OrdtoolError(f"{model}: its config.json can't be read ({error})") from None
    kind = config.get("model_type") if isinstance(config, dict) else None
    names = (config.get("architectures") or []) if isinstance(config, dict) else []
    if kind not in KINDS and not any(str(name).endswith("ForSequenceClassification") for name in names):
        raise OrdtoolError(
            f"{model}: holds a model of type {kind!r} without a trained classifier",
            "name a ladder, a bottleneck network (ordtool train makes both) or a ...ForSequenceClassification",
        )
    module, _, function = KINDS.get(str(kind), CLASSIFIER).partition(":")
    found: Predictor = getattr(import_module(module), function)(folder, options, progress)
    return found


class Predicting:
    """Labels items in windows, writes them, and keeps count.

    Args:
        predictor: The classifier.
        reader: Where the items come from.
        progress: Told of the work.
    """

    def __init__(self, predictor: Predictor, reader: Reader, progress: Progress) -> None:
        self._predictor = predictor
        self._reader = reader
        self._progress = progress
        self._right = self._judged = 0
        self._replaced = False

    def results(self, start: int = 0) -> Iterator[tuple[int, Item, dict[str, Any]]]:
        """Yield how many items are done, the item, and its label and probabilities."""
        items = self._reader.items()
        for _ in range(start):
            next(items, None)
        done = start
        for window in _windows(items):
            for item, answer in zip(window, self._answers(window), strict=True):
                done += 1
                if answer is not None:
                    yield done, item, self._fields(item, answer)
            self._progress.advance(len(window))

    def write(self, lines: Lines) -> None:
        """Write a JSON object an item: the input's keys, `label`, `probabilities`."""
        from ordtool.io.jsonl import dumps

        self._progress.start("predicting", None, "records")
        try:
            last = lines.done
            for done, item, fields in self.results(lines.done):
                self._tell_replaced(item, fields)
                kept = {key: value for key, value in item.data.items() if key not in fields}
                lines.write(dumps({**kept, **fields}))
                last = done
                if done % WINDOW == 0:
                    lines.save(done)
            lines.save(last)
        except OrdtoolError:
            lines.save(last)
            raise
        finally:
            self._progress.close()
            self.tell()

    def tell(self) -> None:
        """Say what was skipped, and how many labels agree with those of the input."""
        if self._judged:
            share = 100 * self._right / self._judged
            self._progress.note(f"accuracy {share:.2f}% on {self._judged} records that had a label")
        if self._reader.skipped:
            self._progress.warn(f"{len(self._reader.skipped)} bad record(s) skipped")
            for error in self._reader.skipped[:20]:
                self._progress.warn(error.message)

    def _answers(self, window: Sequence[Item]) -> list[Any]:
        """Give a row (and a vector, or None) an item; None for one that was skipped."""
        import numpy as np

        found: list[Any] = [None] * len(window)
        texts = [index for index, item in enumerate(window) if item.text is not None]
        if texts:
            pairs = [window[index].pair or "" for index in texts] if self._predictor.pair_field else None
            answers = self._predictor.predict_texts([window[index].text or "" for index in texts], pairs)
            _put(found, texts, answers)
        vectors = [index for index, item in enumerate(window) if item.vector is not None]
        widths = {len(window[index].vector) for index in vectors}
        if len(widths) == 1 and all(np.isfinite(window[index].vector).all() for index in vectors):
            stacked = np.stack([window[index].vector for index in vectors])
            _put(found, vectors, self._predictor.predict_vectors(stacked))
            return found
        for index in vectors:  # one by one, to name the one that is bad
            found[index] = self._one(window[index])
        return found

    def _one(self, item: Item) -> Any:
        import numpy as np

        try:
            if not np.isfinite(item.vector).all():
                raise OrdtoolError(f"{item.where}: the vector holds NaN or an infinity")
            found = [None]
            _put(found, [0], self._predictor.predict_vectors(item.vector[None]))
            return found[0]
        except OrdtoolError as error:
            self._reader._reject(OrdtoolError(_at(item.where, error.message), error.hint))
        return None

    def _fields(self, item: Item, answer: tuple[Any, Any]) -> dict[str, Any]:
        row, vector = answer
        names = self._predictor.labels
        if names:
            label: Any = names[int(row.argmax())]
            shares = {name: round(float(p), 6) for name, p in zip(names, row, strict=True)}
            found = {"label": label, "probabilities": shares}
            self._judge(item, label)
        else:
            found = {"label": round(float(row[0]), 6), "probabilities": None}
        return found if vector is None else {**found, "vector": [round(float(x), 6) for x in vector]}

    def _judge(self, item: Item, label: str) -> None:
        known = item.data.get(self._reader.label_field)
        if known is not None:
            self._judged += 1
            self._right += str(known) == label

    def _tell_replaced(self, item: Item, fields: dict[str, Any]) -> None:
        replaced = [key for key in item.data if key in fields]
        if replaced and not self._replaced:
            self._replaced = True
            self._progress.warn(f"{item.where}: the input's key {replaced[0]!r} is replaced in the output")


def _put(found: list[Any], places: Sequence[int], answers: Answers) -> None:
    vectors = answers.vectors if answers.vectors is not None else [None] * len(places)
    for place, row, vector in zip(places, answers.rows, vectors, strict=True):
        found[place] = (row, vector)


def _at(where: str, message: str) -> str:
    return message if message.startswith(where) else f"{where}: {message}"


def _windows(items: Iterator[Item]) -> Iterator[list[Item]]:
    """Yield items in windows; those before a bad one are not lost by it."""
    while True:
        window: list[Item] = []
        try:
            for item in islice(items, WINDOW):
                window.append(item)
        except OrdtoolError:
            if window:
                yield window
            raise
        if not window:
            return
        yield window
