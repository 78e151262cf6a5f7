"""Splits a file of trees, one a line: those with odd numbers are to be trained on, even ones to be read once, at the end.

Usage: python benchmarks/odd_trees.py TREES.gz FOLDER writes FOLDER/odd.mrg, even.mrg, and of the odd ones every tenth to
dev.mrg and the others to train.mrg. Trees that can't be read are left out and named.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ordtool.errors import OrdtoolError
from ordtool.io.inputs import open_input, read_lines
from ordtool.parsing.trees.treebank import read_trees


def main() -> None:
    """Write the four files."""
    source, folder = sys.argv[1], Path(sys.argv[2])
    with open_input(source) as stream:
        lines = [raw.decode() for raw in read_lines(stream, source)]
    whole = folder / "all.mrg"
    whole.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    bad: set[int] = set()

    def skip(error: OrdtoolError) -> None:
        print(error.message, file=sys.stderr)
        bad.add(int(error.message.removeprefix(f"{whole}:").partition(":")[0]))

    for _ in read_trees(whole, on_error=skip):
        pass
    whole.unlink()
    good = [(number, line) for number, line in enumerate(lines, start=1) if number not in bad]
    odd = [line for number, line in good if number % 2]
    parts = {
        "odd": odd,
        "even": [line for number, line in good if number % 2 == 0],
        "dev": odd[9::10],
        "train": [line for k, line in enumerate(odd) if k % 10 != 9],
    }
    for name, kept in parts.items():
        (folder / f"{name}.mrg").write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


if __name__ == "__main__":
    main()
