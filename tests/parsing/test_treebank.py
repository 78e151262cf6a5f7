import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ordtool.errors import OrdtoolError
from ordtool.parsing.text.reader import InputConfig, TextConfig, read_inputs, read_sentences
from ordtool.parsing.trees.builders import random_tree
from ordtool.parsing.trees.punctuation import attach_punctuation, is_punctuation
from ordtool.parsing.trees.recognition import is_labelled, is_unlabelled
from ordtool.parsing.trees.treebank import (
    Constituent,
    begins_tree,
    escape_token,
    read_brackets,
    read_trees,
    strip_function,
    to_tree,
    to_unlabelled_tree,
    unescape_token,
    write_brackets,
    write_penn,
)

WSJ = b"""( (S
    (NP-SBJ-1 (DT The) (NN firm))
    (VP (VBD was)
      (VP (VBN sold)
        (NP (-NONE- *-1))
        (PP (-LRB- -LRB-) (IN for) (NP ($ $) (CD 3\\/4)) (-RRB- -RRB-))))
    (. .)))
(ROOT (NP=2 (NN Trade) (NN ban)))  (TOP (-NONE- *))
( (INTJ (UH Yes)) )
"""


def trees_of(tmp_path, data, name="a.mrg", **options):
    path = tmp_path / name
    path.write_bytes(data)
    return list(read_trees([path], **options))


def test_penn_trees(tmp_path):
    firm, ban, trace, yes = trees_of(tmp_path, WSJ)
    assert firm.tokens == ("The", "firm", "was", "sold", "(", "for", "$", "3/4", ")", ".")
    assert firm.tags == ("DT", "NN", "VBD", "VBN", "-LRB-", "IN", "$", "CD", "-RRB-", ".")
    assert firm.punctuation == [False] * 4 + [True] + [False] * 3 + [True, True]
    assert firm.constituents == (
        ("S", 0, 10),
        ("NP", 0, 2),
        ("VP", 2, 9),
        ("VP", 3, 9),
        ("PP", 4, 9),
        ("NP", 6, 8),
    )
    assert firm.where == f"{tmp_path}/a.mrg:1"
    assert ban.tokens == ("Trade", "ban") and ban.constituents == (Constituent("NP", 0, 2),)
    assert ban.where.endswith(":8")
    assert trace.tokens == () and trace.constituents == ()
    assert yes.tokens == ("Yes",) and yes.where.endswith(":9")


def test_folders_are_read_in_order_with_subfolders_and_gz(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1.tree").write_bytes(b"(S (NN one))")
    (tmp_path / "c.ptb.gz").write_bytes(gzip.compress(b"(S (NN two))"))
    (tmp_path / "a.txt").write_bytes(b"(S (NN zero))\n")
    (tmp_path / "notes.md").write_bytes(b"no tree")
    (tmp_path / ".hidden.txt").write_bytes(b"no tree")
    assert [tree.tokens[0] for tree in read_trees([tmp_path])] == ["zero", "one", "two"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"(S (NN a))\n\n(S (NP (NN b))\n", "a.mrg:3: the bracket that opens here never closes (1 open"),
        (b"(S (NN a)))\n", "a.mrg:1: a bracket closes that was never opened"),
        (b"(S (NN a))\nplain text\n", "a.mrg:2: expected a tree in brackets, found 'plain'"),
        (b"(S (NN a))\n(S (NN \xff))\n", "a.mrg:2: invalid UTF-8 (byte 0xff at column 8)"),
    ],
)
def test_bad_trees_name_their_line(tmp_path, data, message):
    with pytest.raises(OrdtoolError) as caught:
        trees_of(tmp_path, data)
    assert message in caught.value.message and caught.value.hint


def test_an_empty_folder_and_a_missing_file(tmp_path):
    with pytest.raises(OrdtoolError, match="a folder without treebank files") as caught:
        list(read_trees([tmp_path]))
    assert "*.mrg" in caught.value.hint
    with pytest.raises(OrdtoolError, match="no such file"):
        list(read_trees([tmp_path / "x.mrg"]))
    assert trees_of(tmp_path, b"\n \n") == []


def test_good_trees_after_a_bad_one_are_kept(tmp_path):
    problems = []
    data = b"(S (NN a))\n(S (NN b)\n  (NN c)\n(S (NN d))\nstray (S (NN e))\n(S (NN \xff))\n(S (NN f))\n(S (NN g)\n"
    trees = trees_of(tmp_path, data, on_error=problems.append)
    assert [tree.tokens[0] for tree in trees] == ["a", "d", "f"]
    assert [problem.message.split(":")[1] for problem in problems] == [
        "6",
        "5",
        "8",
    ]  # 6 is met inside the tree of line 2


