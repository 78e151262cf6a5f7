"""Packs a span scorer: matrices as small integers with a scale a row, which a wheel's compression makes small.

Usage: python benchmarks/pack_parser.py FOLDER OUTPUT [LEVELS]: integers from -LEVELS to LEVELS (31), the scale of each row
by least squares.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file


def pack(matrix: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return integers and the scale of each row, chosen among some for the least square error."""
    largest = np.abs(matrix).max(1, keepdims=True) + 1e-12
    best = np.full(len(matrix), np.inf)
    scales, integers = largest / levels, np.zeros(matrix.shape)
    for share in np.linspace(0.5, 1, 11):
        scale = (largest * share / levels).astype(np.float16).astype(np.float32)
        rounded = np.clip(np.round(matrix / np.maximum(scale, 1e-8)), -levels, levels)
        error = ((rounded * scale - matrix) ** 2).sum(1)
        better = error < best
        best[better], scales[better], integers[better] = error[better], scale[better], rounded[better]
    return integers.astype(np.int8), scales.astype(np.float16)


def main() -> None:
    """Write the packed copy of a folder."""
    source, output = Path(sys.argv[1]), Path(sys.argv[2])
    levels = int(sys.argv[3]) if len(sys.argv) > 3 else 31
    shutil.copytree(source, output, dirs_exist_ok=True)
    packed: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        if tensor.dim() == 2:
            integers, scales = pack(tensor.float().numpy(), levels)
            packed |= {name: torch.from_numpy(integers), f"{name}.scale": torch.from_numpy(scales)}
        else:
            packed[name] = tensor
    save_file(packed, output / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
