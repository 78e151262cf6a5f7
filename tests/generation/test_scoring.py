"""Scores against formulas written out, and what is refused."""

import json
import math
from collections import Counter

import pytest

from ordtool.errors import OrdtoolError, UsageError
from ordtool.generation.scoring import read_predictions, read_references, score_text

PREDICTIONS = ["the cat sat on the mat today", "a dog ran under the old tree", "birds sing"]
REFERENCES = [
    ["the cat sat on the mat", "a cat was on the mat today"],
    ["the dog ran under a tree"],
    ["the birds sing well", "birds sang", "many birds sing"],
]


def grams(words, n):
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def bleu(predictions, references):
    """Papineni et al. 2002, equations 1-3, for texts in which every order matches somewhere."""
    log_precision = 0.0
    for n in range(1, 5):
        right = total = 0
        for text, some in zip(predictions, references, strict=True):
            own = grams(text.split(), n)
            most = Counter()
            for reference in some:
                most |= grams(reference.split(), n)
            right += sum((own & most).values())
            total += sum(own.values())
        log_precision += math.log(right / total) / 4
    size = sum(len(text.split()) for text in predictions)
    closest = sum(
        min((len(r.split()) for r in some), key=lambda length: (abs(length - len(text.split())), length))
        for text, some in zip(predictions, references, strict=True)
    )
    return 100 * math.exp(min(0, 1 - closest / size) + log_precision)


def lcs(a, b):
    if not a or not b:
        return 0
    return lcs(a[1:], b[1:]) + 1 if a[0] == b[0] else max(lcs(a[1:], b), lcs(a, b[1:]))


def test_scores_are_the_formulas():
    scores = score_text(PREDICTIONS, REFERENCES)
    assert scores.bleu == pytest.approx(bleu(PREDICTIONS, REFERENCES))
    f1 = []
    for text, some in zip(PREDICTIONS, REFERENCES, strict=True):
        f1.append(max(2 * lcs(text.split(), r.split()) / len((text + " " + r).split()) for r in some))
    assert scores.rouge_l == pytest.approx(100 * sum(f1) / 3)
    assert 0 < scores.chrf < 100
    assert scores.segments == 3
    assert "tok:13a" in scores.protocol


def test_lowercase():
    upper = [text.upper() for text in PREDICTIONS]
    assert score_text(upper, REFERENCES).bleu < 1
    scores = score_text(upper, REFERENCES, lowercase=True)
    assert scores.bleu == pytest.approx(bleu(PREDICTIONS, REFERENCES))
    assert "case:lc" in scores.protocol


def test_a_perfect_text_has_100():
    scores = score_text([r[0] for r in REFERENCES[:2]], REFERENCES[:2])
    assert (scores.bleu, scores.chrf, scores.rouge_l) == pytest.approx((100, 100, 100))


def lcs_table(a, b):
    """The longest common subsequence, by the table of all beginnings."""
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def test_rouge_l_by_characters_against_a_table():
    written = ["水运工程项目全过程管理的研究", "一种飞行器 姿态控制方法", "高血压"]
    titles = ["水运工程施工项目全过程管理的有效性探索", "基于平方和优化的飞行器控制器设计", "补肾活血汤"]
    f1 = []
    for text, title in zip(written, titles, strict=True):
        text = text.replace(" ", "")
        f1.append(2 * lcs_table(text, title) / (len(text) + len(title)))
    assert score_text(written, titles, tokenizer="char").rouge_l == pytest.approx(100 * sum(f1) / 3)


def test_chinese_counts_characters():
    class Listener:
        warnings: list[str] = []

        def warn(self, message):
            self.warnings.append(message)

    assert score_text(["床前明月光"], [["床前看月光"]], tokenizer="zh").rouge_l == pytest.approx(80)
    assert score_text(["床前明月光"], [["床前看月光"]], progress=Listener()).rouge_l == 0
    assert "`tokenizer=zh`" in Listener.warnings[0]


