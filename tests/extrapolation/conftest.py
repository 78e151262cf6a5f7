"""Tiny random models of each family; dimensions are primes where the family allows it."""

from collections.abc import Callable

import pytest
import torch
import transformers

TRAINED = 13
COMMON = {
    "vocab_size": 61,
    "num_hidden_layers": 2,
    "max_position_embeddings": TRAINED,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "attn_implementation": "sdpa",
}
GATED = {
    **COMMON,
    "hidden_size": 6 * 11,
    "intermediate_size": 37,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 10,
}
WHOLE = {"rope_type": "default", "rope_theta": 97.0}

FAMILIES: dict[str, tuple[str, dict]] = {
    "llama": ("Llama", {**GATED, "rope_parameters": WHOLE}),
    "mistral": ("Mistral", {**GATED, "rope_parameters": WHOLE, "sliding_window": None}),
    "qwen2": ("Qwen2", {**GATED, "hidden_size": 60, "rope_parameters": WHOLE}),
    "qwen3": ("Qwen3", {**GATED, "rope_parameters": WHOLE}),
    "gpt_neox": (
        "GPTNeoX",
        {
            **COMMON,
            "hidden_size": 5 * 14,
            "num_attention_heads": 5,
            "intermediate_size": 37,
            "rope_parameters": {**WHOLE, "partial_rotary_factor": 10 / 14},
        },
    ),
    "phi3": (
        "Phi3",
        {
            **GATED,
            "hidden_size": 6 * 14,
            "head_dim": 14,
            "rope_parameters": {**WHOLE, "partial_rotary_factor": 10 / 14},
        },
    ),
    "phi": (  # cuts off the part that isn't rotated in its attention layer
        "Phi",
        {
            **COMMON,
            "hidden_size": 5 * 14,
            "num_attention_heads": 5,
            "intermediate_size": 37,
            "rope_parameters": {**WHOLE, "partial_rotary_factor": 10 / 14},
        },
    ),
    "glm": (
        "Glm",
        {**GATED, "head_dim": 14, "rope_parameters": {**WHOLE, "partial_rotary_factor": 10 / 14}},
    ),
    "cohere": ("Cohere", {**GATED, "hidden_size": 60, "rope_parameters": WHOLE, "logit_scale": 1.0}),
}


@pytest.fixture
def tiny() -> Callable[..., torch.nn.Module]:
    """`tiny("llama", dtype=...)`: a model whose attention is far from uniform, so that distances matter."""

    def make(family: str, dtype: torch.dtype = torch.float64, **changes):
        name, options = FAMILIES[family]
        config = getattr(transformers, f"{name}Config")(**{**options, **changes})
        torch.manual_seed(7)
        model = getattr(transformers, f"{name}ForCausalLM")(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.15)
        return model.to(dtype).eval()

    return make
