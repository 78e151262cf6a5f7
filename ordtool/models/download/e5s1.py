"""The 4-bit format `E5S1` of multilingual-e5-small, made a normal Hugging Face folder.

Layout, little-endian: magic `E5S1`, version; hidden size, layers, heads, inner size,
vocabulary, positions, token types (int32), LayerNorm epsilon (float32), block size
(int32). Then the unigram vocabulary: piece count, ids of bos, eos, pad and unk, the
length of the piece bytes, offsets, scores, bytes; a map from code points to their
normal form; a directory of tensors (name, kind, count, offset, bytes), which are
float32 or blocks of 32 4-bit weights: one float16 scale d, 16 bytes whose low nibbles
are weights 0..15 and whose high nibbles are 16..31, each worth (q - 8) d.
"""

from __future__ import annotations

import json
import struct
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ordtool.errors import OrdtoolError

MAGIC = b"E5S1"
BLOCK = 32
_FLOAT32, _FOUR_BIT = 0, 1


@dataclass(frozen=True)
class E5File:
    """What an E5S1 file holds.

    Attributes:
        sizes: `hidden`, `layers`, `heads`, `inner`, `vocabulary`, `positions`, `types`, `epsilon`.
        pieces: The unigram pieces and their log probabilities, in id order.
        special: Ids of `bos`, `eos`, `pad`, `unk`.
        normal: Code points that change, and what they become.
        tensors: float32 arrays by the file's names, flat.
    """

    sizes: dict[str, Any]
    pieces: list[tuple[str, float]]
    special: dict[str, int]
    normal: dict[int, str]
    tensors: dict[str, np.ndarray]


class _Cursor:
    def __init__(self, data: memoryview, name: str) -> None:
        self.data, self.name, self.at = data, name, 0

    def take(self, count: int) -> memoryview:
        if count < 0 or self.at + count > len(self.data):
            raise OrdtoolError(f"{self.name}: truncated at byte {len(self.data)}")
        self.at += count
        return self.data[self.at - count : self.at]

    def unpack(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout)))

    def array(self, dtype: str, count: int) -> np.ndarray:
        return np.frombuffer(self.take(np.dtype(dtype).itemsize * count), dtype)


def read_e5s1(file: Path) -> E5File:
    """Read an E5S1 file, its weights unpacked to float32.

    Raises:
        OrdtoolError: If it is no such file, is truncated, or has an unknown tensor kind.
    """
    data = memoryview(file.read_bytes())
    cursor = _Cursor(data, file.name)
    if bytes(cursor.take(4)) != MAGIC:
        raise OrdtoolError(f"{file.name}: not an E5S1 model (wrong magic)")
    cursor.unpack("I")
    names = ("hidden", "layers", "heads", "inner", "vocabulary", "positions", "types", "epsilon", "block")
    sizes = dict(zip(names, cursor.unpack("7ifi"), strict=True))
    if sizes.pop("block") != BLOCK:
        raise OrdtoolError(f"{file.name}: only blocks of {BLOCK} weights are known")
    pieces, special = _read_pieces(cursor)
    normal = _read_normal_forms(cursor)
    return E5File(sizes, pieces, special, normal, _read_tensors(cursor))


def _read_pieces(cursor: _Cursor) -> tuple[list[tuple[str, float]], dict[str, int]]:
    count, *ids = cursor.unpack("5i")
    (length,) = cursor.unpack("Q")
    offsets = cursor.array("<u4", count + 1).tolist()
    scores = cursor.array("<f4", count).tolist()
    blob = bytes(cursor.take(length))
    pieces = [(blob[offsets[i] : offsets[i + 1]].decode("utf-8"), scores[i]) for i in range(count)]
    return pieces, dict(zip(("bos", "eos", "pad", "unk"), ids, strict=True))


def _read_normal_forms(cursor: _Cursor) -> dict[int, str]:
    count, length = cursor.unpack("iI")
    table = _Cursor(cursor.take(length), cursor.name)
    forms = {}
    for _ in range(count):
        point, size = table.unpack("IB")
        forms[point] = "".join(map(chr, table.unpack(f"{size}I")))
    return forms


def _read_tensors(cursor: _Cursor) -> dict[str, np.ndarray]:
    tensors = {}
    (count,) = cursor.unpack("i")
    for _ in range(count):
        (length,) = cursor.unpack("H")
        name = bytes(cursor.take(length)).decode("ascii")
        kind, values, offset, size = cursor.unpack("BIQQ")
        raw = _Cursor(cursor.data, cursor.name)
        raw.take(offset)
        tensors[name] = _unpack(raw.take(size), kind, values, f"{cursor.name}: {name}")
    return tensors


def _unpack(raw: memoryview, kind: int, values: int, name: str) -> np.ndarray:
    if kind == _FLOAT32 and len(raw) == 4 * values:
        return np.frombuffer(raw, "<f4")
    if kind == _FOUR_BIT and len(raw) == values // BLOCK * 18:
        return unpack_four_bit(raw)
    raise OrdtoolError(f"{name}: tensor of kind {kind} with {len(raw)} bytes for {values} values is unknown")


