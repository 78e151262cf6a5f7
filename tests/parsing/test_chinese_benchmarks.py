"""The scripts that make Chinese text and the phrases of dependency treebanks."""

import importlib.util
from pathlib import Path

import pytest

from ordtool.parsing.trees.treebank import read_trees

FOLDER = Path(__file__).parents[2] / "benchmarks"


def script(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def conllu(rows):
    lines = [
        f"{k}\t{form}\t_\t{tag}\t_\t_\t{head}\t_\t_\t_" for k, (form, tag, head) in enumerate(rows, start=1)
    ]
    return ["# text = x\n", *(f"{line}\n" for line in lines), "\n"]


def spans_of(rows):
    trees = script("ud_trees")
    [words] = trees.read_conllu(iter(conllu(rows)))
    return trees.brackets(words, trees.phrases(words)), trees.phrases(words)


def test_phrases_are_words_with_all_that_depends_on_them():
    words = "他/PRON/2 买/VERB/0 的/PART/4 书/NOUN/2 （/PUNCT/4 新/ADJ/4 。/PUNCT/2".split()
    rows = [(form, tag, int(head)) for form, tag, head in (word.split("/") for word in words)]
    text, spans = spans_of(rows)
    assert spans == {(2, 6)}
    assert text == "(ROOT (S (PRON 他) (VERB 买) (X (PART 的) (NOUN 书) (PUNCT （) (ADJ 新)) (PUNCT 。)))"


def test_a_broken_subtree_is_no_phrase():
    _, spans = spans_of([("a", "X", 3), ("b", "X", 0), ("c", "X", 2), ("d", "X", 5), ("e", "X", 2)])
    assert spans == {(3, 5)}


def test_trees_can_be_read_again(tmp_path):
    text, spans = spans_of([("x y", "X", 2), ("(", "X", 3), ("c", "X", 0), ("d", "X", 3)])
    path = tmp_path / "a.mrg"
    path.write_text(text + "\n")
    [tree] = read_trees([path])
    assert tree.tokens == ("xy", "(", "c", "d")
    assert {(node.start, node.end) for node in tree.constituents} - {(0, 4)} == spans == {(0, 2)}


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("他在北京读书。", True),
        ("他昨天对我说：“今天的天气很好。”", True),
        ("他在北京读书", False),
        ("他走。", False),
        ("运行 `make` 命令来编译。", False),
        ("Use Linux and Python 3.11 来做。", False),
        ("见 https://a.b 的说明文字。", False),
    ],
)
def test_what_is_prose(text, kept):
    assert script("chinese_text").is_prose(text) is kept


def test_pages_lose_their_markup(tmp_path):
    page = tmp_path / "a.md"
    prose = "- 请先阅读[这份文档](a.md)里的**说明**。"
    page.write_text(
        f"---\ntitle: 标题在这里。\n---\n# 标题。\n\n{prose}\n\n```\n代码不是文章。\n```\n| 表格 |\n"
    )
    chinese = script("chinese_text")
    assert list(chinese.prose(chinese.pages(tmp_path), set())) == ["请先阅读这份文档里的说明。"]


def test_each_sentence_is_taken_once_in_either_script():
    chinese = script("chinese_text")
    text = ["他在北京讀書。他在北京读书。她在家裡看電視！"]
    assert list(chinese.prose(iter(text), {chinese.key("她在家里看电视")})) == ["他在北京讀書。"]
