"""sentence-transformers' folders, read without that library: what they say of themselves, and what follows the pooling."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ordtool.errors import OrdtoolError, UsageError, close_match_hint

if TYPE_CHECKING:
    import torch

    Map = Callable[[torch.Tensor], torch.Tensor]

# sentence-transformers' names for a pooling, and ours.
_POOLINGS = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean-sqrt",
    "weightedmean": "weighted-mean",
    "lasttoken": "last",
}
_LEGACY_POOLINGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean-sqrt",
    "pooling_mode_weightedmean_tokens": "weighted-mean",
    "pooling_mode_lasttoken": "last",
}
_ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "Sigmoid", "SiLU")
_INCOMPLETE = "is the model folder complete?"
# What looks like the name of a prompt, and not like the beginning of a text.
_NAME = re.compile(r"[\w.-]+")
_AFTER_POOLING = {"Dense": "dense", "Normalize": "normalize", "LayerNorm": "layer-norm"}


@dataclass(frozen=True, slots=True)
class Step:
    """What follows the pooling: `dense`, `normalize` or `layer-norm`, and the folder that holds it."""

    kind: str
    folder: Path


@dataclass(frozen=True, slots=True)
class SentenceTransformersConfig:
    """How a model folder wants to be used.

    Attributes:
        transformer: The folder of the Hugging Face model, or of static embeddings.
        static: Whether it is a table of token vectors rather than a Transformer.
        max_length: Tokens it should read at most; None: as many as it can.
        lower_case: Whether texts are put in lower case first.
        poolings: Whose results are concatenated; empty where the folder says nothing.
        include_prompt: Whether the prompt's tokens are pooled too.
        steps: What follows the pooling, in order.
        prompts: Prompts by name.
        default_prompt: The name of the one that is used unasked.
    """

    transformer: Path
    static: bool = False
    max_length: int | None = None
    lower_case: bool = False
    poolings: tuple[str, ...] = ()
    include_prompt: bool = True
    steps: tuple[Step, ...] = ()
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None


def read_model_folder(folder: Path) -> SentenceTransformersConfig:
    """Read a model folder's settings.

    Args:
        folder: A Hugging Face folder, a sentence-transformers folder (`modules.json`), or
            static embeddings in model2vec's layout.

    Returns:
        The settings; those of a plain Hugging Face folder say nothing but where it is.

    Raises:
        OrdtoolError: If a settings file is damaged, or the folder has a module that
            isn't known.
    """
    if not (folder / "modules.json").is_file():
        static = read_json(folder / "config.json").get("model_type") == "model2vec"
        own = (Step("normalize", folder),) if static and _normalizes(folder) else ()
        return SentenceTransformersConfig(folder, static=static, steps=own)
    modules = [(_kind(module), folder / str(module.get("path", ""))) for module in read_modules(folder)]
    (first, transformer), rest = modules[0], modules[1:]
    if first not in ("Transformer", "StaticEmbedding"):
        raise _unknown_module(folder, first)
    sentence = read_json(transformer / "sentence_bert_config.json", missing_ok=True)
    general = read_json(folder / "config_sentence_transformers.json", missing_ok=True)
    pooling: dict[str, Any] = {}
    steps: list[Step] = []
    for kind, path in rest:
        if kind == "Pooling" and first == "Transformer":
            pooling = read_json(path / "config.json")
        elif kind in _AFTER_POOLING:
            steps.append(Step(_AFTER_POOLING[kind], path))
        else:
            raise _unknown_module(folder, kind)
    max_length = _value(sentence, "max_seq_length", (int,), transformer)
    if max_length is not None and max_length < 1:
        raise _damaged(transformer, "max_seq_length", max_length)
    prompts = _value(general, "prompts", (dict,), folder) or {}
    return SentenceTransformersConfig(
        transformer,
        static=first == "StaticEmbedding",
        max_length=max_length,
        lower_case=bool(sentence.get("do_lower_case")),
        poolings=_poolings(pooling, folder),
        include_prompt=bool(pooling.get("include_prompt", True)),
        steps=tuple(steps),
        prompts={name: _value(prompts, name, (str,), folder) or "" for name in prompts},
        default_prompt=_value(general, "default_prompt_name", (str,), folder),
    )


def _value(settings: dict[str, Any], name: str, kinds: tuple[type, ...], folder: Path) -> Any:
    """Return a setting, or None; a value of another type is damage."""
    value = settings.get(name)
    if value is not None and type(value) not in kinds:
        raise _damaged(folder, name, value)
    return value


def _damaged(folder: Path, name: str, value: object) -> OrdtoolError:
    return OrdtoolError(f"{folder}: damaged: {name!r} can't be {str(value)[:40]!r}", _INCOMPLETE)


def choose_prompt(config: SentenceTransformersConfig, asked: str | None, model: str) -> str:
    """Return the text that is put before each text.

    Args:
        config: The model folder's own.
        asked: The name of one of its prompts, or a text; None is the folder's default, and an empty text is none.
        model: Its name, for messages.

    Raises:
        UsageError: For a lone word that isn't the name of a prompt: glued to the texts it would change what they say.
    """
    if asked is None:
        return config.prompts.get(config.default_prompt or "", "")
    if asked in config.prompts:
        return config.prompts[asked]
    if _NAME.fullmatch(asked):
        names = ", ".join(sorted(config.prompts))
        raise UsageError(
            f"{model} has {'no prompt' if names else 'no prompts, and so none'} named {asked!r}",
            f"{f'its prompts: {names}; ' if names else ''}a text to put first has a space or a colon: '{asked}: '",
        )
    return asked


def read_modules(folder: Path) -> list[dict[str, Any]]:
    """Read the modules that a sentence-transformers folder names.

    Raises:
        OrdtoolError: If `modules.json` is missing or damaged, or names a place outside the folder.
    """
    file = folder / "modules.json"
    modules = _load(file)
    if not isinstance(modules, list) or not modules or not all(isinstance(m, dict) for m in modules):
        raise OrdtoolError(f"{file}: a list of modules is expected")
    for module in modules:
        path = module.get("path", "")
        if not isinstance(path, str) or not (folder / path).resolve().is_relative_to(folder.resolve()):
            raise OrdtoolError(f"{file}: the path {path!r} of a module leaves the folder")
    return modules


def _kind(module: dict[str, Any]) -> str:
    return str(module.get("type", "")).rpartition(".")[2]


def _unknown_module(folder: Path, kind: str) -> OrdtoolError:
    return OrdtoolError(
        f"{folder}: its module {kind!r} is unknown here",
        "`pooling` mean uses the Transformer alone, if its folder is named with `model`",
    )


def _normalizes(folder: Path) -> bool:
    return bool(read_json(folder / "config.json").get("normalize"))


def _poolings(config: dict[str, Any], folder: Path) -> tuple[str, ...]:
    modes = config.get("pooling_mode")
    if modes is None:
        return tuple(ours for key, ours in _LEGACY_POOLINGS.items() if config.get(key))
    _value(config, "pooling_mode", (str, list), folder)
    names = [modes] if isinstance(modes, str) else modes
    unknown = [name for name in names if name not in tuple(_POOLINGS)]
    if unknown:
        raise OrdtoolError(f"{folder}: its pooling {unknown[0]!r} is unknown here", "name one with `pooling`")
    return tuple(_POOLINGS[name] for name in names)


def read_json(path: Path, *, missing_ok: bool = False) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        OrdtoolError: If the file is missing (unless `missing_ok`) or is no JSON object.
    """
    if missing_ok and not path.is_file():
        return {}
    value = _load(path)
    if not isinstance(value, dict):
        raise OrdtoolError(f"{path}: a JSON object is expected")
    return value


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OrdtoolError(f"{path}: can't be read: {error.strerror}", _INCOMPLETE) from None
    except (ValueError, RecursionError) as error:
        raise OrdtoolError(f"{path}: malformed JSON ({error})", _INCOMPLETE) from None


