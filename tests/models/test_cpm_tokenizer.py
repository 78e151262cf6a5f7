"""CPM's tokenizer against the official recipe written out, on small vocabularies trained here."""

import json
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ordtool.errors import OrdtoolError
from ordtool.models.cpm_tokenizer import CpmTokenizer, find_cpm

pytest.importorskip("sentencepiece")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # jieba's own source has old escapes
    jieba = pytest.importorskip("jieba")

LETTERS = "白日依山尽黄河入海流欲穷千里目更上一层楼 床前明月光疑是地上霜举头望低思故乡 the cat sat.,:0123\n"
TEXT = [
    "白日依山尽,黄河入海流。",
    "床前明月光,疑是地上霜。",
    "the cat sat on 0123: ., 目更上一层楼",
    "欲穷千里目 举头望明月 低头思故乡",
]
SPECIAL = ["<sep>", "<pad>", "<mask>", "<eod>"]


def train(folder, newline):
    """Train a vocabulary with a piece for the line feed: `▃`, or `<cls>` in the old one."""
    import sentencepiece

    prefix = str(folder / "chinese_vocab")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT * 3),
        model_prefix=prefix,
        vocab_size=130,
        hard_vocab_limit=False,
        character_coverage=1.0,
        required_chars="".join(sorted(set(LETTERS) - {" ", "\n"})),
        user_defined_symbols=[newline, "▂"],
        control_symbols=SPECIAL,
        minloglevel=2,
    )
    return folder / "chinese_vocab.model"


@pytest.fixture(scope="module")
def new(tmp_path_factory):
    return CpmTokenizer(train(tmp_path_factory.mktemp("new"), "▃"))


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    return CpmTokenizer(train(tmp_path_factory.mktemp("old"), "<cls>"))


texts = st.text(LETTERS, max_size=40)


@given(texts)
@settings(max_examples=100, deadline=None)
def test_ids_are_the_official_recipes(new, text):
    table = str.maketrans(" \n", "\u2582\u2583")
    words = [word.translate(table) for word in jieba.cut(text, cut_all=False)]
    assert new.encode(text) == new.pieces.encode(" ".join(words))


@given(texts)
@settings(max_examples=100, deadline=None)
def test_ids_of_the_old_vocabulary_are_the_published_ones(old, text):
    """Pieces of the whole text, of which U+2583 is then read as `<cls>`."""
    table = str.maketrans(" \n", "\u2582\u2583")
    words = " ".join(word.translate(table) for word in jieba.cut(text, cut_all=False))
    pieces = ["<cls>" if piece == "\u2583" else piece for piece in old.pieces.encode(words, out_type=str)]
    assert old.encode(text) == [old.pieces.piece_to_id(piece) for piece in pieces]


@given(text=texts)
@settings(max_examples=100, deadline=None)
@pytest.mark.parametrize("kind", ["new", "old"])
def test_round_trip(kind, text, request):
    tokenizer = request.getfixturevalue(kind)
    ids = tokenizer.encode(text)
    assert tokenizer.pieces.unk_id() not in ids
    assert tokenizer.decode(ids) == text
    assert ids.count(tokenizer.newline_id) == text.count("\n")


def test_which_vocabulary_it_is(new, old):
    assert (new.old, old.old) == (False, True)
    assert new.pieces.id_to_piece(new.newline_id) == "▃"
    assert old.pieces.id_to_piece(old.newline_id) == "<cls>"


def test_special_tokens_are_left_out_of_texts(new):
    ids = [*new.encode("明月"), new.eos_token_id, new.pad_token_id]
    assert new.decode(ids, skip_special_tokens=True) == "明月"
    assert len(new) == new.pieces.get_piece_size()


def test_a_folder_of_cpm_writes(new, tmp_path):
    import shutil

    import torch
    import transformers

    from ordtool.generation.config import Decoding
    from ordtool.generation.engine import TextGenerator, generate
    from ordtool.generation.prompts import PromptStyle, Template
    from ordtool.io.text import Record

    folder = tmp_path / "cpm"
    config = transformers.GPT2Config(
        vocab_size=len(new), n_embd=8, n_layer=1, n_head=2, n_positions=64, initializer_range=0.5,
        bos_token_id=1, eos_token_id=new.eos_token_id, pad_token_id=new.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    source = tmp_path / "v"
    source.mkdir()
    shutil.copy(train(source, "▃"), folder / "chinese_vocab.model")
    assert find_cpm(folder) == folder / "chinese_vocab.model"
    results = generate(["床前明月光", "the cat"], str(folder), device="cpu", max_new_tokens=5)
    assert all(len(result.text) for result in results)
    assert generate(["the cat"], str(folder), device="cpu", max_new_tokens=5) == results[1:]

    # Few-shot: an example a line, the last one incomplete, and the answer ends with its line.
    shots = ({"a": "白日", "b": "黄河"}, {"a": "明月", "b": "the cat"})
    style = PromptStyle(Template("{a}:{b}"), shots)
    writer = TextGenerator(folder, device="cpu")
    records = [Record("x", 1, "", {"a": "床前明月光"}), Record("x", 2, "", {"a": "cat 1"})]
    ids = writer.encode(records[0], style)
    assert list(ids) == new.encode("白日:黄河\n明月:the cat\n床前明月光:")
    found = list(writer.stream(records, Decoding(max_new_tokens=30), style))
    assert all("\n" not in result.text and result.text == result.text.strip() for _, _, result in found)
    (plain,) = generate(
        ["白日:黄河\n明月:the cat\n床前明月光:"], str(folder), device="cpu", max_new_tokens=30
    )
    assert found[0][2].text == plain.text.split("\n")[0].strip()


def test_other_folders_and_files(tmp_path):
    assert find_cpm(tmp_path) is None
    (tmp_path / "spiece.model").write_bytes(b"x")
    assert find_cpm(tmp_path) is None
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CpmTokenizer"}))
    assert find_cpm(tmp_path) == tmp_path / "spiece.model"
    with pytest.raises(OrdtoolError, match="not a sentencepiece model"):
        CpmTokenizer(tmp_path / "spiece.model")
