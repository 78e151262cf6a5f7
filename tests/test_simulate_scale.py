"""`benchmarks/simulate_scale.py`: without deaths it is the closed form, and with them it loses what it must."""

import importlib.util
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "simulate_scale.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("simulate_scale", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("limit", "changes", "workers", "shard"),
    [
        ("workers", {}, 1, 10_000),
        ("workers", {}, 20, 1_000),
        ("driver", {"join": 2e6}, 20, 5_000),
        ("driver", {"driver": 0.5}, 50, 1_000),
        ("storage", {"storage": 2e6}, 20, 1_000),
    ],
)
def test_without_deaths_it_is_the_closed_form(script, limit, changes, workers, shard):
    costs = script.Costs(**changes)
    predicted = script.closed_form(costs, 3e6, workers, shard)
    assert limit == script.limited_by(costs, 3e6, workers, shard)
    found = script.simulate(costs, 3e6, workers, shard)
    assert found.deaths == found.driver_deaths == found.lost == 0
    # What is left is the last round, in which some workers have nothing to do: at most a shard of a hundred or more.
    assert found.seconds == pytest.approx(predicted["seconds"], rel=0.02)


def test_deaths_cost_about_half_a_shard_each_and_the_restarts(script):
    costs = script.Costs(mtbf=0.2, tries=99)
    found = script.simulate(costs, 2e7, 10, 20_000)
    assert found.deaths > 10 and found.failed is None
    each = 20_000 / costs.rate
    assert 0.25 * each < found.lost / found.deaths < 0.75 * each
    calm = script.simulate(replace(costs, mtbf=math.inf), 2e7, 10, 20_000)
    spent = found.lost + found.deaths * (costs.notice + costs.start)
    extra = found.seconds * 10 - found.idle - (calm.seconds * 10 - calm.idle)
    assert extra == pytest.approx(spent, rel=0.1)


def test_a_driver_that_dies_is_resumed_and_a_shard_that_always_dies_ends_the_job(script):
    costs = script.Costs(driver_mtbf=0.04)
    found = script.simulate(costs, 2e6, 5, 10_000)
    calm = script.simulate(script.Costs(), 2e6, 5, 10_000)
    assert found.driver_deaths > 0
    lost = found.driver_deaths * (costs.resume + costs.start + 10_000 / costs.rate * 1.2)
    assert calm.seconds < found.seconds < calm.seconds + lost
    hopeless = script.simulate(script.Costs(mtbf=0.001), 1e5, 2, 50_000)
    assert hopeless.failed is not None and hopeless.seconds == math.inf


def test_the_table_is_printed(script, monkeypatch, capsys):
    arguments = "--sentences 1e5 --workers 1 4 --shard 1000 --mtbf-hours 1 --brackets".split()
    monkeypatch.setattr(sys, "argv", ["simulate_scale.py", *arguments])
    script.main()
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 5 and printed[1].startswith("| workers | shard |")
