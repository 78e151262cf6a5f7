"""The same work by one process, by two, and by two actors of Ray: are the bytes equal, and what does it cost?

    python benchmarks/scale.py                             # 200,000 lines; the figures of docs/scale.md
    python benchmarks/scale.py --lines 20000 --only parse kill

Lines are made up: words of `examples/story.txt` in random order, each line another. Each row says the seconds of the whole
command, its start included, the peak memory of the driver and the SHA-256 of the output; `kill` kills an actor, and a
driver, by their process ids in the middle of the work.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

STORY = Path(__file__).parent.parent / "examples" / "story.txt"
WAYS = {
    "one process": [],
    "2 processes": ["--workers", "2"],
    "2 Ray actors": ["--ray", "--workers", "2"],
}


def write_lines(path: Path, count: int) -> None:
    generator = random.Random(0)
    words = re.findall(r"[a-z]+", STORY.read_text().lower())
    with path.open("w") as file:
        for number in range(count):
            line = " ".join(generator.choices(words, k=generator.randrange(4, 22)))
            file.write(f"{line.capitalize()} {number}.\n")


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "ordtool", *map(str, words), "-q"]


def memory_of(pid: int) -> float:
    """Megabytes at the peak so far."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"VmHWM:\s+(\d+)", status)
    return int(found[1]) / 1024 if found else 0.0


def run(words: list[str], folder: Path) -> dict[str, float]:
    """Run to the end, and measure."""
    begin, peak = time.perf_counter(), 0.0
    with subprocess.Popen(words, cwd=folder) as process:
        while process.poll() is None:
            peak = max(peak, memory_of(process.pid))
            time.sleep(0.05)
    if process.returncode:
        sys.exit(f"{' '.join(words)}: ended with {process.returncode}")
    return {"seconds": round(time.perf_counter() - begin, 1), "driver_mb": round(peak)}


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def jobs(lines: int, records: int) -> dict[str, tuple[int, list[str], str]]:
    """Lines, the command's words but for inputs and outputs, and the output's suffix."""
    return {
        "embed": (lines, ["embed", "-m", "static"], "npy"),
        "parse": (lines, ["parse", "--threads", "2"], "jsonl"),
        "generate": (
            records,
            ["generate", "-m", "tinylm", "--max-new-tokens", "8", "--threads", "2"],
            "jsonl",
        ),
        "predict": (records, ["predict", "-m", "sorter", "--threads", "2"], "jsonl"),
    }


def compare(name: str, lines: int, records: int, folder: Path) -> Iterator[dict[str, object]]:
    count, words, suffix = jobs(lines, records)[name]
    write_lines(folder / "lines.txt", count)
    for way, options in WAYS.items():
        output = folder / f"out.{suffix}"
        found = run(command(*words, "lines.txt", "-o", output.name, "--force", *options), folder)
        yield {"job": name, "lines": count, "way": way, **found, "sha256": digest(output)[:16]}
        output.unlink()


def actors(driver: int) -> list[int]:
    """The processes of Ray's actors that hold a model, below a driver."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal():
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                names[int(entry.name)] = (entry / "cmdline").read_bytes()
        except OSError:
            continue

    def below(pid: int) -> bool:
        while pid > 1 and pid != driver:
            pid = parents.get(pid, 0)
        return pid == driver

    return [pid for pid, name in names.items() if b"ray::_Actor" in name and below(pid)]


def kills(lines: int, folder: Path) -> Iterator[dict[str, object]]:
    """Kill an actor, and drivers, in the middle of parsing, and resume with and without Ray."""
    write_lines(folder / "lines.txt", lines)
    words = ["parse", "lines.txt", "--format", "brackets", "--threads", "2"]
    run(command(*words, "-o", "whole"), folder)
    whole = digest(folder / "whole")
    ray = ["--ray", "--workers", "2"]
    with subprocess.Popen(
        command(*words, "-o", "actor", *ray), cwd=folder, start_new_session=True
    ) as process:
        wait_for(folder / "actor.partial", process)
        os.kill(actors(process.pid)[0], signal.SIGKILL)
    yield {
        "job": "an actor is killed",
        "equal": digest(folder / "actor") == whole,
        "status": process.returncode,
    }
    for way, options in (("resumed without Ray", []), ("resumed with Ray", ray)):
        output = folder / "driver"
        with subprocess.Popen(
            command(*words, "-o", "driver", *ray), cwd=folder, start_new_session=True
        ) as process:
            wait_for(folder / "driver.partial", process)
            living = actors(process.pid)
            os.kill(process.pid, signal.SIGKILL)
        left = until_gone(living)
        kept = (folder / "driver.partial").stat().st_size
        run(command(*words, "-o", "driver", "--resume", *options), folder)
        size = output.stat().st_size
        equal = digest(output) == whole
        yield {
            "job": f"the driver is killed, {way}",
            "equal": equal,
            "done_before": round(kept / size, 2),
            "orphans": left,
        }
        output.unlink()


def wait_for(partial: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until something of an output is there."""
    while process.poll() is None and not (partial.exists() and partial.stat().st_size > 50_000):
        time.sleep(0.05)


def until_gone(pids: list[int], most: float = 60) -> int:
    """Wait until none of these processes is left, and return how many are."""
    end = time.monotonic() + most
    while (left := sum(Path(f"/proc/{pid}").exists() for pid in pids)) and time.monotonic() < end:
        time.sleep(0.2)
    return left


def starts() -> Iterator[dict[str, object]]:
    """What it takes to start workers: a command on one line."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "lines.txt").write_text("A line.\n")
        for model in ("embed -m static", "parse"):
            for way, options in WAYS.items():
                few = [option.replace("2", "1") for option in options]
                found = run(command(*model.split(), "lines.txt", "-o", "out", "--force", *few), folder)
                yield {"job": f"start: {model}", "way": way.replace("2", "1"), **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=200_000)
    parser.add_argument("--records", type=int, default=2_000)
    parser.add_argument("--kill-lines", type=int, default=20_000)
    names = ["embed", "parse", "generate", "predict", "kill", "start"]
    parser.add_argument("--only", nargs="*", choices=names, default=names)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault(
        "RAY_worker_niceness", "0"
    )  # else 15: fair on a machine that does nothing else, and only there
    packages = " ".join(f"{name} {version(name)}" for name in ("ray", "torch", "transformers"))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {packages}")
    print(f"load when it began: {os.getloadavg()[0]:.1f}", flush=True)
    with tempfile.TemporaryDirectory(dir=os.environ.get("ORDTOOL_SCRATCH")) as name:
        folder = Path(name)
        if "predict" in options.only:
            examples = STORY.parent / "questions.jsonl"
            train = [
                "train",
                "bottleneck",
                examples,
                "--embed-model",
                "static",
                "--epochs",
                "5",
                "--runs",
                "1",
            ]
            run(command(*train, "-o", "sorter"), folder)
        for part in options.only:
            rows = (
                kills(options.kill_lines, folder)
                if part == "kill"
                else starts()
                if part == "start"
                else compare(part, options.lines, options.records, folder)
            )
            for row in rows:
                print(json.dumps(row | {"load": round(os.getloadavg()[0], 1)}), flush=True)


if __name__ == "__main__":
    main()
