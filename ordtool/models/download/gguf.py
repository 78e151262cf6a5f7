"""GGUF to a Hugging Face folder, by transformers' own reader."""

from __future__ import annotations

from pathlib import Path


def convert_gguf(file: Path, folder: Path) -> None:
    """Unpack a GGUF causal LM to float32 safetensors with its tokenizer.

    Loading the GGUF itself takes transformers many seconds each time; the folder loads
    in about one.

    Args:
        file: The GGUF file.
        folder: The folder to fill; loads with the Auto classes.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ordtool.models.loading import load_part
    from ordtool.models.releases import dequantized

    tokenizer = load_part(file.parent, AutoTokenizer, "tokenizer", gguf_file=file.name)
    model = load_part(
        file.parent,
        AutoModelForCausalLM,
        "model",
        gguf_file=file.name,
        dtype=torch.float32,
        **dequantized(),
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
