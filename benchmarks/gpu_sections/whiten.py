"""Whitening fitted and applied, on the card and on this machine's processor."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from gpu_sections.measure import Bench, Row
from ordtool.embedding.whitening import Whitening


def rows(bench: Bench) -> Iterator[Row]:
    """Vectors a second, from memory to memory."""
    shapes = bench.pick(((500_000, 384), (60_000, 2048)), ((300, 8),))
    for count, width in shapes:
        vectors = np.random.default_rng(0).standard_normal((count, width), dtype=np.float32)
        for device in dict.fromkeys(["cpu", str(bench.device)]):
            Whitening().fit(vectors[: count // 10], device=device)
            start = time.perf_counter()
            whitening = Whitening().fit(vectors, device=device)
            fitted = time.perf_counter() - start
            for _ in whitening.iter_transform(vectors, device=device):
                pass
            seconds = time.perf_counter() - start
            note = f"fit {fitted:.2f} s, transform {seconds - fitted:.2f} s"
            work = f"{count:,} vectors of {width}, fit and transform"
            yield Row("whiten", work, f"ordtool, {device}", count / seconds, "vectors/s", note)
        bench.free()