def test_what_is_refused():
    with pytest.raises(OrdtoolError, match="2 predictions and 1 references"):
        score_text(["a", "b"], [["a"]])
    with pytest.raises(OrdtoolError, match="no texts"):
        score_text([], [])
    with pytest.raises(OrdtoolError, match="text 2 has no reference"):
        score_text(["a", "b"], [["a"], []])
    with pytest.raises(UsageError):
        score_text(["a"], [["a"]], tokenizer="13b")


def test_files(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"output": "a"}\n{"output": ""}\n')
    (tmp_path / "r.jsonl").write_text('{"references": ["a", "b"]}\n{"references": "c"}\n')
    (tmp_path / "r.txt").write_text("d\n\n")
    assert read_predictions(tmp_path / "p.jsonl") == ["a", ""]
    assert read_references([tmp_path / "r.jsonl", tmp_path / "r.txt"]) == [["a", "b", "d"], ["c", ""]]
    (tmp_path / "p.out").write_bytes((tmp_path / "p.jsonl").read_bytes())
    assert read_predictions(tmp_path / "p.out") == ["a", ""]  # JSONL under another name
    (tmp_path / "braces.txt").write_text('{x}\n{"a": 1}\n')
    assert read_predictions(tmp_path / "braces.txt") == ["{x}", '{"a": 1}']
    (tmp_path / "short.txt").write_text("d\n")
    with pytest.raises(OrdtoolError, match="has 2 references and .*short.txt has 1"):
        read_references([tmp_path / "r.jsonl", tmp_path / "short.txt"])
    for bad in ("[]", "3", '["a", 1]', "null"):
        (tmp_path / "bad.jsonl").write_text(f'{{"references": {bad}}}\n')
        with pytest.raises(OrdtoolError, match="bad.jsonl:1: field 'references' (must be|is null)"):
            read_references([tmp_path / "bad.jsonl"])
    (tmp_path / "bad.jsonl").write_text('{"output": 3}\n')
    with pytest.raises(OrdtoolError, match="must be a string, found int"):
        read_predictions(tmp_path / "bad.jsonl")
    with pytest.raises(OrdtoolError, match="no field 'x'"):
        read_predictions(tmp_path / "bad.jsonl", "x")


def test_files_of_other_kinds(tmp_path):
    (tmp_path / "a.json").write_text(
        json.dumps([{"output": text} for text in ("it ran .", "he sat .")], indent=1)
    )
    words = [
        [f"{k}\t{word}" + "\t_" * 8 for k, word in enumerate(text.split(), 1)]
        for text in ("it ran .", "he sat .")
    ]
    (tmp_path / "a.conllu").write_text("\n\n".join("\n".join(lines) for lines in words))
    for name in ("a.json", "a.conllu"):
        assert read_predictions(tmp_path / name) == ["it ran .", "he sat ."]


def test_the_command(run, fails_in_process, tmp_path):
    (tmp_path / "r1.txt").write_text("the cat sat on the mat\na dog ran away\n")
    (tmp_path / "r2.txt").write_text("a cat sat on a mat\nthe dog ran off\n")
    lines = '{"id": 1, "output": "the cat sat on the mat"}\n{"id": 2, "output": "the dog ran away"}\n'
    done = run("score", "text", "-", "r1.txt", "r2.txt", stdin=lines.encode())
    assert done.returncode == 0, done.stderr
    scores = json.loads(done.stdout)
    assert list(scores) == ["bleu", "chrf", "rouge_l", "segments", "protocol"]
    assert scores["segments"] == 2
    assert 50 < scores["bleu"] < 100
    assert "r3.txt: no such file" in fails_in_process("score", "text", "-", "r3.txt", stdin=lines.encode())
    (tmp_path / "r3.txt").write_text("a\nb\nc\n")
    assert "2 predictions and 3 references" in fails_in_process(
        "score", "text", "-", "r3.txt", stdin=lines.encode()
    )
