"""Peak memory of `ordtool embed` over longer and longer inputs: it should stay flat.

    python benchmarks/embed_memory.py [--lines 10000 100000 1000000] [--model static]

Every run is a process of its own on a file of short lines (4-12 words). Needs ORDTOOL_DATA (text/ewt.txt).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

DATA = Path(os.environ.get("ORDTOOL_DATA", "data"))


def write_lines(path: Path, count: int) -> None:
    """Cut short pieces out of running text."""
    words = (DATA / "text/ewt.txt").read_text(encoding="utf-8").split()
    generator = random.Random(0)
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(count):
            start = generator.randrange(len(words) - 12)
            file.write(" ".join(words[start : start + generator.randint(4, 12)]) + "\n")


def measure(source: Path, model: str) -> tuple[float, float]:
    """Run the command; peak resident memory in MB, and CPU seconds."""
    output = source.with_suffix(".npy")
    command = [sys.executable, "-m", "ordtool", "embed", "-q", "-m", model, str(source), "-o", str(output)]
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure and print a table, and one JSON line a row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--model", default="static")
    args = parser.parse_args()
    rows = []
    print("| lines | peak MB | CPU seconds | lines a CPU second |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for count in args.lines:
            source = Path(folder) / f"{count}.txt"
            write_lines(source, count)
            peak, cpu = measure(source, args.model)
            print(f"| {count:,} | {peak:.0f} | {cpu:.1f} | {count / cpu:,.0f} |", flush=True)
            rows.append({"model": args.model, "lines": count, "peak_mb": peak, "cpu_seconds": cpu})
            for file in Path(folder).iterdir():
                file.unlink()
    for row in rows:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
