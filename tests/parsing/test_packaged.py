"""The parsers that ship inside: they load, agree with what their cards promise, and stay small."""

import json

import pytest

from ordtool.cli.parse import parse as command
from ordtool.io import inputs
from ordtool.models.entries import PACKAGED, names_of_kind
from ordtool.models.resolve import resolve_model
from ordtool.parsing.config import ParseConfig
from ordtool.parsing.loading import load_parser
from ordtool.parsing.parser import parse

NAMES = ["english", "english-onlstm", "english-pcfg"]
PHRASES = [
    ("The old man told his grandchildren a story .", (0, 3)),
    ("The president of the company resigned in May .", (0, 5)),
    ("She said that the children were in the garden .", (6, 9)),
    ("Prices rose ( in most countries ) and wages fell .", (3, 6)),
    ("In the morning , the ship left the harbour .", (0, 3)),
]
CHINESE = ParseConfig(model=("chinese",), tokens="whitespace", device="cpu", dtype="float32")
CHINESE_PHRASES = [
    ("他 买 了 一 本 关于 历史 的 书 。", (5, 9)),
    ("中国 的 首都 是 北京 。", (0, 3)),
    ("我 的 朋友 在 学校 工作 。", (0, 3)),
    ("公司 的 总经理 昨天 宣布 辞职 。", (0, 3)),
    ("这个 问题 的 答案 很 简单 。", (0, 4)),
]
TRADITIONAL = [
    "他 買 了 一 本 關於 歷史 的 書 。",
    "中國 的 首都 是 北京 。",
    "我 的 朋友 在 學校 工作 。",
    "公司 的 總經理 昨天 宣布 辭職 。",
    "這個 問題 的 答案 很 簡單 。",
]


def test_they_are_listed_and_small():
    assert set(names_of_kind("parser")) >= {*NAMES, "english-gold", "chinese"}
    assert sum(file.stat().st_size for file in (PACKAGED / "english-gold").iterdir()) < 4_100_000
    sizes = [sum(file.stat().st_size for file in (PACKAGED / name).iterdir()) for name in NAMES]
    assert sum(sizes) < 28_600_000
    assert sum(file.stat().st_size for file in (PACKAGED / "chinese").iterdir()) < 4_000_000
    for name in (*NAMES, "english-gold", "chinese"):
        assert {"README.md", "config.json", "model.safetensors", "vocab.txt"} <= {
            file.name for file in (PACKAGED / name).iterdir()
        }


@pytest.mark.parametrize(
    ("name", "least"), [("english", 4), ("english-gold", 4), ("english-onlstm", 3), ("english-pcfg", 4)]
)
def test_plain_phrases_are_found(name, least):
    config = ParseConfig(model=(name,), tokens="whitespace", device="cpu", dtype="float32")
    results = list(parse([text for text, _ in PHRASES], config))
    found = [span in set(result.spans) for result, (_, span) in zip(results, PHRASES, strict=True)]
    assert sum(found) >= least, [result.tree for result in results]


def test_plain_chinese_phrases_are_found_in_both_scripts():
    results = list(parse([text for text, _ in CHINESE_PHRASES], CHINESE))
    found = [span in set(result.spans) for result, (_, span) in zip(results, CHINESE_PHRASES, strict=True)]
    assert sum(found) >= 4, [result.tree for result in results]
    assert [result.spans for result in parse(TRADITIONAL, CHINESE)] == [result.spans for result in results]


def test_chinese_text_is_read_without_spaces():
    pytest.importorskip("jieba")
    [result] = parse(["他買了一本關於歷史的書。"], model=("chinese",), device="cpu", dtype="float32")
    assert result.tokens == ["他", "買", "了", "一本", "關於", "歷史", "的", "書", "。"]
    # A book on history, and: on history.
    assert result.spans[0] == (0, 9) and {(3, 8), (5, 7)} <= set(result.spans)


def test_the_two_vote_together():
    text = ["The old man told his grandchildren a story."]
    [vote] = parse(text, ParseConfig(model=tuple(NAMES), device="cpu", dtype="float32"))
    assert vote.spans[0] == (0, 9) and len(vote.spans) == 7


def test_gold_trees_have_labels_and_flat_phrases():
    config = ParseConfig(model="english-gold", device="cpu", dtype="float32")
    plan, dog = parse(["The committee has approved the plan.", "The big old brown dog slept."], config)
    assert plan.tree == "((The committee) (has (approved (the plan))) .)"
    assert plan.penn == (
        "(S (NP (DT The) (NN committee)) (VP (VBZ has) (VP (VBN approved) (NP (DT the) (NN plan)))) (. .))"
    )
    assert (0, 5) in dog.spans and not {(0, k) for k in (2, 3, 4)} & set(dog.spans)
    [cat] = parse(["The cat sat on the mat."], config)
    assert cat.penn == ("(S (NP (DT The) (NN cat)) (VP (VBD sat) (PP (IN on) (NP (DT the) (NN mat)))) (. .))")
    [binary] = parse(["The big old brown dog slept."], model="english-gold", binary=True)
    assert len(binary.spans) == 5 and binary.constituents is None


def test_cards_name_what_the_configurations_hold():
    for name in (*NAMES, "english-gold", "chinese"):
        folder = resolve_model(name)
        card = (folder / "README.md").read_text()
        config = json.loads((folder / "config.json").read_text())
        assert f"{config['vocab_size']:,}" in card
        assert load_parser(folder).vocabulary.tokens[0] == "<eos>"


def test_the_sentence_that_help_and_hints_show_parses_well():
    shown, tree = "The children played in the garden.", "((The children) (played (in (the garden))) .)"
    assert parse(shown).tree == tree
    assert shown in (command.__doc__ or "") and shown in inputs._NO_INPUT_HINT
    assert f'>>> parse("{shown}").tree\n        {tree!r}' in (parse.__doc__ or "")
