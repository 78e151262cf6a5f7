import io
import re

import pytest

from ordtool.errors import OrdtoolError, UsageError
from ordtool.extrapolation.chart import draw_chart
from ordtool.extrapolation.plot import draw_plot
from ordtool.plotting import check_plot

SERIES = {
    "none": [(512, 3.75), (1024, 3.77), (2048, 3.8), (4096, 6.45)],
    "rerope": [(512, 3.73), (1024, 3.7), (2048, 3.68), (4096, 3.65)],
    "ntk": [(512, 3.91), (1024, 3.88), (2048, 4.03), (4096, 4.16)],
}


def test_a_chart_shows_each_line_by_its_letter():
    rows = draw_chart(SERIES, width=51, height=9)
    assert max(map(len, rows)) <= 51
    curves = [row[9:50].ljust(41) for row in rows[:9]]
    assert (
        sum("".join(row[:40]).count(mark) for row in curves for mark in "b*") == 4
    )  # two of them meet other lines
    assert curves[-1][:40].rstrip().endswith("b")  # the lowest loss is rerope's at the longest length
    assert curves[0][:40].rstrip().endswith("^")  # none's is cut off
    assert (rows[0][-1], rows[8][-1]) == ("a", "b")  # which ends where
    assert all(tick in rows[10] for tick in ("512", "1,024", "2,048", "4,096"))
    legend = " ".join(row.strip() for row in rows[11:])
    assert legend == "a none  b rerope  c ntk  * several ^ off the top"


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_fifteen_methods_fit_and_are_told_apart(width):
    names = [f"method-{number}:window=64+logn" for number in range(15)]
    series = {name: [(2.0**k, 3 + n / 10 + k / 20) for k in range(9, 13)] for n, name in enumerate(names)}
    axes = ("tokens of context", "loss, nats a token")
    rows = draw_chart(series, width=width, names=axes)
    assert max(map(len, rows)) <= width
    assert rows[0] == axes[1] and rows[15].strip() == axes[0]
    assert not any("." in row[9:] for row in rows[1:13]), "lines between so many points hide them"
    right = 9 + rows[13].count("-")
    assert sorted("".join(row[right:].strip() for row in rows[1:13])) == list(
        "abcdefghijklmno"
    )  # where each ends
    legend = " ".join(rows[16:])
    assert all(f"{letter} {name}" in legend for letter, name in zip("abcdefghijklmno", names, strict=True))
    coloured = draw_chart(series, width=width, names=axes, colour=True)
    assert [re.sub(r"\x1b\[[\d;]*m", "", row) for row in coloured] == rows
    assert "\x1b[31ma\x1b[0m method-0" in coloured[16]
    assert "\x1b[1;31mg\x1b[0m method-6" in "".join(coloured[16:])


def test_charts_of_little():
    assert draw_chart({"a": [(1, 2.0)]}) != []
    assert draw_chart({"a": [(1, float("nan"))]}) == []
    assert draw_chart({}) == []
    flat = draw_chart({"a": [(1, 2.0), (2, 2.0)], "b": [(1, 2.0), (2, 2.0)]}, width=30, height=5)
    assert sum(row.count("*") for row in flat[:5]) == 2


@pytest.mark.parametrize(("name", "start"), [("x.svg", b"<?xml"), ("x.PNG", b"\x89PNG"), ("x.pdf", b"%PDF")])
def test_the_same_numbers_give_the_same_plot(name, start):
    pytest.importorskip("matplotlib")
    drawn = []
    for _ in range(2):
        file = io.BytesIO()
        draw_plot(file, check_plot(name), SERIES, train_length=512, title="t")
        drawn.append(file.getvalue())
    assert drawn[0] == drawn[1] and drawn[0].startswith(start)
    if name.endswith("svg"):
        assert all(method.encode() in drawn[0] for method in SERIES)


def test_other_formats_are_refused_before_any_work():
    with pytest.raises(UsageError, match="a plot is one of .png, .svg, .pdf"):
        check_plot("x.jpeg")


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OrdtoolError, match="needs matplotlib") as caught:
        check_plot("x.svg")
    assert caught.value.hint == "pip install 'ordtool[plot]'"
