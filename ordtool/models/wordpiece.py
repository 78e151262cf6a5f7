"""BERT's tokenizer by the tokenizers library alone: a tokenizer.json with nothing unusual about it.

transformers builds BERT's tokenizer anew from the vocabulary and a few options. Where a folder's files say nothing else
than that, they are read here; what isn't known for certain is left to transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ordtool.errors import OrdtoolError
from ordtool.models.limits import UNBOUNDED
from ordtool.models.loading import read_tokenizer_file

_CLASSES = ("BertTokenizer", "BertTokenizerFast")
_DEFAULTS = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
# Without a say in tokens: what transformers writes of itself, and options of padding, which is our own.
_WITHOUT_SAY = {
    "backend", "clean_up_tokenization_spaces", "is_local", "local_files_only", "max_length", "model_max_length",
    "name_or_path", "pad_to_multiple_of", "pad_token_type_id", "padding_side", "special_tokens_map_file", "stride",
    "tokenizer_class", "truncation_strategy",
}  # fmt: skip
# Options that must have this value, or be missing.
_FIXED: Mapping[str, tuple[Any, ...]] = {
    "additional_special_tokens": ([], None),
    "do_basic_tokenize": (True,),
    "extra_special_tokens": ({}, [], None),
    "never_split": (None,),
    "truncation_side": ("right",),
}
_NORMALIZING = {"do_lower_case", "strip_accents", "tokenize_chinese_chars"}


class WordPieceTokenizer:
    """BERT's tokenizer, as far as the encoders of single texts and of pairs need it.

    Args:
        tokenizer: From the tokenizers library.
        special: The special tokens by name.
        model_max_length: Tokens that the model takes, as the folder says.

    Attributes:
        backend_tokenizer: As given, without padding.
        model_max_length: As given.
        bos_token_id: None: BERT has none.
        eos_token_id: None.
    """

    bos_token_id: int | None = None
    eos_token_id: int | None = None

    def __init__(self, tokenizer: Any, special: Mapping[str, str], model_max_length: int | float) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.backend_tokenizer = tokenizer
        self.model_max_length = model_max_length
        ids = {name: int(tokenizer.token_to_id(token)) for name, token in special.items()}
        self.unk_token_id, self.sep_token_id = ids["unk_token"], ids["sep_token"]
        self.pad_token_id, self.cls_token_id = ids["pad_token"], ids["cls_token"]

    def __call__(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        truncation: bool | str = False,
        max_length: int | None = None,
    ) -> dict[str, list[list[int]]]:
        """Turn texts, or pairs of them, into ids.

        Args:
            texts: The texts.
            pairs: The second ones.
            truncation: `longest_first`, or True, which means it, cuts them to `max_length`; False doesn't.
            max_length: Tokens a text, or pair, at most.

        Returns:
            `input_ids` and `token_type_ids`, a list a text.
        """
        if truncation and max_length is not None:
            self.backend_tokenizer.enable_truncation(max_length, strategy="longest_first")
        else:
            self.backend_tokenizer.no_truncation()
        batch: list[Any] = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        found = self.backend_tokenizer.encode_batch(batch)
        return {"input_ids": [e.ids for e in found], "token_type_ids": [e.type_ids for e in found]}


def read_wordpiece(folder: Path) -> WordPieceTokenizer | None:
    """Read a folder's tokenizer, if it is BERT's and its files say nothing that isn't known here; else None."""
    config = _object(folder / "tokenizer_config.json")
    file = folder / "tokenizer.json"
    if (
        config is None
        or config.get("tokenizer_class") not in _CLASSES
        or (folder / "added_tokens.json").exists()
    ):
        return None
    others = (
        set(config) - _WITHOUT_SAY - _NORMALIZING - set(_DEFAULTS) - set(_FIXED) - {"added_tokens_decoder"}
    )
    limit = config.get("model_max_length", UNBOUNDED)
    if others or not isinstance(limit, int | float):
        return None
    if any(config.get(name, allowed[0]) not in allowed for name, allowed in _FIXED.items()):
        return None
    special = {name: config.get(name, token) for name, token in _DEFAULTS.items()}
    special = {
        name: token["content"] if isinstance(token, dict) else token for name, token in special.items()
    }
    mapped = (
        _object(folder / "special_tokens_map.json") if (folder / "special_tokens_map.json").exists() else {}
    )
    said = _object(file)
    if mapped is None or said is None or not all(isinstance(token, str) for token in special.values()):
        return None
    mapped = {name: token["content"] if isinstance(token, dict) else token for name, token in mapped.items()}
    if any(special.get(name) != token for name, token in mapped.items()):
        return None
    if not _is_plain(said, config, special):
        return None
    try:
        return WordPieceTokenizer(read_tokenizer_file(file), special, limit)
    except (OrdtoolError, TypeError):  # transformers will say what is wrong
        return None


def _is_plain(said: Mapping[str, Any], config: Mapping[str, Any], special: Mapping[str, str]) -> bool:
    """Whether a tokenizer.json is what transformers would build from its vocabulary and the options."""
    model, added = said.get("model"), said.get("added_tokens")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict) or not isinstance(added, list):
        return False
    plain: dict[str, Any] = {
        "type": "WordPiece",
        "unk_token": special["unk_token"],
        "continuing_subword_prefix": "##",
    }
    plain |= {"max_input_chars_per_word": 100, "vocab": model["vocab"]}
    normalizer = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": config.get("tokenize_chinese_chars", True),
        "strip_accents": config.get("strip_accents"),
        "lowercase": config.get("do_lower_case", True),
    }
    if model != plain or said.get("normalizer") != normalizer:
        return False
    if said.get("pre_tokenizer") != {"type": "BertPreTokenizer"}:
        return False
    ids = {token: model["vocab"].get(token) for token in special.values()}
    if None in ids.values() or {(token["content"], token["id"]) for token in added} != set(ids.items()):
        return False
    sides = ("single_word", "lstrip", "rstrip", "normalized")
    tokens = [*added, *(config.get("added_tokens_decoder") or {}).values()]
    if any(any(token.get(side) for side in sides) or not token.get("special") for token in tokens):
        return False
    if any(ids.get(t["content"]) != int(n) for n, t in (config.get("added_tokens_decoder") or {}).items()):
        return False
    return bool(said.get("post_processor") == _template(special["cls_token"], special["sep_token"], ids))


def _template(start: str, end: str, ids: Mapping[str, Any]) -> dict[str, Any]:
    """Return how BERT puts its tokens around a text, or two, as a tokenizer.json says it."""

    def token(name: str, kind: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": name, "type_id": kind}}

    def text(name: str, kind: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": kind}}

    single = [token(start, 0), text("A", 0), token(end, 0)]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, text("B", 1), token(end, 1)],
        "special_tokens": {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in (start, end)},
    }


def _object(file: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
