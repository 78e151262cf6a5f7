"""Everything that a GPU makes fast, ours and peers in turn: one command, under 150 seconds on an H100.

    python benchmarks/gpu.py [--sections embed,spans,whiten,extrapolate_65k] [--json gpu.json]
    python benchmarks/gpu.py --toy                 # toy sizes, on a CPU too: does it run at all?

Every section is a module of `gpu_sections`; they run in the order in which they are named. One that fails says so and the
others go on. Weights are random where only speed matters, at the shapes of the models that people use; accuracy is the
tests' business (`pytest -m gpu`). The JSON holds the rows that are printed, and is written anew after each section.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import sys
import time
import traceback
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from gpu_sections.measure import Bench, Row  # noqa: E402

FOLDER = Path(__file__).parent / "gpu_sections"
SECTIONS = tuple(sorted(path.stem for path in FOLDER.glob("[a-z]*.py") if path.stem != "measure"))


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for; the number of sections that failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sections", default=",".join(SECTIONS), help=f"Of {', '.join(SECTIONS)}, with commas between them."
    )
    parser.add_argument("--toy", action="store_true", help="Toy sizes.")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="Where the rows are written too.")
    options = parser.parse_args(arguments)
    sections = options.sections.split(",")
    if unknown := set(sections) - set(SECTIONS):
        parser.error(f"unknown sections {sorted(unknown)}; there are {', '.join(SECTIONS)}")
    bench = Bench.on(options.device, toy=options.toy)
    machine = describe(bench)
    print(json.dumps(machine), flush=True)
    rows: list[Row] = []
    failed: dict[str, str] = {}
    seconds: dict[str, float] = {}
    for name in sections:
        start = time.perf_counter()
        try:
            for row in importlib.import_module(f"gpu_sections.{name}").rows(bench):
                print(json.dumps(asdict(row)), flush=True)
                rows.append(row)
        except Exception as error:  # the others shall be measured all the same
            traceback.print_exc()
            failed[name] = f"{type(error).__name__}: {error}"
        bench.free()
        seconds[name] = round(time.perf_counter() - start, 1)
        if options.json:
            record = {
                "machine": machine,
                "seconds": seconds,
                "failed": failed,
                "rows": list(map(asdict, rows)),
            }
            options.json.write_text(json.dumps(record, indent=1) + "\n")
    print(table(rows))
    print("seconds:", ", ".join(f"{name} {spent}" for name, spent in seconds.items()))
    for name, message in failed.items():
        print(f"failed: {name}: {message}")
    return len(failed)


def describe(bench: Bench) -> dict[str, str]:
    """The machine and the versions that matter."""
    import torch
    import transformers

    name = torch.cuda.get_device_name(bench.device) if bench.cuda else platform.processor() or "CPU"
    return {
        "device": name,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def table(rows: list[Row]) -> str:
    """A Markdown table; `beside` is how many times faster a system is than the first one measured at the same work."""
    lines = ["", "| section | work | system | measured | beside the first | |", "|---|---|---|---|---|---|"]
    for _, group in groupby(rows, key=lambda row: (row.section, row.work)):
        first: Row | None = None
        for row in group:
            first = first or row
            ratio = first.value / row.value if row.unit.startswith("s") else row.value / first.value
            digits = 4 if row.value < 10 else 0
            measured = f"{row.value:,.{digits}f} {row.unit}"
            lines.append(
                f"| {row.section} | {row.work} | {row.system} | {measured} | {ratio:.2f} | {row.note} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
