import math

import pytest
import torch

from ordtool.errors import OrdtoolError, UsageError
from ordtool.extrapolation import evaluation
from ordtool.extrapolation.evaluation import Grid, check_grid, evaluate, score_last
from ordtool.extrapolation.patch import context_extension
from ordtool.extrapolation.texts import Text, cut_windows, gather_texts, repeat_windows
from ordtool.io.text import Record
from ordtool.memory import PeakMemory

TRAINED = 13


@pytest.fixture
def windows():
    return torch.randint(3, 61, (5, 52), generator=torch.Generator().manual_seed(5))


def grid(**options):
    return Grid(**{"methods": ("none",), "lengths": (13, 52), "train_length": TRAINED, **options})


def losses_by_hand(model, text, last):
    """Of the last tokens, one prediction at a time, in float64."""
    found = []
    for at in range(len(text) - last, len(text)):
        with torch.no_grad():
            logits = model(text[None, :at], use_cache=False).logits[0, -1].double()
        found.append(float(logits.logsumexp(-1) - logits[text[at]]))
    return found


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_same_last_tokens_at_every_length(batch_size, tiny, windows):
    model = tiny("llama")
    rows = [row for cell in evaluate(model, windows, grid(batch_size=batch_size)) for row in cell]
    assert [(row.length, row.factor) for row in rows] == [(13, 1.0), (52, 4.0)]
    for row in rows:
        by_hand = [losses_by_hand(model, window[-row.length :], 6) for window in windows]
        assert row.loss == pytest.approx(sum(map(sum, by_hand)) / 30, abs=1e-5)
        assert row.perplexity == pytest.approx(math.exp(row.loss), rel=1e-9)
        assert row.tokens_per_second > 0 and row.position is None


def test_methods_are_applied_and_taken_off(tiny, windows):
    model = tiny("llama")
    spec = "rerope:window=5"
    rows = [row for cell in evaluate(model, windows, grid(methods=("none", spec, "ntk"))) for row in cell]
    with context_extension(model, spec):
        by_hand = [losses_by_hand(model, window, 6) for window in windows]
    (row,) = [row for row in rows if (row.method, row.length) == (spec, 52)]
    assert row.loss == pytest.approx(sum(map(sum, by_hand)) / 30, abs=1e-5)
    again = next(evaluate(model, windows, grid()))[0]
    assert again.loss == rows[0].loss


def test_by_position_covers_every_token_once(tiny, windows):
    model = tiny("llama")
    (rows,) = evaluate(model, windows[:2], grid(lengths=(52,), bins=4))
    assert [row.position for row in rows] == [13, 26, 39, 52]
    by_hand = torch.tensor([losses_by_hand(model, window, 51) for window in windows[:2]]).mean(0)
    for row, part in zip(rows, (by_hand[:12], by_hand[12:25], by_hand[25:38], by_hand[38:]), strict=True):
        assert row.loss == pytest.approx(float(part.mean()), abs=1e-5)


def test_logits_piece_by_piece_are_the_same(tiny, windows, monkeypatch):
    model = tiny("qwen3")
    for spec in ("none", "rerope", "dca+logn"):
        with context_extension(model, spec):
            whole = score_last(model, windows[:3], 40)
            monkeypatch.setattr(evaluation, "LOGITS", 3 * 61 * 7)
            pieces = score_last(model, windows[:3], 40)
            monkeypatch.undo()
        torch.testing.assert_close(pieces[0], whole[0], rtol=0, atol=1e-5)
        assert torch.equal(pieces[1], whole[1])
        assert whole[0].shape == (3, 40)


def test_the_factor_is_the_longest_length_s_unless_said_otherwise():
    def factors(**options):
        made = grid(methods=("ntk", "dynamic-ntk"), **options)
        return [made.plan("ntk", length).values["ntk"]["factor"] for length in made.lengths]

    assert factors() == [4.0, 4.0]
    assert factors(factor="each") == [1.0, 4.0]
    assert factors(factor=2.5) == [2.5, 2.5]
    assert grid().plan("dynamic-ntk", 13).setting.length == 13


