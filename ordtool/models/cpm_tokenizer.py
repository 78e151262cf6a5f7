r"""The tokenizer of CPM-LM, a Chinese GPT-2 of 2.6 billion parameters (Zhang et al. 2020; kexue.fm/7912).

jieba cuts the text into words, spaces and line feeds become U+2582 and U+2583, the words are
joined by spaces, and sentencepiece cuts them into pieces; decoding goes the other way:

    ids = sp.encode(" ".join(word.translate({" ": "▂", "\n": "▃"}) for word in jieba.cut(text)))
    text = sp.decode(ids).replace(" ", "").replace("▂", " ").replace("▃", "\n")

There are two vocabularies. The first published one has no U+2583; there the piece U+2583 that
comes out is taken for the token `<cls>`, id 3, which the later one renamed. So both give the same ids.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ordtool.errors import OrdtoolError
from ordtool.runtime import require

SPACE, NEWLINE = "▂", "▃"
FILES = ("chinese_vocab.model", "spiece.model", "cpm_chinese_vocab.model")
_OLD_NEWLINE = "<cls>"


class CpmTokenizer:
    """Text to CPM's pieces and back; what `PromptCodec` asks of a tokenizer.

    Round trips are exact for text that the vocabulary covers, up to sentencepiece's own
    normalisation (NFKC: a full-width comma becomes `,`). Tabs become spaces, and U+2582 and
    U+2583 themselves come back as a space and a line feed.

    Args:
        file: The sentencepiece model.

    Raises:
        OrdtoolError: If jieba or sentencepiece is missing, the file can't be read, or it has
            neither U+2583 nor `<cls>`.
    """

    chat_template = None

    def __init__(self, file: str | Path) -> None:
        require("jieba", "zh")
        require("sentencepiece", "zh")
        import jieba
        import sentencepiece

        jieba.setLogLevel(logging.WARNING)  # it reports the building of its dictionary on stderr
        self._cut = jieba.cut
        try:
            self.pieces = sentencepiece.SentencePieceProcessor(model_file=str(file))
        except (OSError, RuntimeError) as error:
            raise OrdtoolError(f"{file}: not a sentencepiece model: {error}") from error
        self.newline_id = self._newline(str(file))
        self.old = self.pieces.piece_to_id(NEWLINE) == self.pieces.unk_id()
        self.eos_token_id = self._known("<eod>")
        self.pad_token_id = self._known("<pad>")
        self._table = str.maketrans({" ": SPACE, "\n": NEWLINE})

    def __len__(self) -> int:
        return int(self.pieces.get_piece_size())

    def _newline(self, file: str) -> int:
        unknown = self.pieces.unk_id()
        for piece in (NEWLINE, _OLD_NEWLINE):
            if (found := self.pieces.piece_to_id(piece)) != unknown:
                return int(found)
        raise OrdtoolError(
            f"{file}: neither {NEWLINE} nor {_OLD_NEWLINE} is in it", "is it CPM's vocabulary?"
        )

    def _known(self, piece: str) -> int | None:
        found = self.pieces.piece_to_id(piece)
        return None if found == self.pieces.unk_id() else int(found)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        words = " ".join(word.translate(self._table) for word in self._cut(text))
        if not self.old:
            return [int(token) for token in self.pieces.encode(words)]
        return [
            self.newline_id if piece == NEWLINE else int(self.pieces.piece_to_id(piece))
            for piece in self.pieces.encode(words, out_type=str)
        ]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Return the text of ids.

        Args:
            ids: Pieces.
            skip_special_tokens: Leave out `<eod>`, `<pad>` and the like.
        """
        if not self.old:
            return self._decode(ids, skip_special_tokens)
        lines: list[list[int]] = [[]]
        for token in ids:
            if token == self.newline_id:
                lines.append([])
            else:
                lines[-1].append(token)
        return "\n".join(self._decode(line, skip_special_tokens) for line in lines)

    def _decode(self, ids: Sequence[int], skip: bool) -> str:
        kept = [int(token) for token in ids if not (skip and self.pieces.is_control(int(token)))]
        text: str = self.pieces.decode(kept)
        return text.replace(" ", "").replace(SPACE, " ").replace(NEWLINE, "\n")

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        """Give `{"input_ids": [...]}`, as tokenizers of transformers do; options are theirs."""
        return {"input_ids": self.encode(text)}


def find_cpm(folder: Path) -> Path | None:
    """Return the sentencepiece file of a CPM model folder, or None if it is another kind of model.

    A folder is CPM's if its tokenizer configuration says so, or if it holds
    `chinese_vocab.model`, as the published checkpoint does.
    """
    import json

    try:
        named = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        named = {}
    wanted = isinstance(named, dict) and str(named.get("tokenizer_class", "")).startswith("CpmTokenizer")
    for name in FILES:
        if (folder / name).is_file() and (wanted or "chinese" in name):
            return folder / name
    return None
