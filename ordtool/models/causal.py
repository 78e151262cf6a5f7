"""A causal language model and its tokenizer from a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ordtool.errors import OrdtoolError
from ordtool.runtime import quiet_libraries

if TYPE_CHECKING:
    import torch


def load_config(folder: Path) -> Any:
    """Load a model's configuration.

    Raises:
        OrdtoolError: If it is missing, damaged, of an unknown kind, or of a model that writes no text.
    """
    quiet_libraries()
    from transformers import AutoConfig

    config = load_part(folder, AutoConfig, "configuration")
    names = list(config.architectures or [])
    if config.is_encoder_decoder or (
        names and not any(n.endswith(("CausalLM", "LMHeadModel")) for n in names)
    ):
        raise OrdtoolError(
            f"{folder}: {(names or [config.model_type])[0]} is not a causal language model",
            "name one that continues texts, such as --model smollm2",
        )
    return config


def load_causal_model(folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
    """Load a causal language model, in evaluation mode.

    Args:
        folder: A Hugging Face model folder with safetensors weights.
        device: Where it goes.
        dtype: Of its weights and arithmetic.

    Raises:
        OrdtoolError: If weights are missing or damaged.
    """
    quiet_libraries()
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    # What there is to say about loading is said by us, in one line.
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        model, info = load_part(
            folder, AutoModelForCausalLM, "model", dtype=dtype, use_safetensors=True, output_loading_info=True
        )
    except (RuntimeError, SafetensorError) as error:
        raise OrdtoolError(
            f"{folder}: the weights can't be loaded: {_line(error)}", "was the copy cut short?"
        ) from error
    if missing := sorted(info["missing_keys"]):
        raise OrdtoolError(
            f"{folder}: {len(missing)} weights of {type(model).__name__} are missing, {missing[0]} first",
            "the checkpoint is of another kind of model, or incomplete",
        )
    return model.to(device).eval()


def load_tokenizer(folder: Path) -> Any:
    """Load a model's tokenizer.

    A folder with nothing but a SentencePiece `.model` file works too.

    Raises:
        OrdtoolError: If there is none, or several that could be meant.
    """
    quiet_libraries()
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    if not any(
        (folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json")
    ):
        found = sorted(folder.glob("*.model"))
        if len(found) == 1:
            from ordtool.models.sentencepiece import build_tokenizer

            return build_tokenizer(found[0])
        if len(found) > 1:
            raise OrdtoolError(
                f"{folder}: several tokenizers ({', '.join(file.name for file in found)}) and no tokenizer.json",
                "leave one",
            )
    return load_part(folder, AutoTokenizer, "tokenizer")


def load_part(folder: Path, auto: Any, what: str, **options: Any) -> Any:
    """Load a part of a model folder by an Auto class, never from the network and never by code of the model's own.

    Raises:
        OrdtoolError: If it can't be loaded, in one line.
    """
    try:
        return auto.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError) as error:
        hint = "a model folder has config.json, safetensors weights and a tokenizer"
        if "trust_remote_code" in str(error):
            hint = "it needs code of its own, and ordtool never runs code from a model"
        raise OrdtoolError(f"{folder}: the {what} can't be loaded: {_line(error)}", hint) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
