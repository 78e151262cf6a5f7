"""A whitening as the last module of a sentence-transformers model.

The folder is written by hand, in the layout that sentence-transformers reads, so that the library isn't needed:
the model's own modules, then a `Dense` layer with an identity activation (weight `kernel^T`, bias
`-beta mean kernel`), then `Normalize` where the whitening normalises.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ordtool.embedding.sentence_transformers_config import read_modules
from ordtool.embedding.whitening import Whitening
from ordtool.errors import OrdtoolError, UsageError, close_match_hint
from ordtool.io.atomic import atomic_directory
from ordtool.models.loading import read_json

POOLINGS = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens", "last": "lasttoken"}
# Other formats of the same weights, pickles among them, code, and leavings of tools.
SKIPPED = (
    "*.bin",
    "*.py",
    "*.pt",
    "*.pth",
    "*.ckpt",
    "*.h5",
    "*.msgpack",
    "*.ot",
    "onnx",
    "openvino",
    ".git*",
    ".cache",
    "ordtool-source.json",
)
MODULE_TYPES = "sentence_transformers.models."


def export_sentence_transformers(
    whitening: Whitening, folder: Path, model: Path, *, pooling: str | None = None, force: bool = False
) -> None:
    """Write a folder that `SentenceTransformer(folder)` loads and that gives whitened vectors.

    Args:
        whitening: Fitted on vectors of `model`.
        folder: The folder to write.
        model: A sentence-transformers folder, or one of a Hugging Face encoder, which gets a pooling module.
        pooling: `cls`, `mean`, `max` or `last`; None keeps the model's own (mean where it has none). Naming one
            leaves out what else the model does after pooling, as `ordtool embed --pooling` does.
        force: Replace an existing folder.

    Raises:
        OrdtoolError: The whitening was fitted on vectors of another width, or the model has modules that can't
            be followed by a linear map.
        UsageError: An unknown pooling.
    """
    if pooling is not None and pooling not in POOLINGS:
        raise UsageError(f"unknown pooling {pooling!r}", close_match_hint(pooling, POOLINGS))
    hidden_size = _hidden_size(model)
    with atomic_directory(folder, force=force) as target:
        shutil.copytree(model, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*SKIPPED))
        modules = _read_modules(target)
        if pooling is not None or not modules:
            modules = _with_pooling(target, modules, pooling or "mean", hidden_size)
        width = _output_width(target, modules, hidden_size)
        if width != whitening.n_features_in_:
            raise OrdtoolError(
                f"the model gives vectors of {width} numbers, and the transform takes {whitening.n_features_in_}",
                f"it was fitted on {whitening.fitted_on_}; name the model that those vectors came from",
            )
        _append(target, modules, "Dense", _dense_config(whitening), _dense_tensors(whitening))
        if whitening.normalize:
            _append(target, modules, "Normalize", {}, None)
        _write_json(target / "modules.json", modules)
        _add_to_card(target / "README.md", whitening)


def _dense_config(whitening: Whitening) -> dict[str, Any]:
    return {
        "in_features": whitening.n_features_in_,
        "out_features": whitening.kernel_.shape[1],
        "bias": True,
        "activation_function": "torch.nn.modules.linear.Identity",
    }


def _dense_tensors(whitening: Whitening) -> dict[str, np.ndarray]:
    kernel = whitening.kernel_
    bias = -whitening.beta * whitening.mean_ @ kernel
    return {
        "linear.weight": np.ascontiguousarray(kernel.T, dtype=np.float32),
        "linear.bias": bias.astype(np.float32),
    }


def _append(
    folder: Path,
    modules: list[dict[str, Any]],
    kind: str,
    config: dict[str, Any],
    tensors: dict[str, np.ndarray] | None,
) -> None:
    from safetensors.numpy import save

    name = f"{len(modules)}_{kind}"
    path = folder / name
    path.mkdir(exist_ok=True)  # a folder that modules.json does not name may have that name
    _write_json(path / "config.json", config)
    if tensors is not None:
        (path / "model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
    modules.append(
        {"idx": len(modules), "name": str(len(modules)), "path": name, "type": MODULE_TYPES + kind}
    )


def _read_modules(folder: Path) -> list[dict[str, Any]]:
    if not (folder / "modules.json").is_file():
        return []
    modules = read_modules(folder)
    for module in modules:
        if not str(module.get("type", "")).startswith("sentence_transformers."):
            raise OrdtoolError(
                f"the model has a module of its own, {module.get('type')!r}, which would need its code",
                "export from a model of sentence-transformers' own modules",
            )
    return modules


def _with_pooling(
    folder: Path, modules: list[dict[str, Any]], pooling: str, hidden_size: int
) -> list[dict[str, Any]]:
    """The transformer and one pooling module; what followed is dropped."""
    for module in modules[1:]:
        # A module without weights may name the folder itself.
        if (folder / module.get("path", "")).resolve() != folder.resolve():
            shutil.rmtree(folder / module["path"], ignore_errors=True)
    transformer = modules[:1] or [{"idx": 0, "name": "0", "path": "", "type": MODULE_TYPES + "Transformer"}]
    config = {"word_embedding_dimension": hidden_size}
    config |= {f"pooling_mode_{mode}": name == pooling for name, mode in POOLINGS.items()}
    _append(folder, transformer, "Pooling", config, None)
    return transformer


def _hidden_size(model: Path) -> int:
    path = model / "config.json"
    if not path.is_file():
        raise OrdtoolError(
            f"{model}: no config.json of a transformer in it", "`model` names the model that made the vectors"
        )
    config = read_json(path)
    size = config.get("hidden_size") or config.get("dim") or config.get("d_model")
    if size is None:
        raise OrdtoolError(
            f"{model}: its config.json has no hidden_size, so it is no transformer that sentence-transformers loads",
            "static and other packaged models can't be exported; apply the transform with ordtool embed --transform",
        )
    return int(size)


def _output_width(folder: Path, modules: list[dict[str, Any]], hidden_size: int) -> int:
    """Columns of the vectors after the last module."""
    width = hidden_size
    for module in modules[1:]:
        kind = module["type"].rsplit(".", 1)[-1]
        path = folder / module["path"] / "config.json"
        config = read_json(path) if path.is_file() else {}
        if kind == "Pooling":
            modes = config.get("pooling_mode", "mean")
            legacy = sum(bool(value) for key, value in config.items() if key.startswith("pooling_mode_"))
            width *= max(1, legacy if legacy else len(modes) if isinstance(modes, list) else 1)
        elif kind == "Dense":
            width = int(config["out_features"])
    return width


def _add_to_card(path: Path, whitening: Whitening) -> None:
    """The model's own card stays true of its own modules; a section says what was added."""
    with path.open("a", encoding="utf-8") as card:
        card.write(
            "\n\n## Whitening\n\nThe model above is followed by a linear map, fitted by `ordtool whiten` on "
            f"{whitening.fitted_on_}: `{whitening!r}`, {whitening.n_features_in_} to "
            f"{whitening.kernel_.shape[1]} columns.\n"
        )


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
