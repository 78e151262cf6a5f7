import io

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
    rows = draw_chart(SERIES, width=40, height=9)
    assert len(rows) == 11 and max(map(len, rows)) <= 49
    curves = [row[9:] for row in rows[:9]]
    assert sum("".join(curves).count(mark) for mark in "b*") == 4  # two of them meet other lines
    assert curves[-1].rstrip().endswith("b")  # the lowest loss is rerope's at the longest length
    assert curves[0].rstrip().endswith("^")  # none's is cut off
    assert all(tick in rows[-1] for tick in ("512", "1,024", "2,048", "4,096"))


def test_charts_of_little():
    assert draw_chart({"a": [(1, 2.0)]}) != []
    assert draw_chart({"a": [(1, float("nan"))]}) == []
    assert draw_chart({}) == []
    flat = draw_chart({"a": [(1, 2.0), (2, 2.0)], "b": [(1, 2.0), (2, 2.0)]}, width=20, height=5)
    assert sum(row.count("*") for row in flat) == 2


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
