"""The reader of SentencePiece files, on small files written here field by field."""

import struct

import pytest

from ordtool.errors import OrdtoolError
from ordtool.models.loading import load_tokenizer
from ordtool.models.sentencepiece import (
    BPE,
    BYTE,
    CONTROL,
    NORMAL,
    UNIGRAM,
    UNKNOWN,
    build_tokenizer,
    read_model,
)


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while True:
        out.append(value & 0x7F | (0x80 if value > 0x7F else 0))
        value >>= 7
        if not value:
            return bytes(out)


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def chunk(field: int, data: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(data)) + data


def model_file(pieces, model_type=BPE, byte_fallback=True, prefix=True, squeeze=True) -> bytes:
    data = b""
    for piece, score, kind in pieces:
        fields = chunk(1, piece.encode()) + varint(2 << 3 | 5) + struct.pack("<f", score)
        data += chunk(1, fields + (number(3, kind) if kind != NORMAL else b""))
    trainer = (
        number(3, model_type) + number(35, byte_fallback) + number(40, 0) + number(41, 1) + number(42, 2)
    )
    data += chunk(2, trainer + number(43, -1))
    return data + chunk(3, chunk(1, b"identity") + number(3, prefix) + number(4, squeeze))


SPECIAL = [("<unk>", 0, UNKNOWN), ("<s>", 0, CONTROL), ("</s>", 0, CONTROL)]
BYTES = [(f"<0x{value:02X}>", 0, BYTE) for value in range(256)]
LETTERS = [(letter, -9.0 - at, NORMAL) for at, letter in enumerate("\u2581abct.")]
PIECES = [*SPECIAL, *BYTES, ("\u2581a", -1, NORMAL), ("ca", -2, NORMAL), ("at", -3, NORMAL), *LETTERS]


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "tok.model"
    file.write_bytes(model_file(PIECES))
    return file


def test_byte_pairs_merge_in_the_order_of_their_scores(path):
    tokenizer = build_tokenizer(path)
    # "▁cat": "ca" scores above "at", so it is joined first.
    assert tokenizer.tokenize("cat a") == ["\u2581", "ca", "t", "\u2581a"]
    assert tokenizer.encode("a")[0] == tokenizer.bos_token_id == 1
    assert tokenizer.pad_token is None


def test_unknown_characters_become_bytes_and_come_back(path):
    tokenizer = build_tokenizer(path)
    text = "cat\n\u00e9 \u732b"
    assert "<0x0A>" in tokenizer.tokenize(text)
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == text


def test_spaces_are_squeezed_where_the_file_says_so(tmp_path):
    tokens = {}
    for squeeze in (True, False):
        file = tmp_path / f"{squeeze}.model"
        file.write_bytes(model_file(PIECES, squeeze=squeeze))
        tokens[squeeze] = build_tokenizer(file).tokenize("  a  t\n ")
    assert tokens[True] == ["\u2581a", "\u2581", "t", "<0x0A>"]
    assert tokens[False] == ["\u2581", "\u2581", "\u2581a", "\u2581", "\u2581", "t", "<0x0A>", "\u2581"]


def test_no_prefix_where_the_file_says_so(tmp_path):
    file = tmp_path / "x.model"
    file.write_bytes(model_file(PIECES, prefix=False))
    assert build_tokenizer(file).tokenize("at a") == ["at", "\u2581a"]


def test_unigrams_take_the_most_probable_pieces(tmp_path):
    file = tmp_path / "x.model"
    pieces = [
        *SPECIAL,
        ("\u2581ca", -2, NORMAL),
        ("t", -2, NORMAL),
        ("\u2581", -3, NORMAL),
        ("cat", -0.5, NORMAL),
    ]
    file.write_bytes(model_file(pieces, UNIGRAM, byte_fallback=False))
    assert build_tokenizer(file).tokenize("cat") == ["\u2581", "cat"]  # -3.5 against -4


def test_what_is_read(path):
    model = read_model(path)
    assert len(model.pieces) == len(PIECES) and model.pieces[3][2] == BYTE
    assert model.ids == {"unk": 0, "bos": 1, "eos": 2, "pad": -1}
    assert model.byte_fallback and model.add_dummy_prefix


@pytest.mark.parametrize("data", [b"", b"hello", b"\x0a\xff\xff\xff\xff\x0f", b"\x0b\x01", b"PK\x03\x04"])
def test_other_files_are_refused(data, tmp_path):
    file = tmp_path / "x.model"
    file.write_bytes(data)
    with pytest.raises(OrdtoolError, match="not a SentencePiece model"):
        read_model(file)


def test_a_truncated_file_is_refused(path):
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(OrdtoolError, match="not a SentencePiece model"):
        read_model(path)


def test_words_and_characters_are_refused(tmp_path):
    file = tmp_path / "x.model"
    file.write_bytes(model_file(PIECES, model_type=3))
    with pytest.raises(OrdtoolError, match="words or characters"):
        read_model(file)


def test_a_folder_with_only_a_model_file_just_works(path):
    assert load_tokenizer(path.parent).tokenize("at") == ["\u2581a", "t"]
    (path.parent / "other.model").write_bytes(path.read_bytes())
    with pytest.raises(OrdtoolError, match=r"several tokenizers \(other.model, tok.model\)"):
        load_tokenizer(path.parent)
