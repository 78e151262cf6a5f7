"""`ordtool.extrapolate` in Python, on the packaged tiny model."""

import json
from pathlib import Path

import pytest

import ordtool
from ordtool.errors import OrdtoolError, UsageError
from ordtool.extrapolation import comparison
from ordtool.extrapolation.cells import CellTask
from ordtool.extrapolation.comparison import Comparison, ExtrapolateConfig
from ordtool.extrapolation.methods import METHODS
from ordtool.extrapolation.texts import Text
from ordtool.progress import SILENT, Silent
from ordtool.sharding.run import Scale
from ordtool.sharding.tasks import run_tasks

STORY = (Path(__file__).parents[2] / "examples" / "story.txt").read_text()


class Listener(Silent):
    def __init__(self):
        self.notes = []

    def note(self, message):
        self.notes.append(message)


def test_a_text_is_one_text_and_lengths_follow_it():
    listener = Listener()
    found = ordtool.extrapolate(STORY, methods=("none", "rerope"), windows=1, progress=listener)
    assert [(one.method, one.length) for one in found] == [
        (method, length) for length in (256, 512, 1024) for method in ("none", "rerope")
    ]
    assert found[-1].loss < found[-2].loss  # at four times the trained length
    assert listener.notes[0].startswith("the text has 1,245 tokens, so the longest length is 1,024")
    again = ordtool.extrapolate([STORY], methods=("none",), lengths=("1x", 512, "1k"), windows=1)
    assert [one.loss for one in again] == [one.loss for one in found if one.method == "none"]


def test_a_cell_alone_is_what_it_is_among_the_others():
    config = ExtrapolateConfig(methods=("none", "ntk"), lengths=("1x", 512), windows=1)
    compared = Comparison(config, [Text("story", STORY)])
    together = [[one.loss for one in cell] for cell in compared.measure()]
    alone = [[one.loss for one in compared.measure_cell(number)] for number in reversed(range(4))]
    assert alone[::-1] == together
    # As a worker does them.
    task = CellTask(config, (Text("story", STORY),))
    done = run_tasks(task, [1, 3], Scale(), SILENT)
    assert [[row["loss"] for row in json.loads(found)] for found in done] == [together[1], together[3]]


def test_long_work_is_told_of_before_it_begins(monkeypatch):
    monkeypatch.setattr(comparison, "_WORTH_TELLING", 0.0)
    monkeypatch.setattr(comparison, "_PROBE", 8)
    listener = Listener()
    compared = Comparison(ExtrapolateConfig(methods=("none",), windows=1), [Text("story", STORY)], listener)
    next(compared.measure())
    assert listener.notes[-1].startswith("1,792 tokens to read, ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ("rerop",)}, "unknown method 'rerop'"),
        ({"windows": 0}, "`windows` 0 is not possible"),
        ({"batch_size": 0}, "`batch_size` 0 is not possible"),
        ({"train_length": 1}, "`train_length` 1 is not possible"),
        ({"factor": 0.5}, "`factor` 0.5 is no number of 1 or more"),
        ({"factor": "half"}, "`factor` half is no number of 1 or more"),
    ],
)
def test_what_makes_no_sense_is_refused_by_the_field_s_name(options, message):
    with pytest.raises(UsageError, match=message):
        ExtrapolateConfig(**options)


def test_all_is_every_method_once():
    assert ExtrapolateConfig(methods=("ntk", "all")).specs()[0] == "ntk"
    assert set(ExtrapolateConfig(methods=("all",)).specs()) == set(METHODS) - {
        "longrope"
    }  # which needs a file


def test_a_text_that_is_too_short_is_refused():
    with pytest.raises(OrdtoolError, match=r"text 1 has \d+ tokens, and 256 are needed"):
        ordtool.extrapolate("The cat sat on the mat.")
