"""Length extrapolation: what attention by regions costs, and what each method is worth.

    python benchmarks/extrapolate.py cost [--length 16384] [--rounds 3]   # beside plain SDPA and the dense formula
    python benchmarks/extrapolate.py stories                              # every method on Stories260K
    python benchmarks/extrapolate.py smollm2 [--windows 1]                # 8k and 12k tokens of a book

`cost` reads one random text with a random model of SmolLM2-135M's shape (fewer layers). Each system has a process of its
own and they run in turn, round after round. Time is given by the clock and as CPU time, which a busy machine disturbs
less; memory is what the forward pass takes on top of the loaded model. The dense formula is the one that ReRoPE was
published with: scores of all pairs twice, once at d and once at w, and a choice among them; it is measured at a length
that its n x n tensors allow. `stories` and `smollm2` need ORDTOOL_DATA (books/, models/).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

DATA = Path(os.environ.get("ORDTOOL_DATA", "data"))
SHAPE = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 2048,
}
STORIES = (
    "none,rerope,rerope:window=256,leaky-rerope,self-extend,dca,lambda,window,yarn,yarn-unscaled,ntk,ntk-fixed,"
    "ntk-mixed,dynamic-ntk,pi,logn,rerope+logn,ntk-mixed+logn"
)


def dense_rerope(model: Any, window: int) -> None:
    """Replace a Llama's attention by the dense formula: two score matrices and a choice."""
    import torch
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, repeat_kv

    rotary = model.model.rotary_emb

    def forward(self: Any, hidden_states: Any, position_embeddings: Any, **_: Any) -> Any:
        batch, n, _ = hidden_states.shape
        shape = (batch, n, -1, self.head_dim)
        query, key, value = (
            layer(hidden_states).view(shape).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        cos, sin = position_embeddings
        near_query, near_key = apply_rotary_pos_emb(query, key, cos, sin)
        far_query, _ = apply_rotary_pos_emb(query, query, *rotary(hidden_states, torch.tensor([[window]])))
        groups = self.num_key_value_groups
        near = near_query @ repeat_kv(near_key, groups).transpose(2, 3)
        far = far_query @ repeat_kv(key, groups).transpose(2, 3)
        index = torch.arange(n)
        distance = index[:, None] - index[None, :]
        scores = torch.where(distance < window, near, far) * self.scaling
        weights = scores.masked_fill(distance < 0, -torch.inf).softmax(-1)
        output = (weights @ repeat_kv(value, groups)).transpose(1, 2).reshape(batch, n, -1)
        return self.o_proj(output), None

    for layer in model.model.layers:
        layer.self_attn.forward = forward.__get__(layer.self_attn)


def measure(system: str, length: int, layers: int) -> None:
    """Run one forward pass in this process and print its cost as JSON."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from ordtool.extrapolation.patch import context_extension
    from ordtool.memory import PeakMemory

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=layers, **SHAPE)).eval()
    tokens = torch.randint(SHAPE["vocab_size"], (1, length))
    window = SHAPE["max_position_embeddings"] // 4
    if system == "dense":
        dense_rerope(model, window)
    method = {"sdpa": "none", "dense": "none"}.get(system, system)
    with torch.inference_mode(), context_extension(model, method, length=length):
        model(tokens[:, :64], use_cache=False, logits_to_keep=1)
        with PeakMemory(torch.device("cpu")) as before:
            pass
        with PeakMemory(torch.device("cpu")) as peak:
            cpu, clock = time.process_time(), time.perf_counter()
            last = model(tokens, use_cache=False, logits_to_keep=1).logits[0, -1]
            clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
    taken = peak.megabytes - before.megabytes
    print(json.dumps({"seconds": clock, "cpu_seconds": cpu, "megabytes": taken, "logits": last[:5].tolist()}))


def cost(length: int, dense_length: int, layers: int, rounds: int) -> None:
    """Compare costs, in turn."""
    plan = [
        ("sdpa", length),
        ("rerope", length),
        ("leaky-rerope", length),
        ("dca", length),
        ("sdpa", dense_length),
        ("rerope", dense_length),
        ("dense", dense_length),
    ]
    found: dict[tuple[str, int], list[dict[str, Any]]] = {key: [] for key in plan}
    for _ in range(rounds):
        for system, n in plan:
            command = [sys.executable, __file__, "work", system, str(n), str(layers)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[system, n].append(json.loads(done.stdout.splitlines()[-1]))
    print(f"{'system':14}{'tokens':>8}{'s':>9}{'x':>6}{'CPU s':>9}{'x':>6}{'MB':>9}{'x':>6}")
    for (system, n), runs in found.items():
        middle = {
            key: statistics.median(run[key] for run in runs)
            for key in ("seconds", "cpu_seconds", "megabytes")
        }
        plain = {key: statistics.median(run[key] for run in found["sdpa", n]) for key in middle}
        ratio = {key: middle[key] / plain[key] for key in middle}
        cells = "".join(f"{middle[key]:9.2f}{ratio[key]:6.2f}" for key in middle)
        print(f"{system:14}{n:8}{cells}")
        row = {
            "system": system,
            "tokens": n,
            **middle,
            **{f"{key}_ratio": value for key, value in ratio.items()},
        }
        print(json.dumps({**row, "rounds": rounds, "layers": layers}))
    gap = max(
        abs(a - b)
        for a, b in zip(
            found["rerope", dense_length][0]["logits"], found["dense", dense_length][0]["logits"], strict=True
        )
    )
    print(f"largest difference of ours to the dense formula, five logits: {gap:.1e}")


def command(*options: str) -> None:
    """Run `ordtool extrapolate`."""
    subprocess.run([sys.executable, "-m", "ordtool", "extrapolate", *options], check=True)


def need(path: Path) -> str:
    """Give a path of the data folder, or say that it is missing."""
    if not path.exists():
        sys.exit(f"{path} is missing: set ORDTOOL_DATA to the folder that has {path.relative_to(DATA)}")
    return str(path)


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["cost", "stories", "smollm2", "work"])
    parser.add_argument("rest", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--length", type=int, default=16384)
    parser.add_argument("--dense-length", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--windows", type=int, default=1)
    options = parser.parse_args()
    if options.what == "work":
        measure(options.rest[0], int(options.rest[1]), int(options.rest[2]))
        return
    import torch

    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads; "
        f"torch {torch.__version__}, transformers {version('transformers')}, ordtool {version('ordtool')}"
    )
    book = DATA / "books" / "sherlock.txt"
    if options.what == "cost":
        cost(options.length, options.dense_length, options.layers, options.rounds)
    elif options.what == "stories":
        model = need(DATA / "models" / "stories260k")
        command(need(book), "-m", model, "--methods", STORIES)
        command(need(book), "-m", model, "--methods", STORIES, "--repeat")
    else:
        lengths = ("--lengths", "8k,12k", "--last", "1024", "--windows", str(options.windows))
        command(need(book), "-m", "smollm2", "--methods", "none,yarn,rerope", *lengths)


if __name__ == "__main__":
    main()
