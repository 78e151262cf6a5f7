"""ordtool's own kinds of models for the Auto classes of transformers."""

from __future__ import annotations

from ordtool.models.own import OWN_MODELS, register


def register_models() -> None:
    """Import and register every kind of model that `ordtool train` writes, now.

    `import ordtool` is enough for `AutoModel.from_pretrained` and its kin to load them: a kind is imported when a folder
    of it is read. This does it at once, for code that asks for the classes themselves.

    Example:
        >>> import ordtool
        >>> from transformers import AutoModelForCausalLM
        >>> AutoModelForCausalLM.from_pretrained(ordtool.resolve_model("english-onlstm")).config.model_type
        'onlstm'
    """
    for model_type in OWN_MODELS:
        register(model_type)