def unpack_four_bit(raw: memoryview | bytes) -> np.ndarray:
    """Unpack blocks of 32 4-bit weights (GGML's Q4_0) to float32, flat."""
    blocks = np.frombuffer(raw, np.dtype([("scale", "<f2"), ("nibbles", "u1", BLOCK // 2)]))
    quanta = np.concatenate([blocks["nibbles"] & 15, blocks["nibbles"] >> 4], axis=1).astype(np.float32)
    out: np.ndarray = ((quanta - 8) * blocks["scale"].astype(np.float32)[:, None]).ravel()
    return out


def convert_e5s1(file: Path, folder: Path) -> None:
    """Write an E5S1 model as a BERT folder that the Auto classes and sentence-transformers load.

    Args:
        file: The E5S1 file.
        folder: The folder to fill.
    """
    from safetensors.numpy import save_file

    model = read_e5s1(file)
    save_file(_bert_weights(model), folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", _bert_config(model))
    _write_tokenizer(model, folder)
    _write_sentence_transformers(model, folder)


def _bert_weights(model: E5File) -> dict[str, np.ndarray]:
    hidden, inner = model.sizes["hidden"], model.sizes["inner"]
    tensors = model.tensors
    weights = {
        "embeddings.word_embeddings.weight": tensors["emb.word"].reshape(-1, hidden),
        "embeddings.position_embeddings.weight": tensors["emb.pos"].reshape(-1, hidden),
        "embeddings.token_type_embeddings.weight": tensors["emb.type"].reshape(-1, hidden),
        "embeddings.LayerNorm.weight": tensors["emb.ln.w"],
        "embeddings.LayerNorm.bias": tensors["emb.ln.b"],
    }
    parts = {
        "q": ("attention.self.query", hidden),
        "k": ("attention.self.key", hidden),
        "v": ("attention.self.value", hidden),
        "ao": ("attention.output.dense", hidden),
        "fi": ("intermediate.dense", hidden),
        "fo": ("output.dense", inner),
        "aln": ("attention.output.LayerNorm", None),
        "oln": ("output.LayerNorm", None),
    }
    for layer in range(model.sizes["layers"]):
        for short, (long, width) in parts.items():
            weight = tensors[f"l{layer}.{short}.w"]
            name = f"encoder.layer.{layer}.{long}"
            weights[f"{name}.weight"] = weight if width is None else weight.reshape(-1, width)
            weights[f"{name}.bias"] = tensors[f"l{layer}.{short}.b"]
    return {name: np.ascontiguousarray(value) for name, value in weights.items()}


def _bert_config(model: E5File) -> dict[str, Any]:
    sizes = model.sizes
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": sizes["hidden"],
        "num_hidden_layers": sizes["layers"],
        "num_attention_heads": sizes["heads"],
        "intermediate_size": sizes["inner"],
        "vocab_size": sizes["vocabulary"],
        "max_position_embeddings": sizes["positions"],
        "type_vocab_size": sizes["types"],
        "layer_norm_eps": round(sizes["epsilon"], 15),
        "hidden_act": "gelu",
        "pad_token_id": model.special["pad"],
        "bos_token_id": model.special["bos"],
        "eos_token_id": model.special["eos"],
    }


def _write_tokenizer(model: E5File, folder: Path) -> None:
    """Write the unigram tokenizer in the tokenizers library's own format."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.Unigram(model.pieces, unk_id=model.special["unk"], byte_fallback=False))
    tokenizer.normalizer = normalizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    names = {role: model.pieces[index][0] for role, index in model.special.items()}
    special = list(names.values()) + [piece for piece, _ in model.pieces if piece == "<mask>"]
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in special])
    bos, eos = (names["bos"], model.special["bos"]), (names["eos"], model.special["eos"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos[0]} $A {eos[0]}",
        pair=f"{bos[0]} $A {eos[0]} {eos[0]} $B {eos[0]}",
        special_tokens=[bos, eos],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {f"{role}_token": name for role, name in names.items()}
    config |= {
        "cls_token": names["bos"],
        "sep_token": names["eos"],
        "model_max_length": model.sizes["positions"],
    }
    if "<mask>" in special:
        config["mask_token"] = "<mask>"
    _write_json(folder / "tokenizer_config.json", {**config, "tokenizer_class": "PreTrainedTokenizerFast"})


def normalizer(model: E5File) -> Any:
    """Build the normalizer: NFKC with the table's exceptions.

    The table is per code point; NFKC on the whole string also composes letters that
    come with separate accents, as the model's original tokenizer does. Code points
    that NFKC changes and the table keeps (the full-width tilde) are held back by a
    private-use stand-in where the vocabulary knows them.
    """
    from tokenizers import Regex, normalizers

    groups: dict[str, list[int]] = {}
    for point, form in model.normal.items():
        if unicodedata.normalize("NFKC", chr(point)) != form:
            groups.setdefault(form, []).append(point)
    steps: list[Any] = [
        normalizers.Replace(Regex("[" + "".join(f"\\x{{{point:x}}}" for point in points) + "]"), form)
        for form, points in sorted(groups.items())
    ]
    kept = _kept_points(model)
    steps += [normalizers.Replace(chr(point), stand_in) for point, stand_in in kept.items()]
    steps.append(normalizers.NFKC())
    steps += [normalizers.Replace(stand_in, chr(point)) for point, stand_in in kept.items()]
    steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    return normalizers.Sequence(steps)


def _kept_points(model: E5File) -> dict[int, str]:
    known = {ord(char) for piece, _ in model.pieces for char in piece}
    kept = [
        point
        for point in sorted(known - model.normal.keys())
        if unicodedata.normalize("NFKC", chr(point)) != chr(point)
    ]
    return {point: chr(0xF8000 + index) for index, point in enumerate(kept)}


def _write_sentence_transformers(model: E5File, folder: Path) -> None:
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    _write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(modules)
        ],
    )
    _write_json(
        folder / "sentence_bert_config.json",
        {"max_seq_length": model.sizes["positions"], "do_lower_case": False},
    )
    (folder / "1_Pooling").mkdir()
    (folder / "2_Normalize").mkdir()
    _write_json(
        folder / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": model.sizes["hidden"],
            "pooling_mode_mean_tokens": True,
            "pooling_mode_cls_token": False,
        },
    )


def _write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
