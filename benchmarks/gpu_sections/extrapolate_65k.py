"""As `extrapolate`, on 65,536 tokens: 32 times the trained length."""

from __future__ import annotations

from collections.abc import Iterator

from gpu_sections.extrapolate import passes
from gpu_sections.measure import Bench, Row


def rows(bench: Bench) -> Iterator[Row]:
    """Seconds a forward pass."""
    yield from passes(bench, "extrapolate_65k", bench.pick(65_536, 400), ["self-extend"])
