"""How long until the first token: of a new process on a terminal, and of a generator that is loaded.

A terminal gets text as it is written, so the first byte that a pseudo-terminal gets is the first token. For comparison,
how long a new process takes to import torch, and transformers' base of all models. Processor seconds (user and system)
are those of the whole process, eight tokens and the end included; on a machine that others use too they say more than
the clock does. The first run of each model is not counted: it writes .pyc files and fetches the others into memory.
Linux and macOS.

    python benchmarks/first_token.py tinylm smollm2
    python benchmarks/first_token.py smollm2 --options='--beams 2'     # by transformers' own model and generate
"""

import argparse
import json
import os
import pty
import shlex
import subprocess
import sys
import time

PROMPT = "The capital of France is"


# Where no .pyc files may be written every start compiles all it imports, which is no warm one.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def started(command: list[str]) -> tuple[float, float]:
    """Give seconds from the start of a process to its first byte on a terminal, and its processor seconds in all."""
    master, slave = pty.openpty()
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=slave, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT
    )
    os.close(slave)
    os.read(master, 1)
    seconds = time.perf_counter() - start
    try:
        while os.read(master, 1000):
            pass
    except OSError:
        pass  # Linux says so at the end
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{shlex.join(command)} failed")
    return seconds, usage.ru_utime + usage.ru_stime


def loaded(name: str) -> float:
    """Give seconds to the first piece of text of a generator that wrote before."""
    from ordtool.generation.config import Decoding
    from ordtool.generation.engine import TextGenerator
    from ordtool.generation.prompts import PromptStyle
    from ordtool.io.text import Record
    from ordtool.models.resolve import resolve_model

    writer = TextGenerator(resolve_model(name), device="cpu", fast_start=True)
    seconds = 0.0
    for _ in range(3):
        pieces: list[float] = []
        start = time.perf_counter()
        stream = writer.stream(
            [Record("x", 1, PROMPT)],
            Decoding(max_new_tokens=8),
            PromptStyle(chat=False),
            write=lambda text, pieces=pieces: pieces.append(time.perf_counter()),
        )
        list(stream)
        seconds = pieces[0] - start
    return seconds


def main() -> None:
    """Measure and print one JSON line a model, and one of imports."""
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--options", default="--no-chat", help="further options of ordtool generate")
    args = parser.parse_args()
    for name in args.models:
        command = [sys.executable, "-m", "ordtool", "generate", "-m", name, "-p", PROMPT]
        command += ["--max-new-tokens", "8", "-q", "--device", "cpu", *shlex.split(args.options)]
        seconds, busy = zip(*[started(command) for _ in range(args.runs + 1)][1:], strict=True)
        row = {
            "model": name,
            "process_seconds": sorted(round(s, 2) for s in seconds),
            "processor_seconds": sorted(round(s, 2) for s in busy),
        }
        print(json.dumps({**row, "loaded_seconds": round(loaded(name), 3)}), flush=True)
    for code in ("import torch", "import torch, transformers.modeling_utils"):
        times = []
        for _ in range(args.runs + 1):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, env=ENVIRONMENT)
            times.append(round(time.perf_counter() - start, 2))
        print(json.dumps({"code": code, "seconds": sorted(times[1:])}), flush=True)


if __name__ == "__main__":
    main()
