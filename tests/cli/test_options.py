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
