"""Folders to backbones, and to ladders on their backbones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ordtool.errors import OrdtoolError
from ordtool.models.loading import check_causal, load_config, load_model, load_tokenizer
from ordtool.models.resolve import resolve_model
from ordtool.progress import SILENT, Progress
from ordtool.tuning.backbone.model import Backbone

if TYPE_CHECKING:  # they import transformers' models, which a plain ladder does without
    from ordtool.tuning.backbone.encoder_decoder import EncoderDecoderBackbone
    from ordtool.tuning.ladder.model import Ladder
    from ordtool.tuning.ladder.plain import PlainLadder


def load_backbone(
    name: str,
    *,
    writes: bool = False,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    progress: Progress = SILENT,
) -> Backbone:
    """Load a model to put a ladder beside.

    Args:
        name: A folder, a catalogue name or a hub id.
        writes: Load the head of a language model, or of an encoder-decoder, too.
        device: Where it goes; the CPU if None.
        dtype: Of its weights.
        progress: Told of downloads.

    Raises:
        OrdtoolError: If it can't be loaded, lacks weights, or is no causal model where one is needed.
    """
    folder = resolve_model(name, progress)
    place = torch.device("cpu") if device is None else device
    kept = str(folder.resolve()) if Path(name).expanduser().is_dir() else name
    config = load_config(folder)
    if config.model_type.endswith("encoder-decoder"):
        raise OrdtoolError(
            f"{folder}: a model put together of two others ({config.model_type}); no ladder can be built for it",
            "name a BERT, a Llama, a T5, a BART or their like",
        )
    if writes:
        if config.is_encoder_decoder:
            return load_encoder_decoder(kept, folder, place, dtype)
        try:
            check_causal(folder, config)
        except OrdtoolError as error:
            raise OrdtoolError(
                error.message,
                "a causal language model, such as `model=smollm2`, is needed; seq2seq takes an encoder-decoder too",
            ) from error
        full = load_model(folder, "causal", dtype=dtype, device=place).model
        tokenizer = load_tokenizer(folder)
        return Backbone(
            kept, folder, full.base_model, full.config, tokenizer, full.get_output_embeddings(), full
        )
    model = _load_base(folder, dtype, place)
    return Backbone(kept, folder, model, model.config, load_tokenizer(folder))


def _load_base(folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    model = load_model(
        folder, "base", dtype=dtype, device=device, may_miss=lambda name: "pooler" in name
    ).model
    if not hasattr(model.config, "num_attention_heads"):
        raise OrdtoolError(
            f"{folder}: a {model.config.model_type} model has no attention heads",
            "name a Transformer, such as minilm",
        )
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model.get_encoder() if model.config.is_encoder_decoder else model


def load_encoder_decoder(
    name: str, folder: Path, device: torch.device, dtype: torch.dtype
) -> EncoderDecoderBackbone:
    """Load an encoder-decoder to put a ladder beside its decoder.

    Args:
        name: As it was named.
        folder: Where it is.
        device: Where it goes.
        dtype: Of its weights.

    Raises:
        OrdtoolError: If it can't be loaded, has no head or start token, or makes its logits in an unknown way.
    """
    from ordtool.tuning.backbone.encoder_decoder import (
        EncoderDecoder,
        EncoderDecoderBackbone,
        VocabularyHead,
    )

    full = load_model(folder, "seq2seq", dtype=dtype, device=device).model
    head = VocabularyHead(full)
    found = EncoderDecoderBackbone(
        name, folder, EncoderDecoder(full), full.config, load_tokenizer(folder), head, full,
        start=_start(full, folder),
    )  # fmt: skip
    _check_head(found)
    return found


def _start(full: Any, folder: Path) -> int:
    for settings in (full.generation_config, full.config):
        for name in ("decoder_start_token_id", "bos_token_id"):
            if isinstance(token := getattr(settings, name, None), int):
                return token
    raise OrdtoolError(
        f"{folder}: the configuration has no decoder_start_token_id, so the decoder can't begin",
        "set it in config.json to the token that the model was trained to begin with",
    )


@torch.inference_mode()
def _check_head(backbone: EncoderDecoderBackbone) -> None:
    """Compare the logits of one token with the whole model's own: there may be kinds that do more than is known here."""
    ids = torch.tensor([[backbone.start]], device=backbone.model.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "decoder_input_ids": ids}
    assert backbone.head is not None
    ours = backbone.head(backbone.model(**inputs).last_hidden_state)
    theirs = backbone.full(**inputs, use_cache=False).logits
    if ours.shape != theirs.shape or not torch.allclose(ours.float(), theirs.float(), rtol=1e-2, atol=1e-2):
        raise OrdtoolError(
            f"{backbone.folder}: a {backbone.config.model_type} model makes its logits in a way that isn't known here",
            "name a T5, BART, Marian or Pegasus",
        )


