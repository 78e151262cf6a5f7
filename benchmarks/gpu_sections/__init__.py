"""The sections of `benchmarks/gpu.py`, a module each with a function `rows(bench)` that yields what it measured."""