def test_a_grid_can_be_gone_on_with(tiny, windows):
    made = grid(methods=("none", "rerope"))
    whole = [row.loss for cell in evaluate(tiny("llama"), windows, made) for row in cell]
    rest = [row.loss for cell in evaluate(tiny("llama"), windows, made, start=3) for row in cell]
    assert rest == whole[3:]


def test_impossible_grids_are_refused():
    with pytest.raises(UsageError, match="last 13 tokens can't be scored with 13 tokens"):
        grid(last=13)
    with pytest.raises(UsageError, match="nothing to predict"):
        grid(lengths=(1,))


def test_warnings_are_told_once(tiny):
    class Told:
        messages = []

        def warn(self, message):
            self.messages.append(message)

    check_grid(tiny("mistral", sliding_window=7), grid(methods=("rerope:window=20",)), Told())
    assert len(Told.messages) == 2
    assert "trained length of 13" in Told.messages[0] and "attends within 7 tokens" in Told.messages[1]


def test_rows_are_the_fields_of_the_contract(tiny, windows):
    (row,) = next(evaluate(tiny("llama"), windows, grid()))
    fields = "method length factor loss perplexity accuracy tokens_per_second peak_memory_mb"
    assert list(row.to_dict()) == fields.split()
    (row, *_) = next(evaluate(tiny("llama"), windows, grid(bins=2)))
    assert list(row.to_dict()) == fields.replace("loss", "position loss").split()


def encode(text):
    return [ord(letter) for letter in text]


def test_windows_follow_one_another_and_do_not_cross_texts():
    texts = [Text("a", "abcdefghij"), Text("b", "xy"), Text("c", "klmnopq")]
    found = cut_windows(texts, encode, 3, 9)
    assert ["".join(map(chr, row)) for row in found.tolist()] == ["abc", "def", "ghi", "klm", "nop"]
    assert len(cut_windows(texts, encode, 3, 2)) == 2


def test_only_what_is_needed_of_a_book_is_tokenised():
    taken = []

    def counted(text):
        taken.append(len(text))
        return encode(text)

    cut_windows([Text("a", "x" * 10**6)], counted, 10, 2)
    assert sum(taken) < 1000

    def every_fifty(text):  # where tokens are long, more of the text is taken
        return encode(text[::50])

    assert cut_windows([Text("a", "x" * 10**4)], every_fifty, 10, 9).shape == (9, 10)


def test_a_short_text_is_told_of_with_what_is_missing():
    with pytest.raises(OrdtoolError, match="b.txt has 7 tokens, and 9 are needed: 2 are missing"):
        cut_windows([Text("b.txt", "abcdefg")], encode, 9, 2)
    with pytest.raises(OrdtoolError, match="b, the longest of 2 texts, has 7 tokens"):
        cut_windows([Text("a", "abc"), Text("b", "abcdefg")], encode, 9, 2)


def test_files_are_texts_and_so_are_lines_of_jsonl():
    records = [
        Record("a.txt", 1, "one"),
        Record("b.jsonl", 1, "two", {"text": "two"}),
        Record("a.txt", 2, "three"),
        Record("b.jsonl", 2, " ", {"text": " "}),
    ]
    assert gather_texts(records) == [Text("b.jsonl:1", "two"), Text("a.txt", "one\nthree")]
    with pytest.raises(OrdtoolError, match="no text"):
        gather_texts([Record("a.txt", 1, "")])


def test_repeated_windows_end_as_they_did():
    windows = torch.arange(20).view(2, 10)
    assert repeat_windows(windows, 4).tolist() == [
        [8, 9, 6, 7, 8, 9, 6, 7, 8, 9],
        [18, 19, 16, 17, 18, 19, 16, 17, 18, 19],
    ]
    assert torch.equal(repeat_windows(windows, 10), windows)


def test_peak_memory_forgets_an_older_peak():
    peaks = []
    for megabytes in (200, 1):
        with PeakMemory(torch.device("cpu")) as memory:
            torch.ones(megabytes * 250_000).sum()
        peaks.append(memory.megabytes)
    if peaks[0] is not None:
        assert peaks[0] - peaks[1] > 100
