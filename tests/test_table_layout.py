"""Tables fit any terminal, and no number or name is split."""

import pytest

from ordtool.table_layout import fit_table, text_width

WIDTHS = (40, 60, 80, 100, 200)
TREES = (
    ["trees", "S-F1", "C-F1", "NP", "VP", "PP", "S", "SBAR", "1-10 words", "11-20 words", "21-30 words"],
    [
        [name, *(f"{row * 7 + column:.1f}" for column in range(10))]
        for row, name in enumerate(["my-predictions.jsonl", "left", "right", "balanced", "random"])
    ],
)
MATRIX = (
    ["", *(f"layer-{index:02d}" for index in range(31))],
    [
        [f"layer-{row:02d}", *(f"{-4.4e-05 * row * column:.1e}***" for column in range(31))]
        for row in range(31)
    ],
)
MODELS = (
    ["name", "size", "licence", "here", "what it is"],
    [
        [
            "english-onlstm",
            "20 MB",
            "MIT",
            "packaged",
            "an ON-LSTM of 24M English tokens, whose gates give syntactic distances",
        ],
        ["中文模型", "8 MB", "Apache-2.0", "-", "trees for Chinese"],
    ],
)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("table", [TREES, MATRIX, MODELS], ids=["trees", "matrix", "models"])
def test_nothing_is_split(table, width):
    columns, rows = table
    parts = fit_table(columns, rows, width)
    lines = [line for part in parts for line in part.lines()]
    assert max(map(text_width, lines)) <= width
    shown = " ".join(lines).split()
    for cell in [*columns, *(cell for row in rows for cell in row)]:
        for word in cell.split():
            assert word in shown


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("table", [TREES, MATRIX], ids=["trees", "matrix"])
def test_every_cell_stands_once_beside_its_heads(table, width):
    columns, rows = table
    found = []
    for part in fit_table(columns, rows, width):
        for row in part.rows:
            found += [
                (tuple(sorted((row[0], head))), cell)
                for head, cell in zip(part.columns[1:], row[1:], strict=True)
            ]
    expected = [
        (tuple(sorted((row[0], head))), cell)
        for row in rows
        for head, cell in zip(columns[1:], row[1:], strict=True)
    ]
    assert sorted(found) == sorted(expected)


def test_the_layout_with_the_fewest_lines_is_taken():
    columns, rows = TREES
    assert len(fit_table(columns, rows, 200)) == 1
    (turned,) = fit_table(columns, rows, 70)
    assert turned.columns == ("trees", "my-predictions.jsonl", "left", "right", "balanced", "random")
    tall = [[f"row {row}", *("1.00" for _ in range(20))] for row in range(50)]
    parts = fit_table(["", *(f"c{index}" for index in range(20))], tall, 80)
    assert [part.columns[0] for part in parts] == ["", ""] and len(parts[0].rows) == 50


def test_prose_is_wrapped_and_names_wider_than_the_terminal_stay_whole():
    (part,) = fit_table(*MODELS, 80)
    assert any("\n" in row[-1] for row in part.rows)
    name = "a-very-long-name" * 9
    parts = fit_table(["name", "p"], [[name, "0.5"]], 60)
    assert any(name in line for part in parts for line in part.lines())


def test_numbers_stand_at_the_right():
    (part,) = fit_table(["x", "n"], [["a", "1,000"], ["b", "-"], ["c", "3.1***"]], 80)
    assert part.lines()[2:] == ["a   1,000", "b       -", "c  3.1***"]
