"""Model folders: weights, configuration and tokenizer as Hugging Face writes them."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from ordtool.parsing.onlstm.model import OnlstmForCausalLM
from ordtool.parsing.onlstm.tokenizer import OnlstmTokenizer

__all__ = ["save_model"]


def save_model(
    model: OnlstmForCausalLM, tokenizer: OnlstmTokenizer, folder: Path, *, half: bool = False
) -> None:
    """Write a model and its tokenizer into an existing folder.

    Args:
        model: The model; its tied softmax weight is stored once, as the embedding.
        tokenizer: Its tokenizer.
        folder: Where to write.
        half: Store weights as float16. `config.json` says float32, so that they are computed with as such.
    """
    model.config.architectures = [type(model).__name__]
    model.config.dtype = torch.float32
    model.config.save_pretrained(folder)
    dtype = torch.float16 if half else torch.float32
    tied = model.model.embed_tokens.weight
    tensors = {
        name: parameter.detach().to("cpu", dtype).contiguous()
        for name, parameter in model.state_dict().items()
        if parameter.data_ptr() != tied.data_ptr() or name == "model.embed_tokens.weight"
    }
    weights = folder / "model.safetensors"
    save_file(tensors, weights, metadata={"format": "pt"})
    weights.chmod(
        (folder / "config.json").stat().st_mode
    )  # safetensors makes files that only their owner can read
    tokenizer.save_pretrained(folder)