def load_ladder(folder: str | Path) -> Ladder:
    """Load the ladder alone, without its backbone.

    Raises:
        OrdtoolError: If it is something else, or damaged.
    """
    from ordtool.tuning.ladder.model import Ladder

    folder = Path(folder)
    try:
        ladder, missing, unexpected = load_model(folder, Ladder, may_miss=lambda name: True)
    except OrdtoolError as error:
        raise OrdtoolError(f"{error.message} (it can't be loaded as a ladder)", error.hint) from error
    if wrong := [*missing, *unexpected]:
        raise OrdtoolError(
            f"{folder}: the weights don't fit the configuration ({wrong[0]})", "was it written by hand?"
        )
    return ladder


def load_ladder_and_backbone(
    folder: str | Path,
    *,
    backbone: str | Backbone | None = None,
    device: torch.device | None = None,
    progress: Progress = SILENT,
) -> tuple[Ladder, Backbone]:
    """Load a ladder and the backbone it belongs to.

    Args:
        folder: What `ordtool train ladder` wrote.
        backbone: Where the backbone is now; None: as the ladder says.
        device: Where both go.
        progress: Told of downloads.

    Raises:
        OrdtoolError: If the backbone isn't found, or is another one.
    """
    ladder = load_ladder(folder)
    config = ladder.config
    if not isinstance(backbone, Backbone):
        name = backbone or config.backbone
        try:
            backbone = load_backbone(name, writes=not config.labels, device=device, progress=progress)
        except OrdtoolError as error:
            raise OrdtoolError(
                f"{folder}: its backbone can't be loaded: {error.message}",
                error.hint if name != config.backbone else _hint(config.labels),
            ) from error
    check_backbone(config.backbone_hash, backbone, str(folder))
    return ladder.to(backbone.model.device).eval(), backbone


def load_plain_ladder(
    folder: str | Path, *, backbone: str | None = None, progress: Progress = SILENT
) -> tuple[PlainLadder, Backbone] | None:
    """Load a ladder that labels and its BERT without transformers, for a CPU.

    Args:
        folder: What `ordtool train ladder` wrote.
        backbone: Where the backbone is now; None: as the ladder says.
        progress: Told of downloads.

    Returns:
        Both; None if either has something that isn't known here, or is damaged: `load_ladder_and_backbone` then loads
        them, or says what is wrong.

    Raises:
        OrdtoolError: If the backbone is another one.
    """
    from ordtool.models.bert import read_bert
    from ordtool.models.wordpiece import read_wordpiece
    from ordtool.tuning.ladder.plain import read_plain_ladder

    ladder = read_plain_ladder(Path(folder))
    if ladder is None:
        return None
    name = backbone or ladder.config.backbone
    try:
        place = resolve_model(name, progress)
    except OrdtoolError:
        return None
    model, tokenizer = read_bert(place), read_wordpiece(place)
    if model is None or tokenizer is None:
        return None
    model.pooler = None
    found = Backbone(name, place, model, model.config, tokenizer)
    check_backbone(ladder.config.backbone_hash, found, str(folder))
    return ladder.eval(), found


def _hint(labels: bool) -> str:
    if labels:
        return "`backbone` names the place where it is now"
    return "its config.json says under 'backbone' where it is; write the place where it is now there"


def check_backbone(expected: str, backbone: Backbone, ladder: str) -> None:
    """Refuse a ladder beside a model that it wasn't trained beside.

    Raises:
        OrdtoolError: If the weights' hashes differ.
    """
    if expected != backbone.hash:
        raise OrdtoolError(
            f"{ladder}: belongs to another backbone (weights {expected[:12]}), and {backbone.name} has "
            f"{backbone.hash[:12]}",
            "name the model that it was trained on with `backbone`",
        )
