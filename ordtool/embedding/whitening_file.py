"""The file of a fitted whitening: one safetensors file, no code in it.

Tensors: `mean` (dim), `kernel` (dim, width), `eigenvalues` (dim), all float64, and `scatter`, the upper triangle
of the scatter matrix row by row, dim (dim + 1) / 2 numbers, from which files are merged. The metadata has one
key, `ordtool`, a JSON object with the options, the number of rows and what they were.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ordtool.embedding.statistics import Moments
from ordtool.embedding.whitening import Whitening, parameter_names
from ordtool.embedding.whitening_solver import Solution
from ordtool.errors import OrdtoolError
from ordtool.io.atomic import atomic_output

FORMAT = "ordtool-whitening"
VERSION = 1
TENSORS = ("eigenvalues", "kernel", "mean", "scatter")


def save_whitening(whitening: Whitening, path: str | Path | BinaryIO, *, force: bool = True) -> None:
    """Write a fitted whitening; the same statistics and options give the same bytes.

    Raises:
        OrdtoolError: the file cannot be written, or exists and `force` is not set.
    """
    data = to_bytes(whitening)
    if hasattr(path, "write"):
        path.write(data)
        return
    with atomic_output(path, force=force) as file:
        file.write(data)


def to_bytes(whitening: Whitening) -> bytes:
    """The content of the file."""
    from safetensors.numpy import save

    solution = whitening.solve()
    moments = whitening.moments_
    upper = np.triu_indices(moments.dim)
    tensors = {
        "mean": moments.mean,
        "kernel": solution.kernel,
        "eigenvalues": solution.eigenvalues,
        "scatter": moments.scatter[upper],
    }
    header = {
        "format": FORMAT,
        "version": VERSION,
        "rows": moments.count,
        "condition": solution.condition,
        "rank": solution.rank,
        "shrinkage": solution.shrinkage,
        "fitted_on": whitening.fitted_on_,
        "options": whitening.get_params(),
        "notes": solution.notes,
    }
    # One key: several would be written in an order that changes from run to run.
    return save(
        {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()},
        metadata={"ordtool": json.dumps(header, ensure_ascii=False)},
    )


def load_whitening(path: str | Path) -> Whitening:
    """Read a fitted whitening.

    Raises:
        OrdtoolError: the file is missing, is no safetensors file, or was not written by `save`.
    """
    header, tensors = _read(path)
    options = {name: value for name, value in header["options"].items() if name in parameter_names()}
    whitening = Whitening(**options)
    whitening.options().check()
    dim = tensors["mean"].shape[0]
    scatter = np.zeros((dim, dim))
    scatter[np.triu_indices(dim)] = tensors["scatter"]
    scatter += np.triu(scatter, 1).T
    whitening._set_moments(Moments(int(header["rows"]), tensors["mean"], scatter), str(header["fitted_on"]))
    whitening._solution = Solution(
        tensors["kernel"],
        float(header["condition"]),
        tensors["eigenvalues"],
        int(header["rank"]),
        float(header["shrinkage"]),
        tuple(header["notes"]),
    )
    return whitening


def merge_whitenings(whitenings: Sequence[Whitening], **options: Any) -> Whitening:
    """One whitening of all rows that several were fitted on.

    Args:
        whitenings: Fitted on shards of one set.
        **options: Options of the result; those of the first by default.

    Raises:
        OrdtoolError: the widths differ, or the options differ and none are given.
    """
    first = whitenings[0]
    moments = first.moments_.copy()
    for number, other in enumerate(whitenings[1:], start=2):
        if other.get_params() != first.get_params() and not options:
            raise OrdtoolError(
                f"transform {number} has other options than the first: {other!r}, {first!r}",
                "say what the result should have, for example --dims 128",
            )
        moments.merge(other.moments_)
    fitted_on = " + ".join(whitening.fitted_on_ for whitening in whitenings)
    return Whitening.from_moments(moments, fitted_on, **{**first.get_params(), **options})


def _read(path: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            names = set(file.keys())
            if "ordtool" not in metadata or not names.issuperset(TENSORS):
                raise OrdtoolError(f"{path}: a safetensors file, but not a whitening transform", _HINT)
            header = json.loads(metadata["ordtool"])
            if header.get("format") != FORMAT or header.get("version", 0) > VERSION:
                raise OrdtoolError(
                    f"{path}: not a whitening transform of a version this ordtool knows", _HINT
                )
            return header, {name: file.get_tensor(name) for name in TENSORS}
    except FileNotFoundError:
        raise OrdtoolError(f"{path}: no such file", _HINT) from None
    except (SafetensorError, ValueError, OSError) as error:
        raise OrdtoolError(
            f"{path}: not a safetensors file, or damaged ({_found(path, error)})", _HINT
        ) from None


_HINT = "ordtool whiten x.npy --save transform.safetensors writes one"


def _found(path: str | Path, error: Exception) -> str:
    if Path(path).is_dir():
        return "it is a folder"
    try:
        with open(path, "rb") as file:
            start = file.read(6)
    except OSError as unreadable:
        return str(unreadable.strerror)
    if start[:1] == b"\x80":
        return "it looks like a pickle, which ordtool never loads"
    if start == b"\x93NUMPY":
        return "it is an NPY file"
    return " ".join(str(error).split())
