import pytest

from ordtool.errors import UsageError
from ordtool.parsing.text.reader import InputConfig, TextConfig, check_inputs, read_inputs, read_sentences


def texts(tmp_path, data, name="a.txt", **options):
    (tmp_path / name).write_text(data)
    return [sentence.text for sentence in read_inputs([str(tmp_path / name)], InputConfig(**options))]


@pytest.mark.parametrize(
    ("line", "is_tree"),
    [
        ("( (S (NP (DT The) (NN cat))) )", True),
        ("(S (NP (DT The) (NN cat)) (VP (VBD sat)))", True),
        ("(ROOT", True),
        ("(S (NP", True),
        ("(S (NN a))", True),
        ("(NP (DT The) (NN cat))", True),
        ("(NOTE (A man came) here.)", False),
        ("(NOTE (A man", False),
        ("(He agreed.) She did not.", False),
        ("(NASA (the agency) said so)", False),
        ("(A) first, (B) second", False),
        ("((a b) c)", True),
        ("The cat (S (NN a))", False),
    ],
)
def test_trees_are_told_from_text_in_brackets(tmp_path, line, is_tree):
    opened = line.count("(") - line.count(")") if is_tree else 0
    data = line + ("\n (NN dog" + ")" * (opened + 1) if opened else "") + "\n"
    assert (texts(tmp_path, data) == data.split("\n")[:-1]) is not is_tree
    # What is trained on is read by the same rule.
    config = TextConfig(layout="sentences", punctuation=True)
    [words] = read_sentences([tmp_path / "a.txt"], config)
    assert ("(" in words) is not is_tree


def test_unlabelled_trees_are_read_when_they_are_said_to_be_trees(tmp_path):
    assert texts(tmp_path, "((the cat) sat -LRB- .)\n", format="trees") == ["the cat sat ( ."]


def test_paragraphs(tmp_path):
    wrapped = "It was a long line of a book that was wrapped,\nand went on here for some more words. The end\nof it.\n\n"
    listed = "A heading\nItem one\nItem two\n"
    whole = (
        "This paragraph stands on a line of its own, "
        + "which is longer than books are wrapped, " * 2
        + "so it is whole\n"
    )
    assert texts(tmp_path, wrapped + listed + whole * 2, split=True) == [
        "It was a long line of a book that was wrapped, and went on here for some more words.",
        "The end of it.",
        "A heading",
        "Item one",
        "Item two",
        whole.strip(),
        whole.strip(),
    ]


CONLLU = """# text = Don't go, Bob-.
1-2	Don't	_	_	_	_	_	_	_	_
1	Do	do	AUX	VBP	_	3	aux	_	_
2	n't	not	PART	RB	_	3	advmod	_	_
3	go	go	VERB	VB	_	0	root	_	SpaceAfter=No
4	,	,	PUNCT	,	_	3	punct	_	_
5	Bob	Bob	PROPN	NNP	_	3	vocative	_	SpaceAfter=No
6	-	-	PUNCT	HYPH	_	3	punct	_	SpaceAfter=No
7	.	.	PUNCT	.	_	3	punct	_	_
"""


@pytest.mark.parametrize("name", ["a.conllu", "a.txt"])
def test_conllu_is_read_by_its_words(tmp_path, name):
    path = tmp_path / name
    path.write_text(CONLLU)
    (found,) = read_inputs(str(path), InputConfig())
    assert found.text == "Don't go, Bob-."
    assert [token.text for token in found.tokens] == ["Do", "n't", "go", ",", "Bob", "-", "."]
    assert all(found.text[token.start : token.end] == token.text for token in found.tokens)
    assert found.punctuation == (False, False, False, True, False, True, True)
    assert list(read_sentences(path)) == [["Do", "n't", "go", "Bob"]]
    with pytest.raises(UsageError, match="holds CoNLL-U, which is sentences already"):
        check_inputs([str(path)], InputConfig(split=True))


def test_a_folder_may_hold_text_and_trees(tmp_path):
    (tmp_path / "a.txt").write_text("The cat sat.\nDogs bark.\n")
    (tmp_path / "b.mrg").write_text("(S (NP (NNS Dogs)) (VP (VBP sleep)))\n")
    (tmp_path / "c.txt").write_text("(S (NP (NNS Cats)) (VP (VBP run)))\n")
    found = [sentence.text for sentence in read_inputs([str(tmp_path)], InputConfig())]
    assert found == ["The cat sat.", "Dogs bark.", "Dogs sleep", "Cats run"]


def test_a_folder_of_texts_is_read_as_what_its_files_are(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.txt").write_text("It ran.\n")
    (tmp_path / "d" / "b.txt").write_text("(S (NP (NN Dogs)) (VP (VBP bark)))\n")
    assert [sentence.text for sentence in read_inputs(tmp_path / "d", InputConfig())] == [
        "It ran.",
        "Dogs bark",
    ]
