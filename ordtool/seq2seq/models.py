"""Checkpoints that can learn to write targets for sources: encoders under UniLM's mask, encoder-decoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ordtool.errors import OrdtoolError
from ordtool.models.limits import position_offset
from ordtool.models.loading import check_complete, load_config, load_model, load_tokenizer, read_json
from ordtool.seq2seq.unilm import UnilmConfig, UnilmForSeq2Seq, split_head

ENCODERS = (
    "bert",
    "camembert",
    "data2vec-text",
    "electra",
    "ernie",
    "megatron-bert",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
)
"""Encoder families with positions that can be given and a cache."""

_FAMILIES = f"encoders of the families {', '.join(ENCODERS)} can, and encoder-decoders"
_CAUSAL = ("ForCausalLM", "LMHeadModel")


def load_seq2seq_model(folder: Path, dropout: float | None = None) -> tuple[Any, Any]:
    """Load a model to be trained on pairs, with its tokenizer.

    Args:
        folder: An encoder, an encoder-decoder, or what this training made before.
        dropout: Of hidden states, instead of the checkpoint's own.

    Returns:
        A `UnilmForSeq2Seq` or an encoder-decoder of transformers, in float32; the tokenizer.

    Raises:
        OrdtoolError: If the model is of another kind, damaged, or lacks a tokenizer.
    """
    folder = _transformer_of(folder)
    config = _config(folder)
    if config.is_encoder_decoder:
        changes: dict[str, Any] = (
            {} if dropout is None else {"dropout" if hasattr(config, "dropout") else "dropout_rate": dropout}
        )
        model = load_model(folder, "seq2seq", may_miss=lambda name: "lm_head" in name, **changes).model
        return model, load_tokenizer(folder)
    if config.model_type == UnilmConfig.model_type:
        model = load_model(folder, "causal").model
        set_dropout(model.encoder, dropout)
        return model, load_tokenizer(folder)
    _check_encoder(folder, config)
    lm, missing, _ = load_model(folder, "causal", may_miss=lambda name: True, is_decoder=True)
    inside = lm.base_model_prefix + "."
    check_complete(folder, lm, [key for key in missing if key.startswith(inside)])
    own_head = not [key for key in missing if not key.startswith(inside) and "bias" not in key]
    model = from_encoder(lm, own_head)
    set_dropout(model.encoder, dropout)
    return model, load_tokenizer(folder)


def from_encoder(lm: Any, own_head: bool) -> UnilmForSeq2Seq:
    """Make a model that writes from an encoder with a masked-LM head, or from one without.

    Args:
        lm: The encoder as a causal language model of transformers.
        own_head: Whether its head's weights came with it; else only the embedding table is used.

    Raises:
        OrdtoolError: If the embeddings are of another size than the hidden states and there is no
            head that maps one to the other.
    """
    config = lm.config
    table = lm.get_input_embeddings().weight
    if not own_head and table.shape[1] != config.hidden_size:
        raise OrdtoolError(
            f"the checkpoint has no language-model head, its embeddings have {table.shape[1]} numbers and its "
            f"hidden states {config.hidden_size}, so the table can't be the head",
            "take the version with a masked-LM head (an ELECTRA generator, for instance)",
        )
    made = UnilmForSeq2Seq(
        UnilmConfig(
            encoder=config.to_dict(),
            head="checkpoint" if own_head else "tied",
            position_offset=position_offset(config),
            dtype="float32",
        )
    )
    encoder, transform, bias = split_head(lm)
    made.encoder.load_state_dict(encoder.state_dict())
    if made.transform is not None and transform is not None:
        made.transform.load_state_dict(transform.state_dict())
        if bias is not None:
            made.bias.data.copy_(bias.detach())
    return made


@torch.no_grad()
def resize_embeddings(model: UnilmForSeq2Seq, first: int, added: list[list[int]]) -> None:
    """Give a model rows for new tokens, each the mean of the rows of old ones.

    Args:
        model: The model, changed in place.
        first: The id of the first new token.
        added: For each new token the old ids; none: the mean of all.
    """
    old = model.get_input_embeddings()
    table: Tensor = old.weight  # type: ignore[assignment]
    size = max(len(table), first + len(added))
    rows, bias = table.new_zeros(size, table.shape[1]), model.bias.new_zeros(size)
    rows[: len(table)], bias[: len(table)] = table, model.bias
    for number, ids in enumerate(added, start=first):
        rows[number] = table[ids].mean(0) if ids else table.mean(0)
        bias[number] = model.bias[ids].mean() if ids else model.bias.mean()
    model.set_input_embeddings(nn.Embedding.from_pretrained(rows, freeze=False, padding_idx=old.padding_idx))
    model.bias = nn.Parameter(bias)
    model.encoder.config.vocab_size = size
    model.config.encoder["vocab_size"] = model.config.vocab_size = size


def set_dropout(encoder: nn.Module, dropout: float | None) -> None:
    """Set the dropout of hidden states, and switch that of attention weights off.

    Attention is then computed by the fused kernel, which on a CPU knows no dropout.
    """
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Dropout):
            inside_attention = name.endswith(("self.dropout", "attention.dropout"))
            if inside_attention:
                module.p = 0.0
            elif dropout is not None:
                module.p = dropout


def _transformer_of(folder: Path) -> Path:
    """Return where the Transformer of a sentence-transformers folder is."""
    if (folder / "config.json").is_file() or not (folder / "modules.json").is_file():
        return folder
    modules = read_json(folder / "modules.json", list)
    first = modules[0] if modules else {}
    return folder / str(first.get("path", "")) if isinstance(first, dict) else folder


def _check_encoder(folder: Path, config: Any) -> None:
    if config.model_type in ENCODERS:
        return
    names = ", ".join(config.architectures or [config.model_type])
    if any(name.endswith(_CAUSAL) for name in config.architectures or []):
        raise OrdtoolError(
            f"{folder}: a causal language model ({names}), and an encoder or an encoder-decoder is needed here",
            "for example `model=minilm`; a causal model can be given examples instead: "
            "ordtool generate --examples pairs.jsonl --template '{source} => {target}'",
        )
    raise OrdtoolError(
        f"{folder}: {names} can't be trained to write under the sequence-to-sequence mask",
        _FAMILIES,
    )


def _config(folder: Path) -> Any:
    try:
        return load_config(folder)
    except OrdtoolError as error:
        if "doesn't know" in error.message:
            raise OrdtoolError(f"{folder}: not a model that can be trained to write", _FAMILIES) from error
        raise
