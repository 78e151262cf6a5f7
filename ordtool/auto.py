"""ordtool's own kinds of models for the Auto classes of transformers."""

from __future__ import annotations

from importlib import import_module

# Each registers its configurations and models when it is imported.
_MODULES = (
    "ordtool.independence.bottleneck",
    "ordtool.parsing.onlstm.model",
    "ordtool.parsing.onlstm.tokenizer",
    "ordtool.lm.model",
    "ordtool.seq2seq.unilm",
    "ordtool.tuning.laddered",
)


def register_models() -> None:
    """Make `AutoModel.from_pretrained` and its kin load every model that `ordtool train` writes.

    `import ordtool` alone doesn't do it, because it would have to import torch and transformers.

    Example:
        >>> import ordtool
        >>> from transformers import AutoModelForCausalLM
        >>> ordtool.register_models()
        >>> AutoModelForCausalLM.from_pretrained(ordtool.resolve_model("english-onlstm")).config.model_type
        'onlstm'
    """
    for module in _MODULES:
        import_module(module)
