"""One stream of tokens beside llama.cpp: the same weights, greedy, one prompt after another.

    pip install llama-cpp-python gguf          # there may be no wheel: it then builds from source
    python benchmarks/one_stream.py --gguf SmolLM2-135M-Instruct.Q4_1.gguf --model smollm2 --new-tokens 64

`--model` is the folder (or name) whose weights the GGUF file has too. llama.cpp reads the file as it is (four bits)
and, from copies made for the run, the very numbers of ordtool's checkpoint in float32 and in bfloat16, so that what differs
is the program and not the weights. Every system is a process of its own and they take turns; medians of `--rounds`. Reading
prompts and writing tokens are timed apart. The tokens written are compared with those of float32.

MB is the peak of resident memory, the mapped weights among it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROMPTS = (
    "The capital of France is",
    "Water boils at a temperature of one hundred degrees, and ice melts at",
    "In 1961 the president said that before the decade was out, a man would walk on the moon. " * 4,
    "My fellow citizens, " * 40,
)


def copy_gguf(source: Path, target: Path, kind: str) -> None:
    """Write a GGUF file again with all of its matrices in float32 or bfloat16."""
    import gguf
    import numpy as np

    reader = gguf.GGUFReader(source)
    name = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, name)
    skipped = {"general.architecture", "general.file_type", "general.quantization_version"}
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in skipped:
            continue
        inner = field.types[1] if len(field.types) > 1 else None
        writer.add_key_value(key, field.contents(), field.types[0], inner)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if kind == "bf16" and values.ndim > 1:
            packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType.BF16)
            writer.add_tensor(tensor.name, packed, raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            writer.add_tensor(tensor.name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama_cpp(file: str, prompts: list[list[int]], new: int, threads: int) -> list[dict[str, object]]:
    """Read each prompt and write after it with llama.cpp."""
    from llama_cpp import Llama

    model = Llama(file, n_ctx=2048, n_batch=512, n_threads=threads, n_threads_batch=threads, verbose=False)

    def pick() -> int:
        return int(model.sample(temp=0.0, top_k=1, repeat_penalty=1.0))

    def write(prompt: list[int]) -> dict[str, object]:
        model.reset()
        start = time.perf_counter()
        model.eval(prompt)
        ids = [pick()]
        read = time.perf_counter()
        while len(ids) < new:
            model.eval(ids[-1:])
            ids.append(pick())
        return {"read": read - start, "write": time.perf_counter() - read, "ids": ids}

    write(prompts[0])
    return [write(prompt) for prompt in prompts]


def ordtool(folder: str, kind: str, prompts: list[list[int]], new: int) -> list[dict[str, object]]:
    """The same with ordtool's forward pass, token by token as `generate` does; kind: dtype and kernel."""
    import torch

    from ordtool.generation.llama.llama import read_llama
    from ordtool.runtime import use_threads

    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    dtype, kernel = kind.split()
    model = read_llama(Path(folder), config, torch.device("cpu"), getattr(torch, dtype), kernel)
    if model is None:
        raise SystemExit(f"{folder} is no plain Llama")

    def write(prompt: list[int]) -> dict[str, object]:
        start = time.perf_counter()
        out = model(torch.tensor([prompt]), logits_to_keep=1)
        ids = [int(out.logits[0, -1].argmax())]
        read = time.perf_counter()
        with use_threads(1 if model.row_alone else None):
            while len(ids) < new:
                out = model(torch.tensor([ids[-1:]]), cache=out.cache, logits_to_keep=1)
                ids.append(int(out.logits[0, -1].argmax()))
        return {"read": read - start, "write": time.perf_counter() - read, "ids": ids}

    write(prompts[0])
    return [write(prompt) for prompt in prompts]


