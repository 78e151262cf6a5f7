"""NPY in and out: memory-mapped reading, streamed writing, never a pickle."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from ordtool.errors import OrdtoolError
from ordtool.io.inputs import STDIN, Input, check_inputs, open_input, read_pieces

MAGIC = b"\x93NUMPY"
_PIPE_HINT = "for example: ordtool embed a.txt | ordtool whiten --dims 128 > w.npy"


def read_npy(path: str | Path, *, mmap: bool = True, ndim: int | None = 2) -> np.ndarray:
    """Read an array of numbers.

    Args:
        path: An NPY file; a pipe (`-` is stdin) or gzip is spooled to a temporary file,
            because it can't be mapped and may hold more than memory does.
        mmap: Map the file instead of reading it.
        ndim: The number of dimensions expected; None takes any.

    Returns:
        The array, read-only when mapped.

    Raises:
        OrdtoolError: If the file is missing, truncated, a pickle, no NPY, of objects or
            strings, of another number of dimensions, or has more behind the array.
    """
    if str(path) == STDIN:
        check_inputs([STDIN], missing="no input: give an NPY file, or pipe one in", hint=_PIPE_HINT)
    with open_input(path) as stream:
        return npy_of(stream, mmap=mmap, ndim=ndim)


def npy_of(stream: Input, *, mmap: bool = True, ndim: int | None = 2) -> np.ndarray:
    """Read an array from an input of which nothing was read yet, as `read_npy` does."""
    if stream.once or stream.packed:
        return _checked(_spooled(stream, mmap), stream.source, ndim)
    return _checked(_load(stream.path, stream.source, stream.read(len(MAGIC)), mmap), stream.source, ndim)


def holds_npy(stream: Input) -> bool:
    """Whether an input, of which nothing was read yet, is NPY: by its name, or by its first bytes."""
    return stream.path.lower().removesuffix(".gz").endswith(".npy") or stream.starts_with(MAGIC)


def _spooled(stream: Input, mmap: bool) -> np.ndarray:
    with tempfile.NamedTemporaryFile(prefix="ordtool-", suffix=".npy") as spool:
        for piece in read_pieces(stream, stream.source):
            try:
                spool.write(piece)
                spool.flush()
            except OSError as error:
                raise OrdtoolError(
                    f"{stream.source}: can't be kept in {tempfile.gettempdir()}: "
                    f"{(error.strerror or str(error)).lower()}",
                    "a piped array waits in a temporary file: free space there, or name another folder with TMPDIR",
                ) from None
        spool.seek(0)
        # The name goes when the block ends; a mapping keeps the file itself alive.
        return _load(spool.name, stream.source, spool.read(len(MAGIC)), mmap)


def _check_shape(file: BinaryIO) -> None:
    """Refuse a header with a negative size, which numpy before 2.3 takes for "as many as there are"."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, _ = read(file)
    if any(size < 0 for size in shape):
        raise ValueError(f"the shape {shape} has a negative size")
    file.seek(0)


def _load(path: str | Path, name: str, magic: bytes, mmap: bool) -> np.ndarray:
    if magic != MAGIC:
        raise OrdtoolError(
            f"{name}: not an NPY file ({_found(magic)})", "numpy.save writes one, and so does ordtool embed"
        )
    try:
        with open(path, "rb") as file:
            _check_shape(file)
            array = cast(
                np.ndarray, np.load(path if mmap else file, "r" if mmap else None, allow_pickle=False)
            )
            end = array.offset + array.nbytes if isinstance(array, np.memmap) else file.tell()
            file.seek(end)
            rest = file.read(len(MAGIC))
            behind = file.seek(0, os.SEEK_END) - end
    except Exception as error:  # the header is Python, and numpy's reader of it lets through what it meets
        if "Object arrays" in str(error) or "Python objects" in str(error):
            raise OrdtoolError(
                f"{name}: holds Python objects, which ordtool never loads",
                "save numbers: numpy.save(f, x.astype('float32'))",
            ) from None
        raise OrdtoolError(
            f"{name}: truncated or damaged NPY file ({_one_line(error)})",
            "write it again; was a download or a job cut short?",
        ) from None
    if behind > 0:
        what = "another array stands" if rest == MAGIC else f"{behind:,} bytes stand"
        raise OrdtoolError(
            f"{name}: {what} behind the array of shape {array.shape}",
            "cat doesn't join NPY files: numpy.concatenate does",
        )
    return array


def _found(magic: bytes) -> str:
    if not magic:
        return "it is empty"
    if magic.startswith(b"PK"):
        return "it is a zip, perhaps an .npz"
    if magic[:1] == b"\x80":
        return "it looks like a pickle"
    return f"it starts with {magic!r}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _checked(array: np.ndarray, name: str, ndim: int | None) -> np.ndarray:
    if array.dtype.kind not in "fiub":
        raise OrdtoolError(f"{name}: holds {array.dtype}, and real numbers are expected")
    if ndim is not None and array.ndim != ndim:
        raise OrdtoolError(
            f"{name}: has shape {array.shape}, and {ndim} dimension(s) are expected",
            "rows are texts, columns are dimensions" if ndim == 2 else None,
        )
    return array


class NpyWriter:
    """Writes an NPY file row by row.

    The header says how many rows there are. Where that isn't known at the start, the
    file must be seekable, and `close` writes the count into the header; numpy pads
    headers so that the count always fits.

    Args:
        file: A binary file open for writing, at its start.
        dim: Columns, or the shape of one row.
        dtype: The dtype of the file.
        rows: The number of rows, if known; needed for a pipe.
    """

    def __init__(
        self,
        file: BinaryIO,
        dim: int | tuple[int, ...],
        dtype: np.typing.DTypeLike = "float32",
        rows: int | None = None,
    ) -> None:
        self._file = file
        self._row_shape = (dim,) if isinstance(dim, int) else tuple(dim)
        self._dtype = np.dtype(dtype)
        self._promised = rows
        self.rows = 0
        if rows is None and not file.seekable():
            raise ValueError("the number of rows must be known to write an NPY file to a pipe")
        self._start = file.tell() if rows is None else 0
        file.write(self._header(rows or 0))

    def _header(self, rows: int) -> bytes:
        buffer = io.BytesIO()
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (rows, *self._row_shape),
        }
        np.lib.format.write_array_header_1_0(buffer, header)
        return buffer.getvalue()

    def write(self, array: np.ndarray) -> None:
        """Append `array`, of shape `(rows, dim)`."""
        if array.shape[1:] != self._row_shape:
            raise ValueError(f"rows of shape {array.shape[1:]} don't fit a file of {self._row_shape}")
        self._file.write(np.ascontiguousarray(array, dtype=self._dtype).data)
        self.rows += len(array)

    def close(self) -> None:
        """Make the header true; the file itself stays open for its owner to close."""
        if self._promised is not None:
            if self.rows != self._promised:
                raise ValueError(f"{self._promised} rows were promised and {self.rows} written")
            return
        end = self._file.tell()
        self._file.seek(self._start)
        self._file.write(self._header(self.rows))
        self._file.seek(end)
