"""Model folders to parsers, without transformers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ordtool.errors import OrdtoolError, UsageError
from ordtool.models.loading import read_tensors
from ordtool.parsing.onlstm.directions import BACKWARD_FOLDER, BidirectionalModel
from ordtool.parsing.onlstm.inference import DistanceModel
from ordtool.parsing.pcfg.inference import PcfgParser
from ordtool.parsing.pcfg.model import MODEL_TYPE as PCFG_TYPE
from ordtool.parsing.spans.encoder import ENCODER_FOLDER, load_encoder
from ordtool.parsing.spans.inference import SpanParser
from ordtool.parsing.spans.model import MODEL_TYPE as SPANS_TYPE
from ordtool.parsing.spans.words import AffixVocabulary
from ordtool.parsing.text.vocabulary import Vocabulary, read_json

__all__ = ["TreeModel", "load_parser"]

WEIGHTS_FILE = "model.safetensors"

TreeModel = DistanceModel | BidirectionalModel | SpanParser | PcfgParser

_KINDS: dict[str, type[DistanceModel] | type[SpanParser] | type[PcfgParser]] = {
    "onlstm": DistanceModel,
    SPANS_TYPE: SpanParser,
    PCFG_TYPE: PcfgParser,
}


def load_parser(
    folder: str | Path, device: torch.device | str = "cpu", matmul_dtype: torch.dtype | None = None
) -> TreeModel:
    """Load a model folder; weights are computed with as float32, whatever they are stored as.

    Args:
        folder: What `ordtool train parser` or `train spans` wrote.
        device: Where it computes.
        matmul_dtype: Element type of matrix products; None: float32.

    Raises:
        OrdtoolError: If the folder holds no parser, or its files don't belong together.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json")
    kind = _KINDS.get(str(config.get("model_type")))
    if kind is None:
        raise OrdtoolError(
            f"{folder}: a model of type {config.get('model_type')!r}, and a parser is one of {', '.join(_KINDS)}",
            "ordtool models list names parsers; ordtool train parser makes one",
        )
    tensors = _read_weights(folder, config)
    with _fitting(folder):
        if kind is SpanParser and (folder / ENCODER_FOLDER).is_dir():
            token_kind = str(config.get("token_kind", "words"))
            encoder, pieces = load_encoder(folder / ENCODER_FOLDER, token_kind)
            return SpanParser.from_parts(config, tensors, pieces, device, matmul_dtype, encoder)
        words = (AffixVocabulary if config.get("affixes") else Vocabulary).from_folder(folder)
        model = kind.from_parts(config, tensors, words, device, matmul_dtype)
    if isinstance(model, DistanceModel) and config.get("direction") == "both":
        return _with_backward(model, folder / BACKWARD_FOLDER, device)
    return model


def _with_backward(forward: DistanceModel, folder: Path, device: torch.device | str) -> BidirectionalModel:
    """Put a model that reads forward together with the one that reads backward, which looks words up as it does."""
    config = read_json(folder / "config.json")
    tensors = _read_weights(folder, config)
    with _fitting(folder):
        backward = DistanceModel.from_parts(config, tensors, forward.vocabulary, device, forward.matmul_dtype)
        return BidirectionalModel(forward, backward)


def _read_weights(folder: Path, config: dict[str, Any]) -> dict[str, Tensor]:
    tensors = _whole(read_tensors(folder / WEIGHTS_FILE))
    _check_sizes(folder, config, tensors)
    return tensors


@contextmanager
def _fitting(folder: Path) -> Iterator[None]:
    """Make a model of the parts in a folder.

    Raises:
        OrdtoolError: They don't fit each other.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, ArithmeticError, RuntimeError, UsageError) as error:
        what = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise OrdtoolError(
            f"{folder}: the weights don't fit the configuration ({what})",
            "was the copy or download cut short?",
        ) from None


def _whole(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights as float32: those with a `.scale`, one a row, are integers to be multiplied by it."""
    scales = {name: tensor for name, tensor in stored.items() if name.endswith(".scale")}
    return {
        name: tensor.float() * scales[f"{name}.scale"].float().view(-1, 1)
        if f"{name}.scale" in scales
        else tensor.float()
        for name, tensor in stored.items()
        if name not in scales
    }


def _check_sizes(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Refuse sizes that the weights can't have, before anything of that size is made."""
    numbers = sum(tensor.numel() for tensor in tensors.values())
    limits = {name: numbers for name in config if name.endswith(("_size", "_heads", "terminals"))}
    for name, limit in {**limits, "num_hidden_layers": len(tensors)}.items():
        value = config.get(name)
        if isinstance(value, int) and not 0 <= value <= limit:
            raise OrdtoolError(
                f"{folder / 'config.json'}: damaged: {name} is {value:,}, and there are {limit:,} weights",
                "was the copy or download cut short?",
            )
