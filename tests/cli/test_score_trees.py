"""`ordtool score trees` as a person and a pipe meet it."""

import json

import pytest

FIELDS = ["system", "sentence_f1", "corpus_f1", "sentences", "protocol", "label_recall", "length_f1"]
GOLD = (
    "(S (NP (DT The) (JJ old) (NN cat)) (VP (VBD sat) (PP (IN on) (NP (DT the) (NN mat)))) (. .))\n"
    "(S (NP (PRP It)) (VP (VBD ran)) (. .))\n(FRAG (-NONE- *))\n"
)


@pytest.fixture
def bank(tmp_path):
    (tmp_path / "bank").mkdir()
    (tmp_path / "bank" / "a.mrg").write_text(GOLD)
    return tmp_path


def rows(done):
    assert done.returncode == 0, done.stderr
    return {row["system"]: row for row in map(json.loads, done.stdout.decode().split("\n")[:-1])}


def test_f1_by_length_is_drawn(run_in_process, bank):
    pytest.importorskip("matplotlib")
    from ordtool.parsing.trees.score_plot import draw_f1_by_length
    from ordtool.parsing.trees.scoring import score_pairs
    from ordtool.parsing.trees.treebank import read_trees

    done = rows(run_in_process("score", "trees", "bank", "bank", "--plot", "f1.svg"))
    drawn = (bank / "f1.svg").read_bytes()
    assert b"<svg" in drawn
    assert run_in_process("score", "trees", "bank", "bank", "--plot", "f1.svg").returncode == 1
    assert run_in_process("score", "trees", "bank", "bank", "--plot", "f1.svg", "--force").returncode == 0
    assert (bank / "f1.svg").read_bytes() == drawn
    assert "a plot is one of" in run_in_process("score", "trees", "bank", "bank", "--plot", "f1.txt").stderr
    figure = draw_f1_by_length(
        score_pairs([([(0, 2)], tree) for tree in read_trees(bank / "bank") if tree.tokens])
    )
    lines = {line.get_label(): list(line.get_ydata()) for line in figure.axes[0].lines}
    assert list(lines) == ["prediction", "left", "right", "balanced", "random"]
    assert lines["right"] == pytest.approx(list(done["right"]["length_f1"].values()), abs=0.01)


def test_parse_and_score_a_folder(run_in_process, parsers, bank):
    assert (
        run_in_process("parse", "-m", parsers(), "bank", "--format", "jsonl", "-o", "pred.jsonl").returncode
        == 0
    )
    done = rows(run_in_process("score", "trees", "pred.jsonl", "bank"))
    assert list(done) == ["pred.jsonl", "left", "right", "balanced", "random"]
    assert all(list(row) == FIELDS and row["sentences"] == 2 for row in done.values())
    assert done["right"]["protocol"] == "no punctuation, no whole span, 2+ words"
    # Seven words: gold (0,3) (3,7) (4,7) (5,7), right (1,7) ... (5,7); the sentence of two words counts 100.
    f1 = 2 * (3 / 5) * (3 / 4) / (3 / 5 + 3 / 4)
    assert done["right"]["sentence_f1"] == pytest.approx(100 * (f1 + 1) / 2, abs=0.01)
    assert done["right"]["label_recall"] == {"NP": 50.0, "VP": 100.0, "PP": 100.0}


def test_brackets_score_as_jsonl_does(run_in_process, parsers, bank):
    scores = []
    for name in ("p.jsonl", "p.brackets", "p.mrg"):
        assert run_in_process("parse", "-m", parsers(), "bank", "-o", name).returncode == 0
        row = next(iter(rows(run_in_process("score", "trees", name, "bank", "--no-baselines")).values()))
        scores.append({**row, "system": ""})
    assert scores[0] == scores[1] == scores[2]
    piped = rows(run_in_process("score", "trees", "-", "bank", stdin=(bank / "p.jsonl").read_bytes()))
    assert piped["-"]["sentence_f1"] == scores[0]["sentence_f1"]


def test_options_change_the_protocol(run_in_process, bank):
    gold = ["score", "trees", "bank/a.mrg", "bank"]
    assert rows(run_in_process(*gold))["bank/a.mrg"]["sentence_f1"] == 100
    kept = rows(run_in_process(*gold, "--punctuation", "keep", "--whole-span"))["right"]
    assert kept["protocol"] == "punctuation kept, whole span kept, 2+ words"
    assert rows(run_in_process(*gold, "--max-length", "5"))["left"]["sentences"] == 1
    assert "unary roots kept" in rows(run_in_process(*gold, "--protocol", "kim"))["left"]["protocol"]
    assert (
        rows(run_in_process(*gold, "--seed", "3"))["random"]
        == rows(run_in_process(*gold, "--seed", "3"))["random"]
    )


def test_output_file_and_an_empty_count(run_in_process, bank):
    assert run_in_process("score", "trees", "bank/a.mrg", "bank", "-o", "s.jsonl").stdout == b""
    assert len((bank / "s.jsonl").read_text().split("\n")) == 6
    done = run_in_process("score", "trees", "bank/a.mrg", "bank", "--min-length", "50")
    assert "no sentence was counted" in done.stderr and rows(done)["left"]["sentences"] == 0


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["none.jsonl", "bank"], 1, "none.jsonl: no such file"),
        (["bank/a.mrg", "none"], 1, "none: no such file"),
        (["short.jsonl", "bank"], 1, "gold tree 2 has no prediction"),
        (["other.jsonl", "bank"], 1, "other.jsonl:1: the tokens are not those of bank/a.mrg:1"),
        (["open.mrg", "bank"], 1, "open.mrg:1: the bracket that opens here never closes"),
        (["bank/a.mrg", "bank", "--protocol", "kym"], 2, "unknown --protocol 'kym'"),
        (["bank/a.mrg", "bank", "--punctuation", "drop"], 2, "unknown --punctuation 'drop'"),
        (["bank/a.mrg"], 2, "Missing argument"),
    ],
)
def test_bad_input(fails_in_process, bank, arguments, status, message):
    first = {"tokens": "The old cat sat on the mat .".split(), "spans": []}
    (bank / "short.jsonl").write_text(json.dumps(first) + "\n")
    (bank / "other.jsonl").write_text(json.dumps({"tokens": ["No"], "spans": []}) + "\n")
    (bank / "open.mrg").write_text("(S (NN a)\n")
    assert message in fails_in_process("score", "trees", *arguments, status=status)
