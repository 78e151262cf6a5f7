"""Sums and permutations that are interrupted again and again, and gone on with."""

import signal
from dataclasses import replace

import numpy as np
import pytest

from ordtool.errors import OrdtoolError
from ordtool.independence.config import HsicConfig
from ordtool.independence.hsic import compare
from ordtool.io.stages import holds_stages, keeping
from ordtool.progress import Silent

ROWS = 500  # three blocks of pairs of rows, two jobs of a coset
CASES = {
    "sums alone": {"test": "none"},
    "rotations": {"permutations": 999},
    "rotations of features": {"permutations": 999, "kernel": "linear"},
    "rotations of both": {"permutations": 999, "kernel": ("gaussian", "linear")},
    "shuffles": {"scheme": "independent", "permutations": 9},
    "shuffles of features": {"scheme": "independent", "permutations": 9, "kernel": "linear"},
    "moments": {"test": "gamma", "estimator": "biased"},
    "many bandwidths": {"test": "aggregated", "permutations": 99, "grid": (0.5, 1.0)},
    "groups": {"test": "block", "group_rows": 50},
    "given": {"permutations": 99},
}


class Interrupting(Silent):
    """Presses Ctrl-C when the bar was moved so often."""

    def __init__(self, moves):
        self.left = moves

    def advance(self, amount=1, **stats):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def variables():
    rng = np.random.default_rng(0)
    x, y, z = rng.standard_normal((3, ROWS, 2)).astype(np.float32)
    return [("x", x), ("y", y + x * x), ("z", z)]


@pytest.mark.parametrize("case", CASES)
def test_interrupted_again_and_again_is_uninterrupted(variables, tmp_path, case):
    config = HsicConfig(**CASES[case], threads=1)
    pairs = [(0, 1), (1, 0)] if "given" in case else [(0, 1), (0, 2)]
    given = variables[2] if "given" in case else None

    def attempt(moves=0):
        with keeping(tmp_path):
            return compare(variables, pairs, config, given=given, progress=Interrupting(moves))

    whole = [replace(result, seconds=0) for result in compare(variables, pairs, config, given=given)]
    found, interruptions = None, 0
    while found is None and interruptions < 50:
        try:
            found = attempt(moves=3)
        except KeyboardInterrupt:
            interruptions += 1
    assert 0 < interruptions < 50 and holds_stages(tmp_path)
    assert [replace(result, seconds=0) for result in found] == whole


def test_seconds_are_those_of_all_runs(variables, tmp_path):
    with keeping(tmp_path), pytest.raises(KeyboardInterrupt):
        compare(variables, [(0, 1)], HsicConfig(test="none"), progress=Interrupting(2))
    [file] = tmp_path.iterdir()
    with keeping(tmp_path):
        [found] = compare(variables, [(0, 1)], HsicConfig(test="none"))
    assert found.seconds > 0
    file.write_bytes(b"no such thing")
    with pytest.raises(OrdtoolError, match="sums.safetensors: damaged"), keeping(tmp_path):
        compare(variables, [(0, 1)], HsicConfig(test="none"))
