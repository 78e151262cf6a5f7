"""Readers under atheris, which looks for inputs that take new ways through the code (extra `fuzz`).

    python tests/fuzz/targets.py brackets -max_total_time=60
    python tests/fuzz/targets.py jsonl -max_total_time=60
    python tests/fuzz/targets.py npy -max_total_time=60

Whatever is read, the readers may raise an `OrdtoolError` and nothing else.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ordtool"]):
    from ordtool.errors import OrdtoolError
    from ordtool.io.npy import read_npy
    from ordtool.io.text import read_records
    from ordtool.parsing.trees.treebank import read_trees

SEEDS = {
    "brackets": [
        b"(S (NP (DT the) (NN cat)) (VP (VBD sat)))\n",
        b"((the cat) sat)\n(a)",
        b"( (TOP (S (-NONE- *) (NN a))))",
    ],
    "jsonl": [
        b'{"text": "a cat", "id": 1}\n',
        b'[{"text": "a"},\n {"text": "\\ud83d\\ude00"}]',
        b'{"text": null}',
    ],
    "npy": [
        b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (2, 1), }"
        + b" " * 57
        + b"\n"
        + bytes(16)
    ],
}
READERS: dict[str, Callable[[Path], object]] = {
    "brackets": lambda path: list(read_trees(path)),
    "jsonl": lambda path: list(read_records(path, format="jsonl")),
    "npy": lambda path: read_npy(path, ndim=None).sum(),
}


def main() -> None:
    """Fuzz one reader."""
    if len(sys.argv) < 2 or sys.argv[1] not in READERS:
        sys.exit(__doc__)
    name = sys.argv.pop(1)
    folder = Path(tempfile.mkdtemp(prefix="ordtool-fuzz-"))
    (folder / "corpus").mkdir()
    for number, seed in enumerate(SEEDS[name]):
        (folder / "corpus" / str(number)).write_bytes(seed)

    def read(data: bytes) -> None:
        (folder / "input").write_bytes(data)
        try:
            READERS[name](folder / "input")
        except OrdtoolError as error:
            assert "\n" not in error.message

    atheris.Setup([*sys.argv, str(folder / "corpus")], read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
