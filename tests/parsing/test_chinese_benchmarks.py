"""The scripts that make Chinese text and the phrases of dependency treebanks."""

import gzip
import importlib.util
import random
import sys
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


def test_sentences_of_a_good_length_are_drawn_once_and_none_of_a_treebank(tmp_path, monkeypatch, capsys):
    pytest.importorskip("jieba")
    lines = ["他在北京读书。", "他在北京讀書。", "她在家里看电视。", "他走。", "这是" * 60 + "。"]
    (tmp_path / "open/chinese").mkdir(parents=True)
    chinese = script("chinese_text")
    for name in chinese.THOUSANDS:
        with gzip.open(tmp_path / f"open/chinese/{name}.txt.gz", "wt", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
    treebank = tmp_path / "a.conllu"
    treebank.write_text("# text = 她在家裡看電視。\n", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["chinese_text.py", str(tmp_path), "--without", str(treebank)])
    chinese.main()
    [written] = capsys.readouterr().out.splitlines()
    assert chinese.key(written) == "他在北京读书" and " " in written


def test_phrases_that_no_chinese_sentence_has_become_unlikely():
    lessons = script("chinese_trees")
    tokens = ["他", "买", "了", "书", "和", "笔"]
    spans = {(1, 6): 0.5, (2, 6): 0.5, (3, 5): 0.5, (3, 6): 0.75}
    assert lessons.mend(tokens, spans) == {(1, 6): 0.5, (2, 6): 0.01, (3, 5): 0.01, (3, 6): 0.75}


def test_words_that_come_apart_are_phrases_and_the_other_spans_keep_their_words():
    lessons = script("chinese_trees")
    tokens, spans = ["加速度", "很", "大", "ABC"], {(0, 4): 1.0, (1, 3): 0.5}
    found = {tuple(lessons.come_apart(tokens, spans, random.Random(seed))[0]) for seed in range(20)}
    assert found == {("加速度", "很", "大", "ABC"), ("加速", "度", "很", "大", "ABC")}
    apart = next(s for s in range(20) if len(lessons.come_apart(tokens, spans, random.Random(s))[0]) == 5)
    assert lessons.come_apart(tokens, spans, random.Random(apart))[1] == {
        (0, 5): 1.0,
        (2, 4): 0.5,
        (0, 2): 1.0,
    }


def test_a_lesson_has_the_likeliest_tree_around_its_punctuation():
    lessons = script("chinese_trees")
    tokens = ["他", "，", "走", "了", "。"]
    found = lessons.lesson(tokens, {(0, 4): 1.0, (2, 4): 0.8, (0, 3): 0.03})
    assert {tuple(span) for span in found["spans"]} == {(0, 4), (2, 4)}
    assert found["posteriors"] == [[0, 4, 1.0], [2, 4, 0.8]]
