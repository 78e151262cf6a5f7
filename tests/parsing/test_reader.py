import pytest

from ordtool.parsing.text.reader import InputConfig, TextConfig, read_inputs, read_sentences


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
