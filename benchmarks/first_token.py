"""How long until the first token: of a new process on a terminal, and of a generator that is loaded.

A terminal gets text as it is written, so the first byte that a pseudo-terminal gets is the first token. For comparison,
how long a new process takes to import torch, and transformers' base of all models. Linux and macOS.

    python benchmarks/first_token.py tinylm smollm2
"""

import argparse
import json
import os
import pty
import subprocess
import sys
import time

PROMPT = "The capital of France is"


def started(command: list[str]) -> float:
    """Give seconds from the start of a process to its first byte on a terminal."""
    master, slave = pty.openpty()
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=slave, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(slave)
    os.read(master, 1)
    seconds = time.perf_counter() - start
    try:
        while os.read(master, 1000):
            pass
    except OSError:
        pass  # Linux says so at the end
    process.wait()
    return seconds


def loaded(name: str) -> float:
    """Give seconds to the first piece of text of a generator that wrote before."""
    from ordtool.generation.config import Decoding
    from ordtool.generation.engine import TextGenerator
    from ordtool.generation.prompts import PromptStyle
    from ordtool.io.text import Record
    from ordtool.models.catalog import resolve_model

    writer = TextGenerator(resolve_model(name), device="cpu")
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
    args = parser.parse_args()
    for name in args.models:
        command = [sys.executable, "-m", "ordtool", "generate", "-m", name, "-p", PROMPT, "--no-chat"]
        command += ["--max-new-tokens", "8", "-q", "--device", "cpu"]
        seconds = sorted(started(command) for _ in range(args.runs + 1))[: args.runs]  # the first warms up
        row = {"model": name, "process_seconds": [round(s, 2) for s in seconds]}
        print(json.dumps({**row, "loaded_seconds": round(loaded(name), 3)}), flush=True)
    for code in ("import torch", "import torch, transformers.modeling_utils"):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        print(json.dumps({"code": code, "seconds": round(time.perf_counter() - start, 2)}))


if __name__ == "__main__":
    main()
