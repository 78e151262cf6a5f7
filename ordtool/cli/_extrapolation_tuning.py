"""`ordtool extrapolate --tune`: a method's parameters chosen on a text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ordtool.extrapolation.comparison import ExtrapolateConfig
    from ordtool.extrapolation.texts import Text
    from ordtool.progress import Progress


def is_searched(method: str) -> bool:
    """Whether what is found is too long for a command line, so that a file takes it."""
    return method == "longrope" or method.partition(":")[0] == "dpe"


def tune_to_file(
    method: str,
    config: ExtrapolateConfig,
    texts: list[Text],
    factors: Path | None,
    *,
    force: bool,
    progress: Progress,
) -> None:
    """Search longrope's factors or dpe's lengths, write them to a file, and print the method with that file."""
    from ordtool import console
    from ordtool.errors import UsageError
    from ordtool.extrapolation.dpe_search import search_groups
    from ordtool.extrapolation.longrope_search import search_factors
    from ordtool.io.atomic import atomic_output, check_output
    from ordtool.io.jsonl import dumps

    if factors is None:
        raise UsageError(f"--tune {method} writes a file", "name it: --factors factors.json")
    check_output(factors, force=force)
    if method == "longrope":
        found = search_factors(texts, config, progress=progress)
        losses, checked, parameter = found.losses, found.checked, "factors"
        content: dict[str, object] = {"long_factor": list(found.factors)}
    else:
        groups = search_groups(texts, method, config, progress)
        losses, checked, parameter = groups.losses, groups.checked, "lengths"
        content = {"lengths": groups.lengths, "key_pairs": groups.key_pairs}
    rows = [[name, f"{loss:.4f}", f"{checked[name]:.4f}"] for name, loss in losses.items()]
    console.print_table(method, [parameter, "loss", "on the other windows"], rows, to_stderr=True)
    with atomic_output(factors, force=force) as file:
        file.write(dumps(content).encode() + b"\n")
    console.show(f"{method}:{parameter}={factors}")


def tune_parameters(
    method: str,
    config: ExtrapolateConfig,
    texts: list[Text],
    output: Path | None,
    *,
    force: bool,
    progress: Progress,
) -> None:
    """Choose parameters, and print the method with them; `output` takes all that was tried, as JSON lines."""
    from dataclasses import asdict

    from ordtool import console
    from ordtool.extrapolation.tuning import tune_on
    from ordtool.io.atomic import atomic_output
    from ordtool.io.jsonl import dumps

    tuned = tune_on(texts, method, config, progress)
    best = min(tuned.tried, key=lambda candidate: candidate.rank)
    heads = ["tried", "loss", *(["found %"] if config.task else [])]
    rows = [
        [one.method + (" *" if one is best else ""), f"{one.loss:.4f}",
         *([f"{100 * (one.found or 0):.0f}"] if config.task else [])]
        for one in tuned.tried
    ]  # fmt: skip
    console.print_table(f"{method}: every other window", heads, rows, to_stderr=True)
    console.note(
        f"on the other windows: {tuned.default.loss:.4f} with the defaults, "
        f"{tuned.checked.loss:.4f} with {tuned.checked.method}"
    )
    if output is not None:
        with atomic_output(output, force=force) as file:
            for one in tuned.tried:
                row = {key: value for key, value in asdict(one).items() if value is not None}
                file.write(dumps(row).encode() + b"\n")
    console.show(tuned.method)
