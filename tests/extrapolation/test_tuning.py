"""`--tune`: the choice of a method's parameters, on the packaged tiny model."""

import json
from pathlib import Path

import pytest

from ordtool.errors import OrdtoolError, UsageError
from ordtool.extrapolation.comparison import ExtrapolateConfig, extrapolate
from ordtool.extrapolation.longrope_search import search_factors
from ordtool.extrapolation.plan import make_plan
from ordtool.extrapolation.texts import Text
from ordtool.extrapolation.tuning import tune

STORY = (Path(__file__).parents[2] / "examples" / "story.txt").read_text()


def test_a_window_is_chosen_by_loss_and_holds_on_the_other_windows():
    tuned = tune(STORY, "rerope+logn", lengths=(128, 256), train_length=128)
    assert tuned.tried[0].method == "rerope+logn"
    assert [one.method for one in tuned.tried[1:]] == [
        f"rerope:window={window}+logn" for window in (16, 64, 96, 128)
    ]
    best = min(tuned.tried, key=lambda one: one.loss)
    assert tuned.checked.method == best.method
    assert tuned.method == min(tuned.default, tuned.checked, key=lambda one: one.loss).method
    make_plan(tuned.method, train_length=128, length=256)  # --context takes it
    rows = extrapolate(STORY, methods=(best.method,), lengths=(128, 256), train_length=128, windows=1)
    first = tune(STORY, "rerope+logn", lengths=(128, 256), train_length=128, windows=2)
    alone = next(one for one in first.tried if one.method == best.method)
    assert alone.loss == pytest.approx(sum(row.loss for row in rows) / len(rows), abs=1e-9)


def test_by_a_task_what_is_given_stays():
    options = {"task": "kv", "lengths": (128,), "train_length": 64, "windows": 1, "depths": (0.9,)}
    tuned = tune([], "self-extend:window=32", **options)
    assert [one.method for one in tuned.tried] == [
        "self-extend:window=32", "self-extend:window=32:group=2", "self-extend:window=32:group=8",
    ]  # fmt: skip
    assert all(one.found in (0.0, 1.0) for one in tuned.tried)
    assert tuned == tune([], "self-extend:window=32", **options)


def test_numbers_are_written_short():
    tuned = tune(STORY, "ntk-mixed:exponent=0.625", lengths=(64,), train_length=32, windows=2)
    assert [one.method for one in tuned.tried[1:]] == [
        f"ntk-mixed:exponent=0.625:factor={factor}" for factor in ("1", "4")
    ]


def test_values_that_do_not_go_together_are_passed_over():
    tuned = tune(STORY, "dca", lengths=(96,), train_length=32, windows=2)
    assert "dca:chunk=32" not in [one.method for one in tuned.tried]
    assert {"dca:chunk=8", "dca:chunk=16"} <= {one.method.partition(":context")[0] for one in tuned.tried}


def test_what_can_not_be_tuned_is_refused():
    with pytest.raises(UsageError, match="none has no parameters to choose"):
        tune(STORY, "none", lengths=(64,))
    with pytest.raises(OrdtoolError, match="one window of 1,024 tokens"):
        tune(STORY, "rerope", lengths=(1024,))
    with pytest.raises(UsageError, match="unknown method 'rerop'"):
        tune(STORY, "rerop")


def test_a_search_for_factors_is_as_good_as_what_it_began_with_and_can_be_read(tmp_path):
    config = ExtrapolateConfig(lengths=(256,), train_length=64, seed=3)
    found = search_factors([Text("story", STORY)], config, trials=14)
    assert found.losses["search"] <= min(found.losses.values())
    assert len(found.factors) == 30 and list(found.factors) == sorted(found.factors)
    assert 1 <= found.factors[0] and found.factors[-1] <= 1.25 * 4
    assert found == search_factors([Text("story", STORY)], config, trials=14)
    (tmp_path / "f.json").write_text(json.dumps({"long_factor": found.factors}))
    method = f"longrope:factors={tmp_path / 'f.json'}"
    options = {"lengths": (256,), "train_length": 64, "windows": 8}
    (row,) = extrapolate(STORY, methods=(method,), **options)
    both = {name: (found.losses[name] + found.checked[name]) / 2 for name in found.losses}
    assert row.loss == pytest.approx(min(both.values()), abs=0.05)  # four windows: two and two
    with pytest.raises(UsageError, match="the longest length is 64"):
        search_factors([Text("story", STORY)], ExtrapolateConfig(lengths=(64,), train_length=64))
