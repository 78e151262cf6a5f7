"""What holds for the options of every command."""

import pytest


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
@pytest.mark.parametrize(
    "command",
    [
        ("whiten", "v.npy", "--ridge"),
        ("train", "lm", "t.txt", "-o", "m", "--learning-rate"),
        ("train", "seq2seq", "p.tsv", "-m", "x", "-o", "m", "--epochs"),
        ("generate", "-p", "x", "--repetition-penalty"),
    ],
    ids=lambda command: command[0] + command[1],
)
def test_numbers_are_finite(fails_in_process, command, number):
    assert command[-1] in fails_in_process(*command, number, status=2)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("train", "parser", "t.txt", "-o", "m", "--hidden", "7"), "--chunk 16 doesn't divide --hidden 7"),
        (("train", "parser", "t.txt", "-o", "m", "--holdout", "1"), "--holdout must be at least 0"),
        (("train", "spans", "t.jsonl", "-o", "m", "--dropout", "2"), "--dropout must be at least 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[:2]),
)
def test_messages_name_options(fails_in_process, command, words):
    assert words in fails_in_process(*command, status=2)


def test_parameters_are_named_as_options(capfd):
    from ordtool import console

    console.name_options({"workers": ("--workers", ""), "chat": ("--chat", "--no-chat")})
    console.note("`workers`, `workers=2`, `chat`, `chat=True`, `chat=False`, `x.py` and `other`")
    console.name_options({})
    console.note("`workers`")
    assert capfd.readouterr().err.splitlines() == [
        "--workers, --workers 2, --chat, --chat, --no-chat, `x.py` and `other`",
        "`workers`",
    ]
