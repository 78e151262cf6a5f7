"""Outputs of vectors: what is written, what an interrupted run leaves, and what is read back of it."""

import numpy as np
import pytest

from ordtool.embedding.outputs import OutputConfig, open_output, to_precision
from ordtool.errors import OrdtoolError
from ordtool.io.text import Record

ROWS = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
RECORDS = [Record("a.txt", n, f'text "{n}",\r\nof two lines') for n in range(1, 8)]


def write(config, start, stop, done=0):
    with open_output(config) as output:
        assert output.done == done
        earlier = None if output.earlier is None else output.earlier.read(done)
        for row in range(max(start, done), stop):
            rows = to_precision(ROWS[row : row + 1], config.precision)
            output.write(RECORDS[row : row + 1], rows, row + 1)
        if stop < len(ROWS):
            raise KeyboardInterrupt
    return earlier


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
@pytest.mark.parametrize("format", ["npy", "jsonl", "csv"])
def test_an_interrupted_output_is_gone_on_with(tmp_path, format, precision):
    inputs = (str(tmp_path / "a.txt"),)
    (tmp_path / "a.txt").write_text("what the texts were read from")

    def config(name, **more):
        return OutputConfig(tmp_path / name, format, 3, precision, inputs=inputs, **more)

    assert write(config("whole"), 0, 7) is None
    with pytest.raises(KeyboardInterrupt):
        write(config("part"), 0, 4)
    assert not (tmp_path / "part").exists()
    earlier = write(config("part", resume=True), 0, 7, done=4)
    assert (tmp_path / "part").read_bytes() == (tmp_path / "whole").read_bytes()
    assert earlier.dtype == np.float32
    exact = to_precision(ROWS[:4], precision).astype(np.float32)
    np.testing.assert_allclose(earlier, exact, rtol=1e-3 if precision == "float16" else 0, atol=0)


@pytest.mark.parametrize("format", ["jsonl", "csv"])
def test_lines_without_a_vector_are_damage(tmp_path, format):
    (tmp_path / "a.txt").write_text("texts")
    config = OutputConfig(tmp_path / "x", format, 3, inputs=(str(tmp_path / "a.txt"),))
    with pytest.raises(KeyboardInterrupt):
        write(config, 0, 4)
    partial = tmp_path / "x.partial"
    partial.write_bytes(b"?" * partial.stat().st_size)
    resumed = OutputConfig(tmp_path / "x", format, 3, inputs=config.inputs, resume=True)
    with pytest.raises(OrdtoolError, match="damaged"):
        write(resumed, 0, 7, done=4)


def test_layers_are_files_of_a_folder(tmp_path):
    config = OutputConfig(tmp_path / "layers", "npy", 3, layers=2)
    with open_output(config) as output:
        assert output.earlier is None
        output.write(RECORDS, np.stack([ROWS, 2 * ROWS], axis=1), 7)
    np.testing.assert_array_equal(np.load(tmp_path / "layers" / "layer-01.npy"), 2 * ROWS)


def test_int8_keeps_directions_and_zero_rows():
    narrow = to_precision(np.array([[3.0, -1.5], [0, 0]], np.float32), "int8")
    assert narrow.tolist() == [[127, -64], [0, 0]]
    with pytest.raises(OrdtoolError, match="beyond float16"):
        to_precision(np.float32([[1e5]]), "float16")
