"""What DPE knows of a model: the distance that each group of frequencies can use, and which pairs carry the scores."""

from __future__ import annotations

from typing import Any

from ordtool.errors import OrdtoolError
from ordtool.extrapolation.parameter_files import read_json
from ordtool.extrapolation.regions import KeyPairs

_FORM = '{"lengths": [128, 64, ...], "key_pairs": [[[0, 5, ...], ...], ...]}'


def read_groups(path: str) -> tuple[tuple[float, ...], KeyPairs | None]:
    """Read effective lengths and key pairs from JSON.

    `lengths` are in tokens, one for each group of neighbouring pairs of coordinates, the fastest first; `key_pairs`,
    which can be missing, are the numbers of the pairs that are changed, for each layer and attention head. A list alone
    is lengths.

    Returns:
        The lengths, and the key pairs; None: all pairs.

    Raises:
        OrdtoolError: If the file can't be read, or holds something else.
    """
    found = read_json(path, "dpe:lengths=FILE")
    found = {"lengths": found} if isinstance(found, list) else found
    if not isinstance(found, dict) or "lengths" not in found:
        raise OrdtoolError(f"{path}: has no lengths", _FORM)
    lengths = found["lengths"]
    if not isinstance(lengths, list) or not lengths or not all(_is_length(one) for one in lengths):
        raise OrdtoolError(f"{path}: lengths must be numbers of tokens", _FORM)
    key_pairs = found.get("key_pairs")
    if key_pairs is None:
        return tuple(map(float, lengths)), None
    if not _nested(key_pairs, 3):
        raise OrdtoolError(f"{path}: key_pairs must be numbers of pairs, for each layer and head", _FORM)
    return tuple(map(float, lengths)), tuple(tuple(tuple(head) for head in layer) for layer in key_pairs)


def _is_length(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value < 1e9


def _nested(value: Any, depth: int) -> bool:
    """Say whether a value is lists of lists of whole numbers from 0 on."""
    if depth == 0:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return isinstance(value, list) and all(_nested(one, depth - 1) for one in value)
