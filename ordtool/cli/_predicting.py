"""What `ordtool predict` does: records in, labels out, by whatever kind of model the folder holds.

A kind of model is one entry in `KINDS`: the `model_type` of its config.json, and the function that loads a `Predictor`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from ordtool.errors import OrdtoolError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from ordtool.io.resumable import Lines
    from ordtool.progress import Progress

KINDS = {"hsic_bottleneck": "ordtool.cli._predicting_bottleneck:load"}
"""`model_type` -> "module:function" of `(folder, options, progress) -> Predictor`."""

WINDOW = 512


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """What every kind of model may be told.

    Attributes:
        embed: The embedding model, where the classifier takes vectors and texts are given.
        device: Where to compute.
        threads: CPU threads.
        batch_size: Records a batch.
    """

    embed: str | None = None
    device: str = "auto"
    threads: int | None = None
    batch_size: int = 32


class Predictor(Protocol):
    """A classifier.

    Attributes:
        labels: Names of the classes, in the order of the probabilities.
        takes_vectors: Whether it can be given vectors.
    """

    labels: list[str]
    takes_vectors: bool

    def predict_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Give `(texts, classes)` probabilities."""

    def predict_vectors(self, vectors: np.ndarray) -> np.ndarray:
        """Give `(rows, classes)` probabilities."""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to label: a text or a vector, the object it came in, and where it stood."""

    where: str
    data: dict[str, Any]
    text: str | None = None
    vector: Any = None


def load_predictor(model: str, options: PredictOptions, progress: Progress) -> Predictor:
    """Load the classifier in a folder, by what its config.json says it is.

    Raises:
        OrdtoolError: If the folder holds no classifier that is known.
    """
    from ordtool.models.catalog import resolve_model

    folder = resolve_model(model, progress)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OrdtoolError(f"{model}: its config.json can't be read ({error})") from None
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind not in KINDS:
        raise OrdtoolError(
            f"{model}: holds a model of type {kind!r}, and ordtool predict knows {', '.join(sorted(KINDS))}",
            "ordtool train bottleneck makes one that it knows",
        )
    module, _, function = KINDS[kind].partition(":")
    found: Predictor = getattr(import_module(module), function)(folder, options, progress)
    return found


class Reader:
    """Reads items from NPY, JSONL and text.

    Args:
        inputs: Files; none or `-` is stdin.
        field: The key of a JSONL object's text.
        vectors: Whether the model takes vectors; then a `vector` comes before a text.
        skip: Skip bad records and keep them in `skipped`.
    """

    def __init__(self, inputs: Sequence[str], field: str, vectors: bool, skip: bool) -> None:
        self._inputs = list(inputs) or ["-"]
        self._field = field
        self._vectors = vectors
        self._skip = skip
        self.skipped: list[OrdtoolError] = []

    def items(self) -> Iterator[Item]:
        """Yield the items of all inputs."""
        for path in self._inputs:
            yield from self._rows(path) if is_npy(path) else self._lines(path)

    def _rows(self, path: str) -> Iterator[Item]:
        from ordtool.io.npy import read_npy

        name = "<stdin>" if path == "-" else path
        if not self._vectors:
            raise UsageError(f"{name}: holds vectors, and this model takes texts")
        for number, row in enumerate(read_npy(path)):
            yield Item(f"{name} row {number}", {}, vector=row)

    def _lines(self, path: str) -> Iterator[Item]:
        from ordtool.io.text import decode_line, has_jsonl_suffix, open_input, read_lines

        source = "<stdin>" if path == "-" else path
        jsonl = has_jsonl_suffix(path)
        undecided = path == "-"
        with open_input(path) as stream:
            for number, raw in enumerate(read_lines(stream, source), start=1):
                try:
                    line = decode_line(raw, source, number)
                    if undecided:
                        jsonl, undecided = line.lstrip().startswith("{"), False
                    if not jsonl:
                        yield Item(f"{source}:{number}", {"text": line}, text=line)
                    elif line.strip():
                        yield self._object(line, source, number)
                except OrdtoolError as error:
                    self._reject(error)

    def _object(self, line: str, source: str, number: int) -> Item:
        from ordtool.io.text import parse_json_object, parse_json_record

        data = parse_json_object(line, source, number)
        where = f"{source}:{number}"
        if self._vectors and "vector" in data:
            return Item(where, data, vector=_numbers(data["vector"], where))
        return Item(where, data, text=parse_json_record(line, source, number, self._field).text)

    def _reject(self, error: OrdtoolError) -> None:
        if not self._skip:
            raise error
        self.skipped.append(error)


def is_npy(path: str) -> bool:
    """Say whether an input is an NPY file, by its first bytes; stdin is looked at without being read."""
    import sys

    from ordtool.io.text import open_input

    magic = b"\x93NUMPY"
    if path == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise UsageError(
                "no input: give a file, or pipe texts or vectors in",
                "echo 'Who was Galileo?' | ordtool predict -m MODEL",
            )
        peek = getattr(sys.stdin.buffer, "peek", None)
        return peek is not None and peek(len(magic)).startswith(magic)
    if path.lower().endswith(".npy"):
        return True
    with open_input(path) as stream:
        return stream.read(len(magic)) == magic


def _numbers(value: Any, where: str) -> Any:
    import numpy as np

    try:
        vector = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        vector = np.empty(0, dtype=np.float32)
    if not isinstance(value, list) or vector.ndim != 1 or not len(vector):
        raise OrdtoolError(f"{where}: 'vector' is not a list of numbers")
    return vector


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
            for item, row in zip(window, self._probabilities(window), strict=True):
                done += 1
                if row is not None:
                    yield done, item, self._fields(item, row)
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

    def _probabilities(self, window: Sequence[Item]) -> list[Any]:
        """Give a row of probabilities an item; None for one that was skipped."""
        import numpy as np

        found: list[Any] = [None] * len(window)
        texts = [index for index, item in enumerate(window) if item.text is not None]
        if texts:
            rows = self._predictor.predict_texts([window[index].text or "" for index in texts])
            for index, row in zip(texts, rows, strict=True):
                found[index] = row
        vectors = [index for index, item in enumerate(window) if item.vector is not None]
        widths = {len(window[index].vector) for index in vectors}
        if len(widths) == 1 and all(np.isfinite(window[index].vector).all() for index in vectors):
            rows = self._predictor.predict_vectors(np.stack([window[index].vector for index in vectors]))
            for index, row in zip(vectors, rows, strict=True):
                found[index] = row
            return found
        for index in vectors:  # one by one, to name the one that is bad
            found[index] = self._one(window[index])
        return found

    def _one(self, item: Item) -> Any:
        import numpy as np

        try:
            if not np.isfinite(item.vector).all():
                raise OrdtoolError(f"{item.where}: the vector holds NaN or an infinity")
            return self._predictor.predict_vectors(item.vector[None])[0]
        except OrdtoolError as error:
            self._reader._reject(OrdtoolError(_at(item.where, error.message), error.hint))
        return None

    def _fields(self, item: Item, row: Any) -> dict[str, Any]:
        label = self._predictor.labels[int(row.argmax())]
        if "label" in item.data:
            self._judged += 1
            self._right += str(item.data["label"]) == label
        probabilities = {
            name: round(float(p), 6) for name, p in zip(self._predictor.labels, row, strict=True)
        }
        return {"label": label, "probabilities": probabilities}

    def _tell_replaced(self, item: Item, fields: dict[str, Any]) -> None:
        replaced = [key for key in item.data if key in fields]
        if replaced and not self._replaced:
            self._replaced = True
            self._progress.warn(f"{item.where}: the input's key {replaced[0]!r} is replaced in the output")


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
