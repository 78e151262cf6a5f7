"""ordtool's own kinds of models, which transformers' Auto classes know once the module of one was imported.

Kinds stand here as names, so that nothing is imported that a folder doesn't need, and this floor knows no subject.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

OWN_MODELS: dict[str, tuple[str, ...]] = {
    "hsic_bottleneck": ("ordtool.independence.bottleneck",),
    "onlstm": ("ordtool.parsing.onlstm.model", "ordtool.parsing.onlstm.tokenizer"),
    "ordtool_ladder": ("ordtool.tuning.ladder.ladder_models",),
    "ordtool_lm": ("ordtool.lm.model",),
    "ordtool_unilm": ("ordtool.seq2seq.unilm",),
}
"""`model_type` of config.json -> the modules that register it when they are imported."""


def register(model_type: str) -> None:
    """Let the Auto classes load a kind of model, if it is one of ours."""
    for module in OWN_MODELS.get(model_type, ()):
        import_module(module)


def config_class(model_type: str) -> Any:
    """Return the configuration of one of our kinds, imported and registered."""
    register(model_type)
    from transformers import AutoConfig

    return type(AutoConfig.for_model(model_type))


def register_kind_of(folder: Path) -> None:
    """Let the Auto classes load what a folder holds, if it is a model of ours; damage is left to whoever loads it."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return
    kind = config.get("model_type") if isinstance(config, dict) else None
    if isinstance(kind, str):
        register(kind)