def test_deep_trees_do_not_recurse():
    depth = 50_000
    atoms = ["(", "X"] * depth + ["(", "NN", "a", ")", "(", "NN", "b", ")"] + [")"] * depth
    assert to_tree(atoms).tokens == ("a", "b")


def test_bare_leaves_and_unlabelled_trees():
    tree = to_tree("( NP the ( NN cat ) , )".split())
    assert tree.tokens == ("the", "cat", ",") and tree.tags == ("", "NN", "") and tree.punctuation[2]
    plain = "( ( the cat ) sat -LRB- )".split()
    assert is_unlabelled(plain) and not is_unlabelled("( a ( b c ) )".split())
    tree = to_unlabelled_tree(plain)
    assert tree.tokens == ("the", "cat", "sat", "(") and tree.constituents == (("", 0, 4), ("", 0, 2))


@pytest.mark.parametrize(
    ("label", "stripped"),
    [("NP-SBJ-1", "NP"), ("NP=2", "NP"), ("-LRB-", "-LRB-"), ("ADVP|PRT", "ADVP"), ("PRP$", "PRP$"), ("", "")],
)  # fmt: skip
def test_function_tags(label, stripped):
    assert strip_function(label) == stripped


@given(st.text(alphabet="()ab-é", min_size=1, max_size=6))
def test_escaped_tokens_come_back(token):
    escaped = escape_token(token)
    assert "(" not in escaped and ")" not in escaped
    assert unescape_token(escaped) == token


@given(
    st.recursive(
        st.sampled_from(["a", "b-c", "é"]),
        lambda inner: st.lists(inner, min_size=1, max_size=3),
        max_leaves=12,
    )
)
def test_any_bracketing_round_trips_through_a_stream(nested):
    def write(node):
        return node if isinstance(node, str) else "(" + "\n ".join(write(child) for child in node) + ")"

    text = write(nested if isinstance(nested, list) else [nested])
    [(atoms, where)] = read_brackets(iter(text.encode().split(b"\n")), "x")
    assert "".join(atoms) == "".join(text.split()) and where == "x:1"


TREE_LINES = [
    "(S (NN a))",
    "(S (NP (DT The) (NN cat)) (VP (VBD sat)) (. .))",
    "( (S (NP-SBJ-1 (DT The) (NN cat))",
    "(ROOT",
    "(S (NP",
    "  (TOP (S (-LRB- -LRB-)",
    "(S (NP The cat) (VP sat))",
    "(S (`` ``) (NP=2 (PRP$ my)))",
    "(SENT (VPinf (_ a) (_ b)))",
    "(IP (NP (NN 猫)) (VP (VV 坐)))",
    "(S (NN a)) (S (NN b))",
    "((The cat) (sat down))",
    "(the (cat (sat down)))",
    "(The (cat (sat down)) .)",
    "((The (cat sat)) , (she (said so)) .)",
    "(s (np (dt the) (nn cat)) (vp (vbd sat)))",
    "( (s (np-sbj (dt the)",
    "(top",
]
TEXT_LINES = [
    "(NOTE (A story of a cat.",
    "(NOTE (SEE Appendix) for more.",
    "(NOTE SEE (A) FOR MORE",
    "(NEW YORK)",
    "(NEW YORK) The mayor said",
    "(AP (Associated Press) said",
    "(see below)",
    "(1) First, the cat.",
    "(a) (b) (c)",
    "(I)",
    "()",
    "((",
    ") (S (NN a))",
    "The cat (NN sat).",
    "(He left (at last).)",
    "(He (left early).)",
    "(see (fig 1) (fig 2))",
    "(he said (or (so (it seems",
    "(中文 (在 这 里))",
    '{"text": "(S (NN a))"}',
]


@pytest.mark.parametrize("line", TREE_LINES)
def test_first_lines_of_treebanks(line):
    assert begins_tree(line)


@pytest.mark.parametrize("line", TEXT_LINES)
def test_first_lines_of_texts(line):
    assert not begins_tree(line)


