# ruff: noqa: E501, T201
"""Record what the commands print and write over `examples/`, and compare two such records.

    python tests/record_outputs.py record before.json
    python tests/record_outputs.py compare before.json after.json

It is for changes that must not change results: record, change the code, record again, compare. Numbers may differ by
1e-6, everything else must be equal; times and memory are left out. A record holds, for each command, its exit status, and
for stdout and each file written a hash of the text without its numbers, and the numbers. stderr speaks to people and isn't
compared.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TOLERANCE = 1e-6
NUMBER = re.compile(r"(?<![\w.])-?\d+\.\d+(?:[eE][-+]?\d+)?|(?<![\w.])-?\d+[eE][-+]\d+")
# What no two runs share.
TIMED = re.compile(r'"\w*(?:seconds|memory|peak|per_second)\w*": ?[^,}\]]+')
SKIPPED = {"training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"}

# One line of shell each, in order: later ones read what earlier ones wrote.
COMMANDS = """
ordtool parse examples/sentences.txt
ordtool parse examples/sentences.txt --format tree --width 100
ordtool parse examples/sentences.txt --format penn
ordtool parse examples/sentences.txt -o sentences.svg
ordtool parse examples/sentences.txt -o t.brackets
ordtool parse -m english-onlstm --builder chart examples/sentences.jsonl
ordtool parse -m english-onlstm --builder paper --no-marks --tilt 0 --layer 2 examples/sentences.txt
ordtool parse -m english -m english-onlstm examples/notes.txt
ordtool parse --split examples/story.txt --format brackets
ordtool parse --tokenized < examples/sentences.txt
ordtool parse examples/sentences.txt --format penn -o gold.mrg
ordtool parse -m english-onlstm gold.mrg -o predicted.jsonl
ordtool score trees predicted.jsonl gold.mrg --json
ordtool score trees predicted.jsonl gold.mrg --no-baselines --json
ordtool embed -m static examples/questions.jsonl -o v.npy
ordtool embed -m static examples/notes.txt --json
ordtool embed -m static --whiten --dims 8 examples/questions.jsonl -o w8.npy
ordtool whiten v.npy --dims 8 --save t.safetensors -o w.npy
ordtool whiten --transform t.safetensors v.npy -o again.npy
ordtool whiten v.npy --method zca --ridge 0.01 -o zca.npy
ordtool hsic v.npy w.npy --json
ordtool hsic w.npy examples/questions.jsonl --label-field label --json
ordtool hsic v.npy w.npy --test gamma --cka --estimator normalized --json
ordtool hsic v.npy w.npy --test aggregated --json
ordtool hsic v.npy w8.npy zca.npy --test none --cka --json
printf 'A cat sat.\\tA cat was sitting.\\t4.5\\nA dog ran.\\tIt rains.\\t0.5\\nHe reads.\\tHe is reading a book.\\t3.5\\n' > sts.tsv; ordtool score similarity -m static sts.tsv --json
printf 'The captain\\nMy dear sir\\n' | ordtool generate -m tinylm --max-new-tokens 12
printf 'The captain\\nMy dear sir\\n' | ordtool generate -m tinylm --max-new-tokens 12 --temperature 0.8 --top-p 0.9 --seed 3
ordtool generate -m tinylm -p 'The captain' --beams 3 --max-new-tokens 8 --json
ordtool generate -m tinylm -p 'The sea was' --choices 'calm,angry,a horse' --json
ordtool generate -m tinylm -p 'The captain' --max-new-tokens 6 --logprobs --json
ordtool generate --show-mask prefix
ordtool extrapolate examples/story.txt --methods none,ntk,yarn,rerope --lengths 1x,2x --json
ordtool extrapolate examples/story.txt --methods none,rerope+logn --lengths 1x,2x --by-position --bins 4 --json
ordtool train lm examples/story.txt -o lm --steps 12 --eval-every 6 --layers 2 --hidden 32 --heads 2 --context 32 --vocab-size 300 --batch-size 2 --device cpu --threads 1
ordtool generate -m lm -p 'The clock' --max-new-tokens 8 --json
ordtool train lm examples/story.txt -o alibi --positions alibi --talking-heads --steps 6 --layers 2 --hidden 32 --heads 2 --context 32 --vocab-size 300 --batch-size 2 --device cpu --threads 1
ordtool train parser examples/story.txt -o parser --epochs 1 --device cpu --threads 1 --hidden 40 --embedding 20 --chunk 4
ordtool parse -m parser examples/sentences.txt
ordtool train bottleneck w.npy examples/questions.jsonl --label-field label -o net --epochs 2 --device cpu --threads 1
ordtool predict -m net w.npy
ordtool train ladder examples/questions.jsonl -m tinylm -o ladder --epochs 1 --device cpu --threads 1 --dtype float32
ordtool predict -m ladder examples/questions.jsonl
printf '{"source": "a cat", "target": "A CAT"}\\n{"source": "a dog", "target": "A DOG"}\\n{"source": "a cow", "target": "A COW"}\\n' > pairs.jsonl; ordtool train seq2seq pairs.jsonl -m tinylm -o s2s --epochs 1 --device cpu --threads 1
printf 'a b c d\\na b d\\n' > hyp.txt; printf 'a b c d\\na c d\\n' > ref.txt; ordtool score text hyp.txt ref.txt --json
ordtool models list
ordtool --version
""".strip().splitlines()


def describe(data: bytes, name: str) -> dict[str, Any]:
    """Split the data of a file or stream into a hash of its text and the numbers in it."""
    if data[:6] == b"\x93NUMPY":
        import io

        import numpy as np

        array = np.load(io.BytesIO(data), allow_pickle=False)
        return {"text": f"{array.dtype} {array.shape}", "numbers": array.astype(float).ravel().tolist()}
    if name.endswith(".safetensors"):
        from safetensors.numpy import load

        arrays = sorted(load(data).items())
        numbers = [number for _, array in arrays for number in array.astype(float).ravel().tolist()]
        return {"text": str([(key, array.shape) for key, array in arrays]), "numbers": numbers}
    text = TIMED.sub("", data.decode(errors="replace"))
    numbers = [float(number) for number in NUMBER.findall(text)]
    return {"text": hashlib.sha256(NUMBER.sub("#", text).encode()).hexdigest()[:16], "numbers": numbers}


def record() -> dict[str, Any]:
    """Run all commands in a fresh folder and describe what each prints and writes."""
    python = os.path.dirname(sys.executable)
    env = {key: value for key, value in os.environ.items() if not key.startswith("ORDTOOL_")}
    env |= {"PATH": f"{python}:{env['PATH']}", "HF_HUB_OFFLINE": "1", "COLUMNS": "100", "NO_COLOR": "1"}
    env |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        env["XDG_CACHE_HOME"] = str(work / ".cache")
        shutil.copytree(ROOT / "examples", work / "examples")
        known: dict[Path, float] = {path: path.stat().st_mtime for path in work.rglob("*")}
        for line in COMMANDS:
            done = subprocess.run(["bash", "-c", line], cwd=work, env=env, capture_output=True, check=False)
            found: dict[str, Any] = {"status": done.returncode, "stdout": describe(done.stdout, "stdout")}
            for path in sorted(work.rglob("*")):
                inside = path.relative_to(work).as_posix()
                if path.is_dir() or inside.startswith(".cache") or path.name in SKIPPED:
                    continue
                if known.get(path) != path.stat().st_mtime:
                    known[path] = path.stat().st_mtime
                    found[inside] = describe(path.read_bytes(), path.name)
            results[line] = found
            print(done.returncode, line[:100], file=sys.stderr)
            if done.returncode:
                print(done.stderr.decode()[-500:], file=sys.stderr)
    return results


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """List what differs between two records, a line each."""
    lines = []
    for command, old in before.items():
        new = after.get(command, {"status": "not run"})
        for what in sorted(old.keys() | new.keys()):
            left, right = old.get(what), new.get(what)
            if isinstance(left, dict) and isinstance(right, dict):
                if left["text"] != right["text"] or len(left["numbers"]) != len(right["numbers"]):
                    lines.append(f"{command[:80]}: {what}: the text differs")
                    continue
                gaps = [
                    abs(a - b) / max(1.0, abs(a))
                    for a, b in zip(left["numbers"], right["numbers"], strict=True)
                    if not (math.isnan(a) and math.isnan(b)) and a != b
                ]
                if gaps and not max(gaps) <= TOLERANCE:
                    lines.append(f"{command[:80]}: {what}: numbers differ by {max(gaps):.1e}")
            elif left != right:
                lines.append(f"{command[:80]}: {what}: {_short(left)} -> {_short(right)}")
    return lines


def _short(value: object) -> object:
    return "present" if isinstance(value, dict) else value


def main(argv: list[str]) -> int:
    """Run `record FILE` or `compare BEFORE AFTER`; the exit status is 1 where records differ."""
    if argv[:1] == ["record"] and len(argv) == 2:
        Path(argv[1]).write_text(json.dumps(record()))
        return 0
    if argv[:1] == ["compare"] and len(argv) == 3:
        before, after = (json.loads(Path(name).read_text()) for name in argv[1:])
        found = differences(before, after)
        print("\n".join(found) or f"{len(before)} commands: the same")
        return int(bool(found))
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