def after_pooling(step: Step, device: torch.device) -> Map:
    """Return the function of a sentence-transformers module that follows the pooling."""
    import torch

    from ordtool.models.loading import read_tensors

    if step.kind == "normalize":
        return lambda rows: torch.nn.functional.normalize(rows, dim=-1)
    tensors = read_tensors(step.folder / "model.safetensors")
    weights = {name: tensor.to(device, torch.float32) for name, tensor in tensors.items()}
    needed = {"layer-norm": ("norm.weight", "norm.bias"), "dense": ("linear.weight",)}[step.kind]
    if missing := [name for name in needed if name not in weights]:
        raise OrdtoolError(f"{step.folder}: damaged: no tensor {missing[0]!r}", _INCOMPLETE)
    if step.kind == "layer-norm":
        weight, bias = weights["norm.weight"], weights["norm.bias"]
        return lambda rows: torch.nn.functional.layer_norm(rows, weight.shape, weight, bias)
    return _dense(step.folder, weights)


def _dense(folder: Path, weights: dict[str, torch.Tensor]) -> Map:
    import torch

    config = read_json(folder / "config.json")
    name = str(config.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
    if name not in _ACTIVATIONS:
        raise OrdtoolError(f"{folder}: unknown activation {name!r}", close_match_hint(name, _ACTIVATIONS))
    activation = getattr(torch.nn, name)()
    weight, bias = weights["linear.weight"], weights.get("linear.bias")
    residual = weights.get("residual.weight")

    def apply(rows: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = activation(torch.nn.functional.linear(rows, weight, bias))
        if config.get("use_residual"):
            out = out + (rows if residual is None else torch.nn.functional.linear(rows, residual))
        return out

    return apply
