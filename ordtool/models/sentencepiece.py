"""Tokenizers from SentencePiece `.model` files, without the sentencepiece package.

The file is a protocol buffer of pieces with scores and a few switches. Everything
needed to run it is in the `tokenizers` library; only the reading is done here. The package
tells pieces and scores alone: how text is normalised and whether bytes stand in for unknown
characters it keeps to itself, and its protocol buffer classes need the protobuf package too.

Source: Kudo and Richardson, "SentencePiece", 2018; field numbers from its
`sentencepiece_model.proto`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ordtool.errors import OrdtoolError

SPACE = "\u2581"  # the mark that stands for a space
UNIGRAM, BPE = 1, 2
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass
class SentencePieceModel:
    """What a `.model` file says.

    Attributes:
        pieces: `(piece, score, kind)` in the order of the ids.
        model_type: `UNIGRAM` or `BPE` (words and characters are not supported).
        byte_fallback: Unknown characters become their UTF-8 bytes.
        ids: Ids of `unk`, `bos`, `eos` and `pad`; -1 where there is none.
        charsmap: The compiled normalisation, if any.
        add_dummy_prefix: A space is put before the text.
        remove_extra_whitespaces: Runs of spaces count as one, and the ends are stripped.
    """

    pieces: list[tuple[str, float, int]] = field(default_factory=list)
    model_type: int = UNIGRAM
    byte_fallback: bool = False
    ids: dict[str, int] = field(default_factory=lambda: {"unk": 0, "bos": 1, "eos": 2, "pad": -1})
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True


def read_model(path: str | Path) -> SentencePieceModel:
    """Read a SentencePiece `.model` file.

    Raises:
        OrdtoolError: If the file is no such model.
    """
    data = Path(path).read_bytes()
    model = SentencePieceModel()
    try:
        for number, value in _fields(data):
            if number == 1:
                model.pieces.append(_piece(value))
            elif number == 2:
                _read_trainer(value, model)
            elif number == 3:
                _read_normalizer(value, model)
    except (IndexError, struct.error, ValueError, TypeError, AttributeError):
        model.pieces = []
    if not model.pieces:
        raise OrdtoolError(f"{path}: not a SentencePiece model", "a tokenizer.json in its folder works too")
    if model.model_type not in (UNIGRAM, BPE):
        raise OrdtoolError(f"{path}: a SentencePiece model of words or characters, which is not supported")
    return model


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yield `(field number, value)` of one protocol buffer message."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
            yield number, value
        elif wire == _BYTES:
            size, at = _varint(data, at)
            if at + size > len(data):
                raise ValueError("truncated")
            yield number, data[at : at + size]
            at += size
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
            yield number, struct.unpack_from("<f" if size == 4 else "<d", data, at)[0]
            at += size
        else:
            raise ValueError(f"wire type {wire}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            # Negative integers are written as 64 bits.
            return value - (1 << 64) if value >= 1 << 63 else value, at
        shift += 7
        if shift > 63:
            raise ValueError("varint too long")


def _piece(data: bytes) -> tuple[str, float, int]:
    found = dict(_fields(data))
    return found[1].decode("utf-8"), float(found.get(2, 0.0)), int(found.get(3, NORMAL))


def _read_trainer(data: bytes, model: SentencePieceModel) -> None:
    names = {40: "unk", 41: "bos", 42: "eos", 43: "pad"}
    for number, value in _fields(data):
        if number == 3:
            model.model_type = value
        elif number == 35:
            model.byte_fallback = bool(value)
        elif number in names:
            # A 32-bit -1 may be written without sign extension.
            model.ids[names[number]] = value - (1 << 32) if value >= 1 << 31 else value


def _read_normalizer(data: bytes, model: SentencePieceModel) -> None:
    for number, value in _fields(data):
        if number == 2:
            model.charsmap = value
        elif number == 3:
            model.add_dummy_prefix = bool(value)
        elif number == 4:
            model.remove_extra_whitespaces = bool(value)


def build_tokenizer(path: str | Path) -> Any:
    """Make a transformers tokenizer of a SentencePiece `.model` file.

    `bos` is put before a text when special tokens are asked for, as Llama does it.

    Args:
        path: The `.model` file, of unigram or byte-pair pieces.

    Returns:
        A `PreTrainedTokenizerFast`.

    Raises:
        OrdtoolError: If the file is no such model.
    """
    from tokenizers import AddedToken, Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    spm = read_model(path)
    tokenizer = Tokenizer(_algorithm(spm))
    tokenizer.normalizer = _normalizer(spm)
    if (splitter := _pre_tokenizer(spm)) is not None:
        tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = _decoder(spm)
    tokenizer.add_special_tokens(
        [
            AddedToken(piece, special=True, normalized=False)
            for piece, _, kind in spm.pieces
            if kind == CONTROL
        ]
    )
    tokenizer.add_tokens(
        [AddedToken(piece, normalized=False) for piece, _, kind in spm.pieces if kind == USER_DEFINED]
    )
    named = {
        f"{name}_token": spm.pieces[index][0]
        for name, index in spm.ids.items()
        if 0 <= index < len(spm.pieces)
    }
    if "bos_token" in named:
        bos = (named["bos_token"], spm.ids["bos"])
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos[0]}:0 $A:0", pair=f"{bos[0]}:0 $A:0 {bos[0]}:1 $B:1", special_tokens=[bos]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **named)


def _algorithm(spm: SentencePieceModel) -> Any:
    from tokenizers import models

    unknown = spm.pieces[spm.ids["unk"]][0]
    if spm.model_type == UNIGRAM:
        vocabulary = [(piece, score) for piece, score, _ in spm.pieces]
        return models.Unigram(vocabulary, spm.ids["unk"], spm.byte_fallback)
    ids = {piece: index for index, (piece, _, _) in enumerate(spm.pieces)}
    return models.BPE(
        vocab=ids, merges=_merges(spm), unk_token=unknown, fuse_unk=True, byte_fallback=spm.byte_fallback
    )


def _merges(spm: SentencePieceModel) -> list[tuple[str, str]]:
    """Return the pairs that make each piece, best first.

    SentencePiece joins, again and again, the neighbours whose join has the highest score;
    a table of pairs by that score does the same.
    """
    scores = {piece: score for piece, score, kind in spm.pieces if kind in (NORMAL, USER_DEFINED)}
    order = {piece: index for index, (piece, _, _) in enumerate(spm.pieces)}
    found = []
    for piece, score in scores.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in scores and right in scores:
                found.append((-score, order[piece], order[left], order[right], left, right))
    return [(left, right) for *_, left, right in sorted(found)]


def _normalizer(spm: SentencePieceModel) -> Any:
    from tokenizers import Regex, normalizers

    steps: list[Any] = []
    if spm.charsmap:
        steps.append(normalizers.Precompiled(spm.charsmap))
    if spm.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if spm.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])


def _pre_tokenizer(spm: SentencePieceModel) -> Any:
    """Split at spaces first where no piece crosses one: the same, and much faster."""
    from tokenizers import pre_tokenizers

    if any(SPACE in piece[1:] for piece, _, kind in spm.pieces if kind in (NORMAL, USER_DEFINED)):
        return None
    return pre_tokenizers.Split(SPACE, "merged_with_next")


def _decoder(spm: SentencePieceModel) -> Any:
    from tokenizers import decoders

    steps: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if spm.add_dummy_prefix:
        steps.append(decoders.Strip(content=" ", left=1))
    return decoders.Sequence(steps)
