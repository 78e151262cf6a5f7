"""ordtool: good ideas of NLP in a shell, and the same as Python functions.

The names below are imported when they are first used, so that `import ordtool` costs
nothing: torch and transformers load only with what needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_EXPORTS: dict[str, str] = {
    "OrdtoolError": "ordtool.errors",
    "UsageError": "ordtool.errors",
    "Parser": "ordtool.parsing.parser",
    "parse": "ordtool.parsing.parser",
    "score_trees": "ordtool.parsing.trees.scoring",
    "train_parser": "ordtool.parsing.training",
    "Whitening": "ordtool.embedding.whitening",
    "embed": "ordtool.embedding.embed_job",
    "load_encoder": "ordtool.embedding.encoder",
    "score_similarity": "ordtool.embedding.similarity",
    "cka": "ordtool.independence.alignment",
    "hsic": "ordtool.independence.hsic",
    "train_bottleneck": "ordtool.independence.bottleneck_training",
    "generate": "ordtool.generation.engine",
    "score_text": "ordtool.generation.scoring",
    "train_lm": "ordtool.transformer.training",
    "extrapolate": "ordtool.extrapolation.patch",
    "resolve_model": "ordtool.models.catalog",
}

__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'ordtool' has no attribute {name!r}")
    value = getattr(import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
