"""WordPiece vocabularies that give a text back as it was written.

BERT's tokenizers cut at punctuation and forget where there was a space; the uncased ones forget
case and accents too. An encoder doesn't mind, but what a model *writes* comes out as `alimentum ,
family - friendly`. Here the vocabulary is extended so that texts like those trained on come back
exactly (runs of white space become one space): words are cut at white space alone, a
piece that continues a word begins with `##` as ever, and what the vocabulary lacks for that is added,
as copies of the embeddings that the old tokenizer would have used. So at the start of the
training the encoder computes very nearly what it computed before.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

FREQUENT = 10
"""How often a unit must occur to become a piece of its own."""
MOST = 5000
"""Added units at most; characters come on top."""
LONGEST = 200
"""Characters of a word at most; longer ones are unknown."""

# Characters of scripts without spaces between words, and their punctuation.
_CJK = "[\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef\u2018-\u201d\u2026\U00020000-\U0002fa1f]"
_IDEOGRAPH = re.compile(_CJK)


def is_wordpiece(tokenizer: Any) -> bool:
    """Return whether a tokenizer is a fast one of the WordPiece kind."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return False
    return str(json.loads(backend.to_str())["model"].get("type")) == "WordPiece"


def round_trips(tokenizer: Any, texts: Iterable[str]) -> bool:
    """Return whether every text comes back from its tokens, but for runs of white space."""
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if tokenizer.decode(ids, skip_special_tokens=True).split() != text.split():
            return False
    return True


def extend(tokenizer: Any, texts: Iterable[str]) -> tuple[Any, list[list[int]]]:
    """Make a WordPiece tokenizer that keeps case, accents and spaces.

    Args:
        tokenizer: A fast tokenizer of the WordPiece kind.
        texts: What it is to be good at: the training sources and targets.

    Returns:
        The new tokenizer, whose first ids are the old ones; for each id added the old
        ids whose mean embedding it begins with.
    """
    from transformers import PreTrainedTokenizerFast

    words: Counter[str] = Counter()
    for text in texts:
        words.update(_isolated(text).split())
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary: dict[str, int] = dict(state["model"]["vocab"])
    added: list[list[int]] = []

    def old(piece: str) -> list[int]:
        unknown = tokenizer.unk_token_id
        ids = tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"]
        return [int(token) for token in ids if token != unknown]

    def add(piece: str) -> None:
        if piece not in vocabulary:
            vocabulary[piece] = len(vocabulary)
            added.append(old(piece.removeprefix("##")))

    for character in sorted({character for word in words for character in word}):
        add(character)
        if not _is_cjk(character):
            add("##" + character)
    backend = _backend(state, vocabulary)
    for unit in _units(words, tokenizer, backend):
        add(unit)
    backend = _backend(state, vocabulary)
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        model_max_length=tokenizer.model_max_length,
        **{name: value for name, value in tokenizer.special_tokens_map.items() if isinstance(value, str)},
    )
    return made, added


def _units(words: Counter[str], tokenizer: Any, backend: Any) -> list[str]:
    """List the frequent stretches of words that the old tokenizer wrote with fewer pieces."""
    units: Counter[str] = Counter()
    cut = tokenizer.backend_tokenizer.pre_tokenizer
    for word, count in words.items():
        for piece, (start, _) in cut.pre_tokenize_str(word):
            units[("##" if start else "") + piece] += count
    gains: dict[str, int] = {}
    for unit, count in units.items():
        if count < FREQUENT or _is_cjk(unit[-1]):
            continue
        text = unit.removeprefix("##")
        before = len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        now = backend.encode(text, add_special_tokens=False).tokens
        if unit.startswith("##"):
            now = backend.encode("." + text, add_special_tokens=False).tokens[1:]
        if len(now) > before:
            gains[unit] = count * (len(now) - before)
    best = sorted(gains, key=lambda unit: (-gains[unit], unit))
    return sorted(best[:MOST])


def _backend(state: dict[str, Any], vocabulary: dict[str, int]) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    unknown = state["model"]["unk_token"]
    model = models.WordPiece(vocabulary, unk_token=unknown, max_input_chars_per_word=LONGEST)
    made = Tokenizer(model)
    made.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=False, strip_accents=False, lowercase=False
    )
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(_CJK), "isolated")]
    )
    # Chinese and Japanese have no spaces between words, so none is written before their characters.
    made.decoder = decoders.Sequence(
        [decoders.WordPiece(cleanup=False), decoders.Replace(Regex(f"^ (?={_CJK})"), "")]
    )
    # What was special stays special, with its number; so does the form of a sequence.
    whole = json.loads(made.to_str())
    whole["added_tokens"] = state["added_tokens"]
    whole["post_processor"] = state["post_processor"]
    return Tokenizer.from_str(json.dumps(whole))


def _isolated(text: str) -> str:
    return _IDEOGRAPH.sub(lambda found: f" {found[0]} ", text)


def _is_cjk(character: str) -> bool:
    return _IDEOGRAPH.match(character) is not None