def work(args: argparse.Namespace) -> None:
    """Be one system and print what it took."""
    prompts = json.loads(Path(args.prompts).read_text(encoding="utf-8"))
    if args.worker == "llama.cpp":
        rows = llama_cpp(args.model, prompts, args.new_tokens, args.threads)
    else:
        import torch

        torch.set_num_threads(args.threads)
        rows = ordtool(args.model, args.kind, prompts, args.new_tokens)
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"rows": rows, "mb": int(peak.split()[1]) * 1024 / 1e6}))


def run(python: str, args: argparse.Namespace, options: dict[str, str]) -> dict[str, object]:
    """Start a system in a process and give what it printed."""
    command = [python, __file__, *(part for name, value in options.items() for part in (f"--{name}", value))]
    command += ["--new-tokens", str(args.new_tokens), "--threads", str(args.threads)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{options}: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Run all in turn and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--llama-python", default=sys.executable, help="a Python that has llama_cpp")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    parser.add_argument("--prompts", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args)
        return
    if args.gguf is None:
        parser.error("--gguf is missing")
    from tokenizers import Tokenizer

    from ordtool.models.resolve import resolve_model

    folder = resolve_model(args.model)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in PROMPTS]
    with tempfile.TemporaryDirectory() as name:
        prompts = Path(name) / "prompts.json"
        prompts.write_text(json.dumps(ids), encoding="utf-8")
        for kind in ("f32", "bf16"):
            copy_gguf(args.gguf, Path(name) / f"{kind}.gguf", kind)
        peer = ("llama.cpp", args.llama_python)
        systems = {
            "ordtool float32": ("ordtool", sys.executable, str(folder), "float32 numba"),
            "without numba": ("ordtool", sys.executable, str(folder), "float32 torch"),
            "llama.cpp float32": (*peer, f"{name}/f32.gguf", "float32"),
            "ordtool bfloat16": ("ordtool", sys.executable, str(folder), "bfloat16 numba"),
            "without numba, bf16": ("ordtool", sys.executable, str(folder), "bfloat16 torch"),
            "llama.cpp bfloat16": (*peer, f"{name}/bf16.gguf", "bfloat16"),
            "llama.cpp, the file": (*peer, str(args.gguf), "four bits"),
        }
        found: dict[str, list[dict[str, object]]] = {system: [] for system in systems}
        for _ in range(args.rounds):
            for system, (worker, python, model, kind) in systems.items():
                options = {"worker": worker, "model": model, "kind": kind, "prompts": str(prompts)}
                found[system].append(run(python, args, options))
    show(found, ids, args)


def show(found: dict[str, list[dict[str, object]]], prompts: list[list[int]], args: argparse.Namespace) -> None:  # fmt: skip
    """Print medians over rounds: tokens a second read and written, and how many texts are those of float32."""
    exact = [row["ids"] for row in found["ordtool float32"][0]["rows"]]
    read_tokens, written = sum(map(len, prompts)), len(prompts) * (args.new_tokens - 1)
    print(
        f"{'':22}{'read/s':>9}{'written/s':>11}{'ms a token':>12}{'MB':>7}{'same texts':>12}{'same tokens':>13}"
    )
    for system, runs in found.items():
        read = statistics.median(sum(row["read"] for row in run["rows"]) for run in runs)
        write = statistics.median(sum(row["write"] for row in run["rows"]) for run in runs)
        texts = [row["ids"] for row in runs[0]["rows"]]
        same = sum(a == b for a, b in zip(texts, exact, strict=True))
        alike = sum(x == y for a, b in zip(texts, exact, strict=True) for x, y in zip(a, b, strict=True))
        mb = max(run["mb"] for run in runs)
        print(
            f"{system:22}{read_tokens / read:9.0f}{written / write:11.1f}{1000 * write / written:12.2f}{mb:7.0f}"
            f"{same:10}/{len(prompts)}{alike:9}/{len(prompts) * args.new_tokens}"
        )
        row = {"system": system, "read_per_second": read_tokens / read, "written_per_second": written / write}
        print(json.dumps({**row, "mb": mb, "rounds": args.rounds, "threads": args.threads}))


if __name__ == "__main__":
    main()
