"""A model folder to a model that writes, or a clear word why it can't."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ordtool.errors import OrdtoolError
from ordtool.generation.backends.backend import Backend
from ordtool.generation.backends.causal import CausalBackend, UnilmBackend
from ordtool.generation.backends.encoder_decoder import EncoderDecoderBackend
from ordtool.models.limits import usable_context
from ordtool.models.loading import check_vocabulary, load_config, load_model, load_tokenizer

_WRITES = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForSeq2Seq", "MTModel")
_LABELS = ("ForSequenceClassification", "ForTokenClassification", "ForMultipleChoice", "ForQuestionAnswering")


_IDS = (
    "bos_token_id",
    "decoder_start_token_id",
    "eos_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "pad_token_id",
)


def load_backend(folder: Path, device: torch.device, dtype: torch.dtype) -> tuple[Backend, Any]:
    """Load a causal LM or an encoder-decoder with its tokenizer.

    Args:
        folder: A Hugging Face model folder.
        device: Where it goes.
        dtype: Of its weights and arithmetic.

    Returns:
        The backend and the tokenizer.

    Raises:
        OrdtoolError: If the checkpoint has no head that writes text, lacks a tokenizer,
            needs code of its own or is damaged.
    """
    config = load_config(folder)
    _check_architecture(folder, config)
    encoder_decoder = bool(config.is_encoder_decoder)
    kind: Any = "seq2seq" if encoder_decoder else "causal"
    model = load_model(folder, kind, dtype=dtype, device=device, config=config).model
    tokenizer = load_tokenizer(folder, for_single_texts=True)
    check_vocabulary(folder, tokenizer, model)
    try:
        pad = _first(tokenizer.pad_token_id, model.generation_config.pad_token_id, config, "pad_token_id")
        stops = eos_ids(model, tokenizer)
    except (TypeError, ValueError) as error:
        raise OrdtoolError(
            f"{folder}: damaged: a pad_token_id or eos_token_id is no number",
            "look into config.json and generation_config.json",
        ) from error
    pad = pad if pad is not None else (stops[0] if stops else 0)
    model.generation_config = _clean(model, stops, pad)
    _check_ids(folder, model.generation_config)
    context = usable_context(model.config)
    if config.model_type == "ordtool_unilm":
        return UnilmBackend(model, pad, context), tokenizer
    if not encoder_decoder:
        return CausalBackend(model, pad, context), tokenizer
    start = model.generation_config.decoder_start_token_id
    if start is None:
        raise OrdtoolError(
            f"{folder}: the configuration has no decoder_start_token_id, so the decoder can't begin",
            "set it in config.json to the token that the model was trained to begin with",
        )
    return EncoderDecoderBackend(model, pad, context, int(start)), tokenizer


def _check_architecture(folder: Path, config: Any) -> None:
    names = list(config.architectures or [])
    labelling = [name for name in names if name.endswith(_LABELS)]
    if labelling:
        raise OrdtoolError(
            f"{folder}: a classification checkpoint ({labelling[0]}); it gives labels and has no head to write with",
            "name a causal language model or an encoder-decoder, such as `model=smollm2`",
        )
    hiding = [name for name in names if name.endswith("ForMaskedLM")]
    if hiding:
        raise OrdtoolError(
            f"{folder}: a masked language model ({hiding[0]}); it reads in both directions and does not write text",
            "name a model that does, such as `model=smollm2`; ordtool train seq2seq teaches a BERT to write",
        )
    if names and not any(name.endswith(_WRITES) for name in names):
        raise OrdtoolError(
            f"{folder}: {names[0]} does not write text (no causal language-model head)",
            "name a model that does, such as `model=smollm2`; ordtool train seq2seq teaches an encoder to write",
        )


def _check_ids(folder: Path, settings: Any) -> None:
    """Refuse ids that are none, which tensors can't hold."""
    for name in _IDS:
        value = getattr(settings, name, None)
        for one in value if isinstance(value, list) else [value]:
            if one is not None and not (type(one) is int and 0 <= one < 2**31):
                raise OrdtoolError(
                    f"{folder}: damaged: {name} is {one!r:.40}",
                    "look into config.json and generation_config.json",
                )


def _first(*values: Any) -> int | None:
    """Return the first id that is set; a configuration and a key count as one value."""
    *ids, config, key = values
    for value in (*ids, getattr(config.get_text_config(), key, None)):
        if value is not None:
            return int(value[0] if isinstance(value, list) else value)
    return None


def eos_ids(model: Any, tokenizer: Any) -> list[int]:
    """Return the tokens that end a text: the generation config's, else the model's, else the tokenizer's."""
    text = model.config.get_text_config()
    for value in (
        model.generation_config.eos_token_id,
        getattr(text, "eos_token_id", None),
        tokenizer.eos_token_id,
    ):
        if value is not None:
            return [int(v) for v in value] if isinstance(value, list) else [int(value)]
    return []


def _clean(model: Any, stops: list[int], pad: int) -> Any:
    """Keep of a checkpoint's generation defaults what its decoder needs; drop tastes such as top_p."""
    from transformers import GenerationConfig

    old = model.generation_config
    needed = (
        "bos_token_id",
        "decoder_start_token_id",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "suppress_tokens",
        "begin_suppress_tokens",
        "bad_words_ids",
    )
    kept = {name: getattr(old, name, None) for name in needed}
    if kept["decoder_start_token_id"] is None:
        kept["decoder_start_token_id"] = kept["bos_token_id"] if model.config.is_encoder_decoder else None
    return GenerationConfig(
        **{name: value for name, value in kept.items() if value is not None},
        eos_token_id=stops or None,
        pad_token_id=pad,
        do_sample=False,
    )
