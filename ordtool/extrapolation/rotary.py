"""Where a model keeps its rotary embedding, and why another model has none that can be changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ordtool.errors import OrdtoolError
from ordtool.models.releases import attention_can_be_replaced, rotation_of

_OTHER_POSITIONS = {
    "gpt2": "it learned a vector for each position",
    "gpt_neo": "it learned a vector for each position",
    "gpt_bigcode": "it learned a vector for each position",
    "opt": "it learned a vector for each position",
    "openai-gpt": "it learned a vector for each position",
    "xglm": "it adds sinusoids to the embeddings",
    "bloom": "it has ALiBi, a penalty on distances, which needs no such method",
    "mpt": "it has ALiBi, a penalty on distances, which needs no such method",
    "mamba": "it has no attention",
    "mamba2": "it has no attention",
    "rwkv": "it has no attention",
}
_FITTING = (
    "models that fit: Llama, Mistral, Qwen2, Qwen3, GPT-NeoX, Phi3, GLM, Cohere and those built like them"
)


@dataclass(frozen=True, slots=True)
class Rotary:
    """A model's rotary embedding.

    Attributes:
        decoder: The module that owns it.
        module: From states and positions to `cos` and `sin`, `(batch, n, D)`.
        config: The decoder's configuration.
        apply: The modelling file's own rotation of queries and keys.
    """

    decoder: nn.Module
    module: nn.Module
    config: Any
    apply: Callable[..., tuple[torch.Tensor, torch.Tensor]]

    @property
    def inv_freq(self) -> torch.Tensor:
        """Inverse frequencies, `(D/2,)`."""
        return self.module.inv_freq  # type: ignore[return-value]

    @property
    def rope_type(self) -> str:
        """Return transformers' name of how the frequencies were made."""
        return str((self.config.rope_parameters or {}).get("rope_type", "default"))


def model_name(model: nn.Module) -> str:
    """Return a model's class, for messages."""
    return type(model).__name__


def find_rotary(model: nn.Module) -> Rotary:
    """Find the one rotary embedding of a decoder.

    Args:
        model: A transformers model.

    Raises:
        OrdtoolError: Naming the model and the reason, if it has no rotary embedding,
            several of them, latent attention, or frequencies that already follow the length.
    """
    decoder = getattr(model, "base_model", None)
    config = getattr(decoder, "config", None)
    if decoder is None or config is None:
        raise OrdtoolError(f"{model_name(model)} is not a transformers model", _FITTING)
    if getattr(config, "is_encoder_decoder", False):
        raise _refusal(model, "it is an encoder-decoder")
    if any(getattr(config, name, None) is not None for name in ("kv_lora_rank", "kv_lora_dim")):
        raise _refusal(
            model, "its attention is latent (MLA): keys are rebuilt from a smaller vector when used"
        )
    if fixed := getattr(decoder, "fixed_positions", None):  # our own models say it themselves
        raise _refusal(model, fixed)
    module = _only_rotary(model, decoder)
    rotary = Rotary(decoder, module, config, _apply_function(model, decoder))
    if rotary.rope_type in ("dynamic", "longrope"):
        raise _refusal(
            model, f"its frequencies already follow the length of the text (rope type {rotary.rope_type})"
        )
    return rotary


def _only_rotary(model: nn.Module, decoder: nn.Module) -> nn.Module:
    names = [name for name, module in decoder.named_modules() if _is_rotary(name, module)]
    module = getattr(decoder, "rotary_emb", None)
    if len(names) > 1:
        raise _refusal(model, f"it has several rotary modules ({', '.join(names[:3])})")
    if not names:
        kind = getattr(model.config, "model_type", "")
        raise _refusal(
            model,
            _OTHER_POSITIONS.get(str(kind), "there is no rotary module in it"),
            "no rotary position embedding",
        )
    if not isinstance(module, nn.Module):
        raise _refusal(model, f"its rotary module is not the decoder's own ({names[0]})")
    inv_freq = getattr(module, "inv_freq", None)
    if not isinstance(inv_freq, torch.Tensor):
        several = [name for name, _ in module.named_buffers() if name.endswith("inv_freq")]
        if len(several) > 1:
            raise _refusal(
                model, f"it has several rotary embeddings, by kind of layer ({', '.join(several[:2])})"
            )
        raise _refusal(model, "its rotary module keeps its frequencies in a way of its own")
    return module


def _is_rotary(name: str, module: nn.Module) -> bool:
    """Say whether a module gives rotations; one without frequencies, by its class's name alone, doesn't."""
    kind = type(module).__name__.lower()
    holds = name.endswith("rotary_emb") or next(module.buffers(), None) is not None
    return holds and ("rotary" in kind or "rope" in kind)


def _apply_function(model: nn.Module, decoder: nn.Module) -> Any:
    function = rotation_of(decoder)
    if function is None:
        raise _refusal(model, "its modelling file has no apply_rotary_pos_emb")
    return function


def check_frequencies(model: nn.Module, rotary: Rotary) -> None:
    """Check that a frequency method starts from the frequencies of training.

    Raises:
        OrdtoolError: If the model's frequencies are scaled already.
    """
    if bool((rotary.inv_freq == 0).any()):
        raise OrdtoolError(
            f"{model_name(model)}: some of its pairs were trained not to turn, and other frequencies would turn them",
            "position methods (rerope, self-extend, dca) work on it as it is",
        )
    if rotary.rope_type != "default":
        raise OrdtoolError(
            f"{model_name(model)}: its frequencies are scaled already (rope type {rotary.rope_type}), "
            "and scaling them twice has no meaning",
            "position methods (rerope, self-extend, dca) work on it as it is",
        )


def check_attention(model: nn.Module, rotary: Rotary) -> None:
    """Check that a model's attention can be replaced.

    Raises:
        OrdtoolError: Naming the model and the reason.
    """
    config = rotary.config
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if kinds:
        raise _refusal(model, f"some of its layers are no plain attention ({', '.join(sorted(kinds))})")
    if not all(getattr(config, "no_rope_layers", None) or [1]):
        raise _refusal(model, "some of its layers have no positions at all")
    if getattr(config, "attn_logit_softcapping", None):
        raise _refusal(model, "it caps the scores of attention")
    if not attention_can_be_replaced(model):
        raise _refusal(model, "its attention can't be replaced (no attention interface)")
    if model.training:
        raise OrdtoolError(f"{model_name(model)} is in training mode", "call model.eval() first")


def _refusal(model: nn.Module, reason: str, what: str = "can't be extrapolated") -> OrdtoolError:
    return OrdtoolError(f"{model_name(model)}: {what}: {reason}", _FITTING)


def check_long(model: nn.Module, length: int) -> None:
    """Check that a model without rotary positions, as it is, can read a length at all.

    Raises:
        OrdtoolError: If it learned a vector for each position, and there are fewer.
    """
    config: Any = model.config
    reason = _OTHER_POSITIONS.get(str(getattr(config, "model_type", "")), "")
    known = trained_length(config)
    if "learned" in reason and known is not None and length > known:
        raise _refusal(model, f"{reason}, and has none from {known:,} on", "no rotary position embedding")


def trained_length(config: Any) -> int | None:
    """Return the length that a model was trained at, as its configuration has it.

    Where the frequencies were scaled to reach further (yarn, llama3), that is the length
    before; else `max_position_embeddings`.
    """
    config = config.get_text_config()
    before = (getattr(config, "rope_parameters", None) or {}).get("original_max_position_embeddings")
    for value in (before, getattr(config, "max_position_embeddings", None)):
        if isinstance(value, int) and value > 0:
            return value
    return None
