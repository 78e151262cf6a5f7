"""What a person reads of `ordtool hsic`."""

import re

import numpy as np
import pytest

from ordtool import console  # noqa: F401 - made before a terminal is pretended
from ordtool.cli._hsic_view import _cell, heat_map, p_text, settings, show, summary, verdict
from ordtool.independence.alignment import Matrix, to_matrix
from ordtool.independence.hsic import HsicConfig, compare


def results(count, **options):
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((60, 2))
    variables = [
        (f"/home/me/run/english-{index:02d}-x.npy", shared * (index % 3 > 0) + rng.standard_normal((60, 2)))
        for index in range(count)
    ]
    pairs = [(a, b) for b in range(count) for a in range(b)]
    return compare(variables, pairs, HsicConfig(**{"permutations": 99, **options}))


def test_the_verdict_comes_first_and_names_no_folder_twice():
    x = np.random.default_rng(0).standard_normal((60, 2))
    (found,) = compare([("a/x.npy", x), ("a/y.npy", x**2)], [(0, 1)], HsicConfig(permutations=1000))
    assert verdict(found) == f"dependent: p <= 0.001 (1,000 permutations), CKA {found.cka:.2f}"
    assert dict(settings(found))["variables"] == "x and y in a"
    (found,) = compare(
        [("x", x), ("y", np.random.default_rng(1).standard_normal((60, 2)))],
        [(0, 1)],
        HsicConfig(test="gamma"),
    )
    assert re.fullmatch(r"no dependence found: p = 0\.\d+ \(gamma test\), CKA -?[\d.e-]+", verdict(found))
    (found,) = compare([("x", x), ("y", np.ones((60, 1)))], [(0, 1)], HsicConfig())
    assert verdict(found) == "no dependence found: p = 1 (1,000 permutations), HSIC 0"
    (found,) = compare([("x", x), ("y", x)], [(0, 1)], HsicConfig(test="none"))
    assert verdict(found) == "not tested: CKA 1.00"


def test_p_at_its_floor_is_a_bound():
    assert p_text(1 / 1001, 1000) == "p <= 0.001"
    assert p_text(2 / 1001, 1000) == "p = 0.002"
    assert p_text(1 / 152, 151) == "p <= 0.0066"
    assert p_text(1 / 150, 149) == "p <= 0.0067"
    assert p_text(3.2e-17, None) == "p = 3.2e-17"


def test_many_pairs_are_counted_after_the_correction():
    assert summary(results(4, permutations=200)).startswith("dependent: 1 of 6 pairs (p <= 0.05 after Holm")
    said = summary(results(7))
    assert said.startswith("dependent: none of 21 pairs")
    assert "none can be under 0.21 with 99 permutations: take --permutations 420" in said
    assert summary(results(4, test="none")) == "6 pairs, not tested"


@pytest.mark.parametrize("width", [60, 80, 100, 200])
@pytest.mark.parametrize("count", [3, 7, 12])
def test_no_number_or_name_is_split(width, count, monkeypatch, capsysbinary):
    found = results(count, test="gamma")
    for name, value in {"COLUMNS": str(width), "FORCE_COLOR": "1", "NO_COLOR": "1", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    show(found, cka=False)
    shown = re.sub(r"\x1b\[[\d;]*m", "", capsysbinary.readouterr().out.decode())
    assert all(len(line) <= width for line in shown.splitlines())
    assert shown.startswith("dependent: ")
    words = shown.split()
    assert all(f"english-{index:02d}-x" in words for index in range(count))
    if "hundredths" not in shown and "tenths" not in shown:
        assert all(any(word.startswith(_cell(one.statistic)) for word in words) for one in found)


def layers(size, value="cka"):
    rng = np.random.default_rng(0)
    cells = np.clip(rng.random((size, size)) - 0.01, None, 1)
    cells[0, 0], cells[1, 0], cells[2, 0] = 1, -0.2, np.nan
    names = [f"bert/layer-{index:02d}.npy" for index in range(size)]
    return Matrix(names, names, value, cells, np.full(cells.shape, np.nan))


@pytest.mark.parametrize(("width", "room", "digits"), [(100, 3, 2), (80, 2, 1), (60, 1, 1)])
def test_a_heat_map_of_31_layers_fits(width, room, digits):
    matrix = layers(31)
    lines, legend = heat_map(matrix, width, colour=False)
    assert max(map(len, lines)) <= width
    assert len(lines) == 32
    for number, line in enumerate(lines[1:32]):
        assert line[:3] == f"{number:2d} "
        for column, value in enumerate(matrix.cells[number].tolist()):
            shown = line[3 + room * column :][:digits].strip()
            expected = (
                "."
                if value != value
                else "-"
                if value < 0
                else str(min(10**digits - 1, int(value * 10**digits)))
            )
            assert shown == expected
    assert legend.startswith("hundredths" if digits == 2 else "tenths")


def test_a_heat_map_in_colour_says_the_same():
    matrix = layers(31, "statistic")
    plain, _ = heat_map(matrix, 80, colour=False)
    coloured, _ = heat_map(matrix, 80, colour=True)
    assert [re.sub(r"\x1b\[[\d;]*m", "", line) for line in coloured] == plain
    assert "\x1b[48;5;" in coloured[1]


def test_a_heat_map_numbers_what_has_names():
    matrix = to_matrix(results(12, test="none"))
    lines, legend = heat_map(matrix, 60, colour=False)
    assert lines[1].startswith("english-00-x  1 ") and lines[12].startswith("english-11-x 12 ")
    assert legend.endswith("columns are numbered as rows are")
