"""`ordtool extrapolate --explain`: what a model's frequencies are, and what methods make of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ordtool.extrapolation.comparison import ExtrapolateConfig
    from ordtool.extrapolation.explanation import Explanation
    from ordtool.progress import Progress


def write_explanation(
    config: ExtrapolateConfig,
    inputs: Sequence[str] | None,
    output: Path | None,
    plot: Path | None,
    *,
    json: bool,
    force: bool,
    progress: Progress,
) -> None:
    """Show what `explain` finds: on the terminal, or as a JSON object; and draw it."""
    from ordtool.console import stdout_is_terminal
    from ordtool.errors import UsageError
    from ordtool.extrapolation.explanation import explain
    from ordtool.extrapolation.plot import draw_turns
    from ordtool.io.atomic import atomic_output, check_output
    from ordtool.io.formats import output_format
    from ordtool.io.jsonl import dumps
    from ordtool.plotting import check_plot

    if inputs:
        raise UsageError("--explain reads no text", "leave out the files")
    output_format(output, ("jsonl",), "jsonl" if json else None)
    for path in (output, plot):
        check_output(path, force=force)
    format = "" if plot is None else check_plot(plot)
    explanation = explain(config, progress=progress)
    if stdout_is_terminal() and output is None and not json:
        show_explanation(explanation)
    else:
        with atomic_output(output, force=force) as file:
            file.write(dumps(explanation.to_dict()).encode() + b"\n")
    if plot is not None:
        with atomic_output(plot, force=force) as file:
            draw_turns(file, format, explanation)
        progress.note(f"drawn: {plot}")


def show_explanation(explanation: Explanation) -> None:
    """Print the frequencies, the methods and what they mean, on stdout."""
    from ordtool import console
    from ordtool.extrapolation.explanation import lines_of

    changing = [
        effect for effect in explanation.effects if len(set(effect.slowed)) > 1 or effect.slowed[0] != 1
    ]
    rows = [
        [
            pair.number,
            f"{pair.frequency:.3g}",
            f"{pair.wavelength:,.0f}" if pair.wavelength < 1e12 else "-",
            f"{pair.turns:.3g}" if pair.turns < 100 else f"{pair.turns:,.0f}",
            "" if pair.complete else "never",
            *(f"{effect.slowed[pair.number]:.2f}" for effect in changing),
        ]
        for pair in explanation.pairs
    ]
    heads = ["pair", "radians a token", "tokens a turn", "turns in training", "full turn"]
    heads += [f"{effect.method}: slower by" for effect in changing]
    console.print_table(f"{explanation.model}: what turns", heads, rows, to_stderr=False)
    rows = [
        [
            effect.method,
            f"{effect.furthest:,.0f}",
            f"{effect.keys:,}",
            f"{len(effect.unseen)} of {len(effect.slowed)}",
            f"{effect.scale:.3f}",
        ]
        for effect in explanation.effects
    ]
    title = f"the last of {explanation.length:,} tokens"
    heads = ["method", "furthest distance", "keys seen", "pairs beyond training", "scores times"]
    console.print_table(title, heads, rows, to_stderr=False)
    for line in lines_of(explanation):
        console.show(line)
