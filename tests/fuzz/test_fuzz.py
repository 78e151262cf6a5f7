"""Inputs that are almost right: every command ends in an answer or in one line; none in a traceback, a kill or a wait.

`pytest tests/fuzz --examples 300` runs 300 of each family; `-k FAMILY --first 17 --examples 1` one alone.
"""

import os
from collections.abc import Iterator
from random import Random

import pytest
from children import Outcome, run_examples
from families import FAMILIES

# What a family has in a usual run.
FEW = 6


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family(name, models, request, tmp_path):
    option = request.config.getoption
    count = option("--examples", default=None) or FEW
    first, seed = option("--first", default=0), option("--fuzz-seed", default="0")

    def make(number: int):
        return FAMILIES[name](Random(f"{name}/{seed}/{number}"), models)

    outcomes = run_examples(make, range(first, first + count), tmp_path)
    faults = list(_told(outcomes, name, os.environ.get("FUZZ_LOG")))
    assert not faults, "\n\n".join(faults)


def _told(outcomes: Iterator[Outcome], name: str, log: str | None) -> Iterator[str]:
    """The faults, as text; every outcome also goes to a log, if one is wanted."""
    for outcome in outcomes:
        line = f"{name} {outcome.number}: {outcome.fault or 'fine'} {outcome.status} {outcome.args}"
        if log:
            with open(log, "a") as file:
                file.write(line + "\n" + (outcome.stderr + "\n" if outcome.fault else ""))
        if outcome.fault:
            yield f"{line}\n{outcome.stderr}"
