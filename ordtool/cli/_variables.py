"""Vectors, labels and texts for commands that take any of them; texts are embedded here, where two subjects meet."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from ordtool.independence.labelled import Labelled
    from ordtool.independence.reading import Variable
    from ordtool.progress import Progress


@dataclass(frozen=True)
class Reading:
    """How inputs are read.

    Attributes:
        label_field: The key of a JSONL file's labels.
        text_field: The key of its texts.
        id_field: The key of its ids.
        embed: The model that turns texts into vectors.
        device: Where it runs.
        threads: CPU threads it may use.
    """

    label_field: str | None = None
    text_field: str = "text"
    id_field: str = "id"
    embed: str | None = None
    device: str = "auto"
    threads: int | None = None


def expand(inputs: list[str]) -> list[list[str]]:
    """Turn each input into a list of files: its layers if it is a folder, else itself."""
    from ordtool.independence.reading import layer_files

    return [layer_files(path) if Path(path).is_dir() else [path] for path in inputs]


def read_variables(paths: list[str], reading: Reading, progress: Progress) -> list[Variable]:
    """Read the files, each once, and embed those that hold texts.

    With a label field the last JSONL file is read as labels; a single input is both sides.

    Raises:
        OrdtoolError: For anything that isn't as it should be, naming the file and line.
    """
    from ordtool.errors import OrdtoolError, UsageError
    from ordtool.independence.reading import check_ids, read_source, to_variable

    sources = {path: read_source(path) for path in dict.fromkeys(paths)}
    jsonl = [index for index, path in enumerate(paths) if sources[path].records is not None]
    if reading.label_field is not None and not jsonl:
        raise UsageError("--label-field needs a .jsonl file", "integers in an .npy are labels without it")
    labelled = jsonl[-1] if reading.label_field is not None else None
    if labelled == 0 and len(paths) == 1:
        paths, labelled = [paths[0], paths[0]], 1
    variables = []
    for index, path in enumerate(paths):
        label_field = reading.label_field if index == labelled else None
        found = to_variable(
            sources[path], label_field=label_field, text_field=reading.text_field, id_field=reading.id_field
        )
        variables.append(found if label_field is None else replace(found, name=f"{found.name}:{label_field}"))
    check_ids(variables)
    if len({len(variable) for variable in variables}) == 1:
        return [_embedded(variable, reading, progress) for variable in variables]
    first = variables[0]
    other = next(variable for variable in variables if len(variable) != len(first))
    raise OrdtoolError(
        f"{first.name} has {len(first)} rows and {other.name} has {len(other)}",
        "row i of every file must belong to the same item",
    )


def _embedded(variable: Variable, reading: Reading, progress: Progress) -> Variable:
    from ordtool.errors import OrdtoolError

    if variable.texts is None:
        return variable
    if reading.embed is None:
        raise OrdtoolError(
            f"{variable.name}: holds texts, and vectors are needed",
            "--embed MODEL embeds them: --embed minilm, for example",
        )
    rows = embed_texts(variable.texts, reading.embed, reading.device, reading.threads, progress)
    return replace(variable, rows=rows)


def read_labelled(vectors: str, labels: str | None, reading: Reading, progress: Progress) -> Labelled:
    """Read vectors (or texts, which are embedded) and a class label for each.

    Args:
        vectors: NPY, JSONL or text.
        labels: JSONL or an NPY of integers; None: the JSONL of the vectors holds them too.
        reading: The keys, and the embedding model.
        progress: Told of the embedding.

    Raises:
        OrdtoolError: For files that don't fit each other, or labels that are none.
    """
    import numpy as np

    from ordtool.errors import OrdtoolError, UsageError
    from ordtool.independence.labelled import Labelled
    from ordtool.independence.reading import check_ids, read_source, to_variable
    from ordtool.independence.rows import check_aligned, check_rows

    given = read_source(vectors)
    if labels is None and given.records is None:
        raise UsageError(
            f"{given.name} has no labels in it", "name a second file: LABELS.jsonl, or integers in an .npy"
        )
    known = given if labels is None else read_source(labels)
    found = to_variable(given, text_field=reading.text_field, id_field=reading.id_field)
    classes = to_variable(
        known,
        label_field=reading.label_field if known.records is not None else None,
        text_field=reading.text_field,
        id_field=reading.id_field,
    )
    if classes.classes is None or classes.rows is None:
        raise OrdtoolError(
            f"{known.name}: holds no class labels", "integers of shape (rows,), or a .jsonl's --label-field"
        )
    check_aligned([found, classes], [found.name, f"{classes.name} (labels)"])
    check_ids([found, classes])
    rows = _embedded(found, reading, progress).rows
    assert rows is not None
    return Labelled(check_rows(rows, found.name, "float32"), np.argmax(classes.rows, axis=1), classes.classes)


def embed_texts(
    texts: list[str], model: str, device: str, threads: int | None, progress: Progress
) -> np.ndarray:
    """Embed texts with a model as its own folder wants it, `(texts, dim)`."""
    from ordtool.embedding.encoder import EncoderConfig, encode, load_encoder

    encoder = load_encoder(EncoderConfig(model=model, device=device, threads=threads), progress)
    for note in encoder.notes:
        progress.note(f"{model}: {note}")
    progress.note(f"embedding {len(texts)} texts with {model} ({encoder.description})")
    return encode(encoder, texts)
