"""HSIC of two sets of vectors, on the card and on this machine's processor; with and without permutations."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from gpu_sections.measure import Bench, Row
from ordtool.independence.hsic import hsic


def rows(bench: Bench) -> Iterator[Row]:
    """Seconds, from vectors in memory to the result."""
    width = bench.pick(384, 8)
    for count in bench.pick((10_000, 50_000), (150,)):
        draw = np.random.default_rng(0)
        x = draw.standard_normal((count, width), dtype=np.float32)
        y = 0.1 * x + draw.standard_normal((count, width), dtype=np.float32)
        for test in ("none", "permutation"):
            work = f"{count:,} rows of {width}, " + ("1,000 permutations" if test != "none" else "no test")
            devices = ["cpu", str(bench.device)] if count <= 10_000 and bench.cuda else [str(bench.device)]
            for device in devices:
                seconds, p_value = clock(bench, x, y, test, device)
                note = f"{bench.peak_mb():,.0f} MB" + (f", p = {p_value:.3g}" if p_value is not None else "")
                yield Row("hsic", work, f"ordtool, {device}", seconds, "s", note)
                bench.free()


def clock(bench: Bench, x: np.ndarray, y: np.ndarray, test: str, device: str) -> tuple[float, float | None]:
    """The better of two runs."""
    seconds, p_value = [], None
    for _ in range(1 if bench.toy or device == "cpu" else 2):
        start = time.perf_counter()
        p_value = hsic(x, y, test=test, device=device).p_value
        seconds.append(time.perf_counter() - start)
    return min(seconds), p_value
