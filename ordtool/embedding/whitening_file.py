"""The file of a fitted whitening: one safetensors file, no code in it.

Tensors: `mean` (dim), `kernel` (dim, width), `eigenvalues` (dim), all float64, and `scatter`, the upper triangle
of the scatter matrix row by row, dim (dim + 1) / 2 numbers, from which files are merged. The metadata has one
key, `ordtool`, a JSON object with the options, the number of rows and what they were.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ordtool.embedding.statistics import Moments
from ordtool.embedding.whitening_solver import WhiteningConfig, WhiteningMap
from ordtool.errors import OrdtoolError

FORMAT = "ordtool-whitening"
VERSION = 1
LATER_OPTIONS = {"standardize": False, "covariance": "shifted"}
TENSORS = ("eigenvalues", "kernel", "mean", "scatter")


@dataclass(frozen=True, slots=True)
class StoredWhitening:
    """What the file holds.

    Attributes:
        config: The options.
        moments: The statistics.
        map: What they give with these options.
        fitted_on: What the rows were, for people.
    """

    config: WhiteningConfig
    moments: Moments
    map: WhiteningMap
    fitted_on: str


def to_bytes(stored: StoredWhitening) -> bytes:
    """Return the content of the file; the same statistics and options give the same bytes."""
    from safetensors.numpy import save

    found, moments = stored.map, stored.moments
    upper = np.triu_indices(moments.dim)
    tensors = {
        "mean": moments.mean,
        "kernel": found.kernel,
        "eigenvalues": found.eigenvalues,
        "scatter": moments.scatter[upper],
    }
    header = {
        "format": FORMAT,
        "version": VERSION,
        "rows": moments.count,
        "condition": found.condition,
        "rank": found.rank,
        "shrinkage": found.shrinkage,
        "fitted_on": stored.fitted_on,
        "options": _written_options(stored.config),
        "notes": found.notes,
    }
    # One key: several would be written in an order that changes from run to run.
    return save(
        {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()},
        metadata={"ordtool": json.dumps(header, ensure_ascii=False)},
    )


def _written_options(config: WhiteningConfig) -> dict[str, Any]:
    """Return the options as the file has them: those of later versions only where they were asked for."""
    options = asdict(config)
    # Files that name no covariance were written when there was only the centred one; at a beta of 1 both are the same.
    unnamed = {"standardize"} if config.beta != 1 else set(LATER_OPTIONS)
    return {
        name: value for name, value in options.items() if name not in unnamed or value != LATER_OPTIONS[name]
    }


def read_stored(path: str | Path) -> StoredWhitening:
    """Read what `to_bytes` gave.

    Raises:
        OrdtoolError: If the file is missing, is no safetensors file, is damaged, or is something else.
    """
    header, tensors = _read(path)
    try:
        return _checked(header, tensors)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else getattr(error, "message", str(error))
        raise OrdtoolError(f"{path}: a damaged whitening transform ({reason})", _HINT) from None


def _checked(header: dict[str, Any], tensors: dict[str, np.ndarray]) -> StoredWhitening:
    names = {field.name for field in fields(WhiteningConfig)}
    options = {name: value for name, value in dict(header["options"]).items() if name in names}
    if options.get("beta", 1) != 1:
        options.setdefault("covariance", "centred")
    config = WhiteningConfig(**options)
    mean, kernel = tensors["mean"], tensors["kernel"]
    dim = mean.size
    width = kernel.shape[-1] if kernel.ndim else 0
    shapes = {
        "mean": (dim,),
        "eigenvalues": (dim,),
        "kernel": (dim, width),
        "scatter": (dim * (dim + 1) // 2,),
    }
    for name, shape in shapes.items():
        tensor = tensors[name]
        if tensor.dtype != np.float64 or tensor.shape != shape or not tensor.size:
            raise ValueError(f"{name} is {tensor.dtype} {tensor.shape}, and float64 {shape} is expected")
        if not np.isfinite(tensor).all():
            raise ValueError(f"{name} holds a NaN or an infinity")
    rows, rank = (_integer(header, name) for name in ("rows", "rank"))
    scatter = np.zeros((dim, dim))
    scatter[np.triu_indices(dim)] = tensors["scatter"]
    scatter += np.triu(scatter, 1).T
    found = WhiteningMap(
        kernel,
        float(header["condition"]),
        tensors["eigenvalues"],
        rank,
        float(header["shrinkage"]),
        tuple(map(str, header["notes"])),
    )
    return StoredWhitening(config, Moments(rows, mean, scatter), found, str(header["fitted_on"]))


def _integer(header: dict[str, Any], name: str) -> int:
    value = header[name]
    if type(value) is not int or value < 0:
        raise ValueError(f"{name} is {value!r}")
    return value


def _read(path: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            names = set(file.keys())
            if "ordtool" not in metadata or not names.issuperset(TENSORS):
                raise OrdtoolError(f"{path}: a safetensors file, but not a whitening transform", _HINT)
            header = json.loads(metadata["ordtool"])
            if (
                not isinstance(header, dict)
                or header.get("format") != FORMAT
                or header.get("version") not in range(1, VERSION + 1)
            ):
                raise OrdtoolError(
                    f"{path}: not a whitening transform of a version this ordtool knows", _HINT
                )
            return header, {name: file.get_tensor(name) for name in TENSORS}
    except FileNotFoundError:
        raise OrdtoolError(f"{path}: no such file", _HINT) from None
    except (SafetensorError, ValueError, RecursionError, OSError) as error:
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