@pytest.mark.parametrize("line", [*(x for x in TREE_LINES if x.count("(") == x.count(")")), *TEXT_LINES])
def test_training_and_parsing_take_a_file_for_the_same(line, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(line + "\n")
    trees = begins_tree(line)
    parsed = list(read_inputs([str(path)], InputConfig()))
    assert [sentence.tokens is not None for sentence in parsed] == [trees] * len(parsed)
    learned = list(read_sentences([path], TextConfig(punctuation=not trees)))
    if trees:
        words = [[token for token in tree.tokens if token[0].isalnum()] for tree in read_trees([path])]
        assert learned == words
    else:
        assert "".join(word for words in learned for word in words).count("(") == line.count("(")


LABELLED = [
    "(S (NP (DT The) (NN cat)) (VP (VBD sat)) (. .))",
    "( (S (NP-SBJ (-NONE- *)) (VP (VB Go))) )",
    "(s (np (dt the) (nn cat)) (vp (vbd sat)))",
    "(TOP (S (NP (_ The) (_ cat)) (VP (_ sat))))",
    "(IP (NP (NR 上海)) (VP (VV 开放)) (PU 。))",
    "( (SBAR (IN because) (S (NP (PRP they)) (VP (VBP say)))) (. .))",
]
UNLABELLED = [
    "((The cat) (sat down))",
    "(The (cat sat) .)",
    "(a ((b c) d))",
    '(" (He (said so)) ")',
    "((NEW YORK) (IS BIG))",
]
EITHER = [
    "(S (NP (DT a) (NN b)) (VP ( (NP (NN c) (NN d)))))",
    "(a (b c))",
    "(Go)",
    "()",
    "(I (AM HERE))",
    "(dogs bark)",
]


def atoms_of(line):
    return line.replace("(", " ( ").replace(")", " ) ").split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        *((line, True) for line in LABELLED),
        *((line, False) for line in UNLABELLED),
        *((line, None) for line in EITHER),
    ],
)
def test_whether_a_tree_has_labels(line, expected):
    assert is_labelled(atoms_of(line)) is expected


def test_a_label_that_was_forgotten_among_labels(tmp_path):
    path = tmp_path / "a.mrg"
    path.write_text(LABELLED[0] + "\n( (S (NP (DT a) (NN b)) (VP (VB c) ( (NP (NN d) (NN e))))))\n")
    tree = list(read_trees(path))[1]
    assert [c.label for c in tree.constituents] == ["S", "NP", "VP", "NP"]


def leaves(path, **options):
    return [tree.tokens for tree in read_trees(path, **options)]


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("certain", UNLABELLED)
def test_one_tree_without_labels_says_that_a_file_has_none(tmp_path, certain, place):
    lines = ["(a (b c))", "(Go)"]
    lines.insert(place, certain)
    path = tmp_path / "a.txt"
    path.write_text("\n".join(lines))
    found = leaves(path)
    found.pop(place)
    assert found == [("a", "b", "c"), ("Go",)]


def test_where_no_tree_is_certain_the_suffix_is(tmp_path):
    for name, expected in (("a.brackets", ("a", "b", "c")), ("a.mrg", ("c",))):
        (tmp_path / name).write_text("(a (b c))\n" * 3)
        assert leaves(tmp_path / name) == [expected] * 3


@pytest.mark.parametrize("name", ["a.brackets", "a.txt"])
@pytest.mark.parametrize("swapped", [False, True])
def test_labelled_and_unlabelled_trees_in_one_file_are_an_error(tmp_path, name, swapped):
    lines = ["(a (b c))", LABELLED[0], "(Go)", UNLABELLED[0]]
    path = tmp_path / name
    path.write_text("\n".join(reversed(lines) if swapped else lines))
    bad, first = (3, 1) if swapped else (4, 2)
    with pytest.raises(
        OrdtoolError, match=rf"{name}:{bad}: a tree with.* labels, and the tree of .*{name}:{first} is"
    ):
        leaves(path)
    errors: list[OrdtoolError] = []
    assert len(leaves(path, on_error=errors.append)) == 3 and len(errors) == 1


PIECES = st.text(st.sampled_from("ab01/\\*()[]{}-.…,'\"漢字é"), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(PIECES, max_size=7), min_size=1, max_size=8).filter(lambda found: any(map(len, found))),
    st.sampled_from([(write_brackets, ".brackets"), (write_penn, ".mrg"), (write_penn, ".txt")]),
    st.integers(0, 2**32 - 1),
)
def test_written_trees_are_read_back(tmp_path_factory, sentences, written, seed):
    write, suffix = written
    generator = np.random.default_rng(seed)
    trees = []
    for tokens in sentences:
        marks = [is_punctuation(token) for token in tokens]
        trees.append((tokens, attach_punctuation(random_tree(marks.count(False), generator), tokens, marks)))
    path = tmp_path_factory.mktemp("trees") / f"t{suffix}"
    path.write_text("".join(write(tokens, spans) + "\n" for tokens, spans in trees))
    found = list(read_trees(path))
    assert [list(tree.tokens) for tree in found] == sentences
    wide = [[(c.start, c.end) for c in tree.constituents if c.end - c.start > 1] for tree in found]
    assert wide == [spans for _, spans in trees]
