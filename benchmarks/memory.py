"""Resident memory of a command while lines come through a pipe: it should stay flat, however many they are.

    python benchmarks/memory.py embed predict parse generate --lines 1000000

A program writes lines of 5 to 12 words, drawn from 20,000 made-up ones, into the command's standard input; this one counts
what comes out, and looks at the command's memory when a tenth, half and (nearly) all of the lines are done. `--fresh` draws
words that hardly ever come twice.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CONSONANTS, VOWELS = "bdfghklmnprstvwz", "aeiou"
WORDS = 20_000
COMMANDS = {
    "embed": ["embed", "-", "-m", "static", "--json"],
    "predict": ["predict", "-", "-m", "MODEL", "--embed-model", "static", "--json"],
    "parse": ["parse", "-", "--json", "--workers", "1"],
    "generate": ["generate", "-", "-m", "tinylm", "--max-new-tokens", "1", "--json"],
}
SHARES = (0.1, 0.5, 1.0)


def make_word(rng: random.Random, syllables: int) -> str:
    """Return a word that can be spoken."""
    return "".join(rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(syllables))


def make_lines(count: int, fresh: bool) -> Iterator[str]:
    """Yield lines of words, always the same ones."""
    rng = random.Random(0)
    words = list(dict.fromkeys(make_word(rng, 2 + k % 2) for k in range(4 * WORDS)))[:WORDS]
    for _ in range(count):
        length = rng.randint(5, 12)
        drawn = [make_word(rng, 4) for _ in range(length)] if fresh else rng.choices(words, k=length)
        yield f"{' '.join(drawn)} .\n"


def train_classifier(folder: Path) -> Path:
    """Train a classifier of static vectors on lines that were drawn for it."""
    pairs = [(line.strip(), k % 2) for k, line in enumerate(make_lines(200, fresh=False))]
    (folder / "texts.txt").write_text("".join(f"{line}{' good' * label}\n" for line, label in pairs))
    (folder / "labels.jsonl").write_text("".join(json.dumps({"label": str(k)}) + "\n" for _, k in pairs))
    run = [sys.executable, "-m", "ordtool", "train", "bottleneck", "texts.txt", "labels.jsonl", "-o", "model"]
    subprocess.run([*run, "--embed-model", "static", "--methods", "linear", "-q"], cwd=folder, check=True)
    return folder / "model"


def resident(process: subprocess.Popen[bytes]) -> int | None:
    """Return the resident memory of a process, in MB; None if it has ended."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(
        (round(int(line.split()[1]) * 1024 / 1e6) for line in lines if line.startswith("VmRSS")), None
    )


def measure(name: str, lines: int, fresh: bool, model: Path) -> dict[str, Any]:
    """Run a command, and look at its memory on the way."""
    maker = [sys.executable, __file__, "--write", "--lines", str(lines), *(["--fresh"] if fresh else [])]
    command = [str(model) if word == "MODEL" else word for word in COMMANDS[name]]
    writer = subprocess.Popen(maker, stdout=subprocess.PIPE)
    process = subprocess.Popen(
        [sys.executable, "-m", "ordtool", *command, "-q"], stdin=writer.stdout, stdout=subprocess.PIPE
    )
    assert writer.stdout is not None and process.stdout is not None
    writer.stdout.close()
    # The last lines come when the process ends: they are looked at a little before.
    marks = [max(1, round(lines * share) - max(1, lines // 200)) for share in SHARES]
    found, done = [], 0
    for _ in process.stdout:
        done += 1
        if done in marks:
            found.append(resident(process))
    _, status, usage = os.wait4(process.pid, 0)
    if status or writer.wait() or done != lines:
        raise SystemExit(f"{name}: status {status}, {done:,} of {lines:,} lines")
    row = {"command": name, "lines": lines, "fresh": fresh, "resident_mb": found}
    return row | {"peak_mb": round(usage.ru_maxrss * 1024 / 1e6), "user_seconds": round(usage.ru_utime)}


def main() -> None:
    """Measure, and print a table and one JSON line a row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commands", nargs="*", choices=[*COMMANDS, []], default=[])
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--fresh", action="store_true", help="words that hardly ever come twice")
    parser.add_argument("--write", action="store_true", help="write the lines themselves to stdout")
    args = parser.parse_args()
    if args.write:
        sys.stdout.writelines(make_lines(args.lines, args.fresh))
        return
    rows = []
    print("| command | lines | 10% | 50% | 100% | peak |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        model = train_classifier(Path(folder)) if "predict" in args.commands else Path()
        for name in args.commands:
            rows.append(row := measure(name, args.lines, args.fresh, model))
            cells = [f"`{name}`", f"{args.lines:,}", *row["resident_mb"], row["peak_mb"]]
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
    for row in rows:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
