"""ordtool's own kinds of models for the Auto classes of transformers."""

from __future__ import annotations

from ordtool.models.own import OWN_MODELS, register


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
    for model_type in OWN_MODELS:
        register(model_type)
