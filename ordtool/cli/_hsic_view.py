"""Results of `ordtool hsic` for a person: what they say first, then the figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ordtool.table_layout import fit_table, is_number, text_width

if TYPE_CHECKING:
    from ordtool.independence.alignment import Matrix
    from ordtool.independence.hsic import HsicResult

LEVEL = 0.05
MOST_LISTED = 40
# From dark to bright, of the 256 colours of a terminal; the last four are read in black.
RAMP = (17, 54, 91, 127, 162, 198, 203, 215, 222, 230)


def show(results: Sequence[HsicResult], *, cka: bool) -> None:
    """Show one pair in full, several as a matrix, a list, or a heat map, by what fits."""
    from ordtool import console

    if len(results) == 1:
        (result,) = results
        console.show(verdict(result) + "\n")
        facts = settings(result)
        widest = max(len(name) for name, _ in facts)
        for name, value in facts:
            console.show(f"{name:<{widest}}  {value}")
        return
    width = console.terminal_width()
    _say(summary(results), width)
    console.show("")
    from ordtool.independence.alignment import to_matrix

    matrix = to_matrix(results, "cka" if cka else "statistic")
    columns, rows = _matrix_table(matrix)
    (part, *more) = fit_table(columns, rows, width)
    if not more and part.columns == tuple(columns):
        console.print_table(_title(matrix, results), columns, rows, to_stderr=False)
        return
    for measures in (("HSIC", "CKA"), ("CKA",) if cka else ("HSIC",)):
        listed = _list_table(results, measures)
        if len(results) <= MOST_LISTED and fit_table(*listed, width)[0].columns == tuple(listed[0]):
            console.print_table(_title(matrix, results), *listed, to_stderr=False)
            return
    _show_heat_map(matrix, results, width)


def verdict(result: HsicResult) -> str:
    """Say in a sentence whether two variables depend on each other: `dependent: p <= 0.001 (1,000 permutations)`."""
    size = (
        f"HSIC {short_number(result.statistic)}" if result.cka is None else f"CKA {short_number(result.cka)}"
    )
    if result.p_value is None:
        return f"not tested: {size}"
    drawn = result.permutations
    means = {"permutation": f"{drawn:,} permutation{'s' * (drawn != 1)}"} if drawn else {}
    how = means.get(result.test) or (f"{result.test} test" + (f", {drawn:,} permutations" if drawn else ""))
    found = "dependent" if result.p_value <= LEVEL else "no dependence found"
    if result.given is not None:
        found += f" once {result.given} is known"
    return f"{found}: {p_text(result.p_value, drawn)} ({how}), {size}"


def summary(results: Sequence[HsicResult]) -> str:
    """Say in a sentence how many of several pairs depend on each other."""
    p_values = [result.p_adjusted for result in results if result.p_adjusted is not None]
    if not p_values:
        return f"{len(results)} pairs, not tested"
    dependent = sum(p <= LEVEL for p in p_values)
    drawn = results[0].permutations
    how = f"{drawn:,} permutations" if drawn else f"{results[0].test} test"
    said = f"dependent: {dependent or 'none'} of {len(results)} pairs (p <= {LEVEL} after Holm's correction; {how})"
    floor = len(results) / (drawn + 1) if drawn else 0.0
    if floor > LEVEL:
        enough = math.ceil(len(results) / LEVEL)
        said += (
            f"; of so many pairs none can be under {round_up(floor):g} with {drawn:,} permutations: "
            f"take --permutations {enough}, or --test gamma"
        )
    return said


def settings(result: HsicResult) -> list[tuple[str, str]]:
    """List what was measured, and how."""
    from ordtool.independence.alignment import short_names

    folder, names = short_names([result.x, result.y])
    widths = [short_number(width) for width in (result.bandwidth_x, result.bandwidth_y) if width is not None]
    kernel = result.kernel.replace(",", ", ") + (f", bandwidth {' and '.join(widths)}" if widths else "")
    if result.multiples is not None:
        kernel += f" times {', '.join(f'{multiple:g}' for multiple in result.multiples)}, added up"
    features = f", {result.random_features} random features" if result.random_features else ""
    facts = [
        ("variables", f"{names[0]} and {names[1]}" + (f" in {folder}" if folder else "")),
        *([] if result.given is None else [("given", result.given)]),
        ("rows", f"{result.n:,}"),
        ("HSIC", f"{result.statistic:.6g} ({result.estimator})"),
        *(
            [("CKA", "undefined" if result.cka is None else f"{result.cka:.6g}")]
            if result.given is None
            else []
        ),
        ("kernel", kernel + features),
    ]
    if result.interval is not None:
        facts.append(("interval", f"HSIC from {result.interval[0]:.6g} to {result.interval[1]:.6g}"))
    if result.p_value is not None:
        facts.append(("p", f"{result.p_value:.6g}"))
    return [*facts, ("seed", str(result.seed)), ("seconds", f"{result.seconds:.2f}")]


def p_text(p: float, permutations: int | None) -> str:
    """Write a p-value; with so many permutations none is smaller than 1 / (B + 1), which is written as a bound."""
    if permutations and p <= 1.000001 / (permutations + 1):
        return f"p <= {round_up(p):g}"
    return f"p = {p:.2g}"


def round_up(value: float) -> float:
    """Round up to two digits, or to one where that is as good."""
    power = 10.0 ** (math.floor(math.log10(value)) - 1)
    two = math.ceil(value / power - 1e-9) * power
    return float(f"{two:.2g}")


def short_number(value: float) -> str:
    """Write a figure with two or three digits."""
    return f"{value:.2f}" if 0.1 <= abs(value) < 100 else f"{value:.2g}"


def stars(p: float | None) -> str:
    """Mark p below 0.05, 0.01 and 0.001."""
    return "" if p is None or math.isnan(p) else "*" * sum(p <= limit for limit in (0.05, 0.01, 0.001))


def heat_map(matrix: Matrix, width: int, *, colour: bool) -> tuple[list[str], str]:
    """Draw a matrix as digits, on a ground of their colour: hundredths or tenths of the largest value, by what fits.

    Args:
        matrix: The values; those under 0 are shown as `-`, missing ones as `.`.
        width: Of the terminal.
        colour: Whether it has colours.

    Returns:
        The lines, and what their digits and numbers of columns mean.
    """
    from ordtool.independence.alignment import short_names

    rows, columns = short_names(matrix.rows)[1], short_names(matrix.columns)[1]
    named = any(not is_number(name) for name in [*rows, *columns])
    legend = ""
    if named:  # columns are too narrow for names
        legend = "; columns are numbered as rows are"
        if rows != columns:
            legend = f"; columns: {', '.join(f'{n} {name}' for n, name in enumerate(columns, 1))}"
        rows = [f"{name} {n:2}" for n, name in enumerate(rows, 1)] if rows == columns else rows
        columns = [str(n) for n in range(1, len(columns) + 1)]
    left = max(map(text_width, rows)) + 1
    room = next((size for size in (3, 2) if left + size * len(columns) <= width), 1)
    digits = 2 if room == 3 else 1
    finite = [value for value in matrix.cells.ravel().tolist() if value == value]
    top = 1.0 if matrix.value == "cka" else max([*finite, 0.0])
    drawn = [" " * left + _heads(columns, room)]
    for name, values in zip(rows, matrix.cells.tolist(), strict=True):
        cells = "".join(_heat_cell(value, top, digits, room, colour) for value in values)
        drawn.append(" " * (left - 1 - text_width(name)) + f"{name} {cells}")
    what = "hundredths" if digits == 2 else "tenths"
    of = "CKA" if matrix.value == "cka" else f"the largest HSIC, {top:.3g}"
    return drawn, f"{what} of {of}, rounded down; {'9' * digits} is the top; - is below 0{legend}"


def _heads(columns: Sequence[str], room: int) -> str:
    """Write every head, or every second, third, ..., so that they don't touch."""
    widest = max(map(len, columns))
    every = 1 if widest < room else -(-(widest + 1) // room)
    line = ""
    for index in range(0, len(columns), every):
        line = line.ljust(index * room) + columns[index].rjust(2 if room == 3 else 1)
    return line


def _heat_cell(value: float, top: float, digits: int, room: int, colour: bool) -> str:
    if value != value or top <= 0:
        return ("." if value != value else "0").rjust(digits) + " " * (room - digits)
    share = min(max(value / top, 0.0), 1.0)
    tenth = min(9, int(share * 10))
    number = "-" if value < 0 else str(min(10**digits - 1, int(share * 10**digits + 1e-9)))
    text = number.rjust(digits) + " " * (room - digits)
    ink = 16 if tenth >= len(RAMP) - 4 else 231
    return f"\x1b[48;5;{RAMP[tenth]};38;5;{ink}m{text}\x1b[0m" if colour else text


def _show_heat_map(matrix: Matrix, results: Sequence[HsicResult], width: int) -> None:
    from ordtool import console

    drawn, legend = heat_map(matrix, width, colour=console.stdout_has_colour())
    _say(_title(matrix, results, marked=False), width)
    console.print_drawing(drawn)
    _say(f"{legend}. --json gives every figure, --plot FILE draws them", width)


def _say(text: str, width: int) -> None:
    from ordtool import console

    for line in console.wrap_words(text, width):
        console.show(line)


def _title(matrix: Matrix, results: Sequence[HsicResult], *, marked: bool = True) -> str:
    from ordtool.independence.alignment import short_names

    left, right = short_names(matrix.rows)[0], short_names(matrix.columns)[0]
    what = "CKA" if matrix.value == "cka" else "HSIC"
    between = left if left == right else f"{left or 'left'} (down) and {right or 'right'} (across)"
    title = f"{what} of {between}" if between else what
    legend = ", * p <= 0.05, ** 0.01, *** 0.001 (Holm)" if marked and results[0].p_value is not None else ""
    return f"{title}, n = {results[0].n:,}{legend}"


def _matrix_table(matrix: Matrix) -> tuple[list[str], list[list[str]]]:
    from ordtool.independence.alignment import short_names

    names, columns = short_names(matrix.rows)[1], short_names(matrix.columns)[1]
    cells = [
        [name, *(_cell(value, p) for value, p in zip(values, ps, strict=True))]
        for name, values, ps in zip(names, matrix.cells.tolist(), matrix.p_values.tolist(), strict=True)
    ]
    return ["", *columns], cells


def _list_table(results: Sequence[HsicResult], measures: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    from ordtool.independence.alignment import short_names

    given = list(dict.fromkeys(name for result in results for name in (result.x, result.y)))
    short = dict(zip(given, short_names(given)[1], strict=True))
    tested = results[0].p_adjusted is not None
    rows = []
    for result in results:
        figures = {"HSIC": result.statistic, "CKA": result.cka}
        row = [short[result.x], short[result.y], *(_cell(figures[measure]) for measure in measures)]
        p = result.p_adjusted
        rows.append([*row, *([f"{p:.2g}{stars(p)}"] if p is not None else [])])
    return ["x", "y", *measures, *(["adjusted p"] if tested else [])], rows


def _cell(value: float | None, p_value: float | None = None) -> str:
    if value is None or value != value:
        return "-"
    return (f"{value:.3f}" if abs(value) >= 0.01 or value == 0 else f"{value:.1e}") + stars(p_value)
