"""The backbone's hidden states on disk: computed once, mapped into memory, read in every epoch.

A frozen backbone gives the same states in every epoch. They are kept as float16, a row a token: the embeddings, the
layers with a side layer and the output, one after the other; no padding is stored. The folder's name is a hash of the
backbone's weights, the layers and the token ids, so a changed text or model is never served old states. Beside a decoder
a second file holds the encoder's output, a row a token of the sources.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ordtool.batching import batches_by_length
from ordtool.errors import OrdtoolError
from ordtool.io.atomic import as_output_errors, atomic_directory
from ordtool.io.locks import lock
from ordtool.io.npy import NpyWriter, read_npy
from ordtool.progress import SILENT, Progress
from ordtool.runtime import use_threads
from ordtool.tuning.backbone.model import Backbone, BackboneStates
from ordtool.tuning.encoding import Encoded

FORMAT = 1
BATCH_TOKENS = 4096
# A thread of its own is worth its start from about here on.
PART_TOKENS = 128
_SPARE = 1 << 30


class StateSource(Protocol):
    """Where a method gets hidden states from."""

    def batch(self, index: Sequence[int]) -> BackboneStates:
        """Return the states of some texts."""


class LiveStates:
    """States computed by the backbone each time.

    Args:
        backbone: The frozen model.
        data: The texts.
        layers: Layers with a side layer.
        dtype: What they are kept in; float16 as in the cache, or float32.

    The backbone has as many threads as torch has now, whatever the ladder is given later.
    """

    def __init__(
        self, backbone: Backbone, data: Encoded, layers: Sequence[int], dtype: torch.dtype = torch.float16
    ) -> None:
        self._backbone, self._data, self._layers, self._dtype = backbone, data, layers, dtype
        self._lengths = data.lengths
        self._threads = torch.get_num_threads()

    def batch(self, index: Sequence[int]) -> BackboneStates:
        """Run the backbone."""
        with use_threads(self._threads):
            cuts = self._cuts(index)
            parts = [self._inputs(index[start:stop]) for start, stop in pairwise(cuts)]
            if len(parts) == 1:
                return self._backbone.states(parts[0], self._layers, self._dtype)
            found = self._backbone.side_by_side(parts, self._layers, self._dtype)
        # Copying a few megabytes isn't worth waking another thread.
        with use_threads(1):
            return _together(found)

    def _inputs(self, index: Sequence[int]) -> dict[str, Tensor]:
        device = self._backbone.model.device
        return {name: t.to(device) for name, t in self._data.inputs(index, self._backbone.pad).items()}

    def _cuts(self, index: Sequence[int]) -> list[int]:
        """Say where to cut a batch into parts of about as many tokens each, one a CPU thread."""
        tokens = self._lengths[list(index)].cumsum()
        parts = min(self._threads, int(tokens[-1]) // PART_TOKENS)
        if parts < 2 or self._backbone.model.device.type != "cpu":
            return [0, len(index)]
        cuts = tokens.searchsorted([tokens[-1] * part / parts for part in range(1, parts)]) + 1
        return sorted({0, *cuts.tolist(), len(index)})


def _together(parts: Sequence[BackboneStates]) -> BackboneStates:
    """Put the states of parts of a batch together, zeros behind shorter ones."""
    longest = max(part.mask.shape[1] for part in parts)
    source = max(0 if part.memory_mask is None else part.memory_mask.shape[1] for part in parts)
    rows = sum(len(part.mask) for part in parts)

    def join(tensors: Sequence[Tensor | None], at: int, length: int) -> Tensor | None:
        known = [tensor for tensor in tensors if tensor is not None]
        if not known:
            return None
        shape = list(known[0].shape)
        shape[at], shape[at + 1] = rows, length
        found, start = known[0].new_zeros(shape), 0
        for tensor in known:
            count, own = tensor.shape[at : at + 2]
            found.narrow(at, start, count).narrow(at + 1, 0, own).copy_(tensor)
            start += count
        return found

    hidden = join([part.hidden for part in parts], 1, longest)
    last = join([part.last for part in parts], 0, longest)
    mask = join([part.mask for part in parts], 0, longest)
    assert hidden is not None and last is not None and mask is not None
    memory = join([part.memory for part in parts], 0, source)
    return BackboneStates(hidden, last, mask, memory, join([part.memory_mask for part in parts], 0, source))


class CachedStates:
    """States mapped from a file that `build_cache` made.

    Args:
        folder: The cache's folder.
        device: Where batches go.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._own = _Rows(folder, "states", "starts", "lengths")
        self._sources = None
        if (folder / "sources.npy").is_file():
            self._sources = _Rows(folder, "sources", "source_starts", "source_lengths")
        self._device = device

    def batch(self, index: Sequence[int]) -> BackboneStates:
        """Read a batch."""
        states, mask = (found.to(self._device) for found in self._own.batch(index))
        if self._sources is None:
            return BackboneStates(states[:-1], states[-1], mask)
        memory, memory_mask = (found.to(self._device) for found in self._sources.batch(index))
        return BackboneStates(states[:-1], states[-1], mask, memory[0], memory_mask)


class _Rows:
    """A file with rows of texts one after the other, where each begins, and how many it has."""

    def __init__(self, folder: Path, rows: str, starts: str, lengths: str) -> None:
        self._rows = read_npy(folder / f"{rows}.npy", ndim=3)
        self._starts = read_npy(folder / f"{starts}.npy", ndim=1)
        self._lengths = read_npy(folder / f"{lengths}.npy", ndim=1)

    def batch(self, index: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the rows of some texts, `(slots, batch, longest, hidden)`, and their mask."""
        lengths = [int(self._lengths[i]) for i in index]
        longest = max(lengths)
        slots, hidden = self._rows.shape[1:]
        # Each slot in one piece, as the products want it.
        block = np.zeros((slots, len(index), longest, hidden), dtype=np.float16)
        for row, (i, length) in enumerate(zip(index, lengths, strict=True)):
            start = int(self._starts[i])
            block[:, row, :length] = self._rows[start : start + length].swapaxes(0, 1)
        mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
        return torch.from_numpy(block), mask.long()


def cache_key(backbone: Backbone, data: Encoded, layers: Sequence[int]) -> str:
    """Return the hash that names a cache: of the weights, their dtype, the layers, and every token."""
    digest = hashlib.sha256()
    facts = [FORMAT, backbone.hash, str(backbone.model.dtype), list(layers), data.types is not None]
    digest.update(json.dumps(facts).encode())
    for rows in (data.ids, data.types or [], data.sources or []):
        digest.update(np.array([len(row) for row in rows], dtype=np.int64).tobytes())
        for row in rows:
            digest.update(row.tobytes())
    return digest.hexdigest()[:32]


def cache_bytes(backbone: Backbone, data: Encoded, layers: Sequence[int]) -> int:
    """Return the size that a cache has on disk."""
    sources = int((data.lengths - data.own_lengths).sum())
    slots = int(data.own_lengths.sum()) * (len(layers) + 2) + sources
    return slots * int(backbone.config.hidden_size) * 2


def build_cache(
    backbone: Backbone,
    data: Encoded,
    layers: Sequence[int],
    parent: Path,
    *,
    progress: Progress = SILENT,
) -> Path:
    """Compute all states, unless they are there.

    Args:
        backbone: The frozen model.
        data: The texts.
        layers: Layers with a side layer.
        parent: The folder that holds caches.
        progress: Told of the tokens.

    Returns:
        The cache's folder.

    Raises:
        OrdtoolError: If the disk is too full, or a state is too large for float16.
    """
    folder = parent / cache_key(backbone, data, layers)
    if (folder / "states.npy").is_file():
        os.utime(folder)  # the latest use, for whoever tidies up
        return folder
    with as_output_errors(parent):
        parent.mkdir(parents=True, exist_ok=True)
        # Another run may need the same ones at this moment: the second waits for them.
        with lock(folder, wait=True):
            if not (folder / "states.npy").is_file():
                _write_cache(folder, backbone, data, layers, progress)
    return folder


def _write_cache(
    folder: Path, backbone: Backbone, data: Encoded, layers: Sequence[int], progress: Progress
) -> None:
    parent = folder.parent
    size = cache_bytes(backbone, data, layers)
    free = shutil.disk_usage(parent).free
    if size + _SPARE > free:
        raise OrdtoolError(
            f"{parent}: the hidden states take {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free",
            "`cache=False` computes them in every epoch; fewer `layers` make them smaller; `cache_dir` names another disk",
        )
    # Every batch in the file's order; texts of like length lie side by side, as batches will ask for them.
    batches = batches_by_length(data.lengths, tokens=BATCH_TOKENS, longest_first=True)
    hidden = int(backbone.config.hidden_size)
    source = LiveStates(backbone, data, layers)
    progress.start("hidden states, once", int(data.lengths.sum()), "tokens")
    with atomic_directory(folder, force=True) as made, ExitStack() as files:
        own = files.enter_context(_Writer(made, ("states", "starts", "lengths"), len(layers) + 2, hidden))
        memory = None
        if data.sources is not None:
            names = ("sources", "source_starts", "source_lengths")
            memory = files.enter_context(_Writer(made, names, 1, hidden))
        for batch in batches:
            states = source.batch(batch)
            own.write(batch, torch.cat([states.hidden, states.last[None]]).permute(1, 2, 0, 3), states.mask)
            if memory is not None and states.memory is not None and states.memory_mask is not None:
                memory.write(batch, states.memory[:, :, None], states.memory_mask)
            progress.advance(int(data.lengths[batch].sum()))
    progress.close()


class _Writer:
    """Writes what `_Rows` reads.

    Args:
        folder: Where.
        names: Of the files with the rows, their starts and their numbers.
        slots: Hidden states a row.
        hidden: Their size.
    """

    def __init__(self, folder: Path, names: tuple[str, str, str], slots: int, hidden: int) -> None:
        self._folder, self._names = folder, names
        self._file = open(folder / f"{names[0]}.npy", "wb")  # noqa: SIM115 (closed by __exit__)
        self._rows = NpyWriter(self._file, (slots, hidden), "float16")
        self._places: dict[int, tuple[int, int]] = {}

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        with self._file:
            if kind is not None:
                return
            self._rows.close()
        places = np.array([self._places[i] for i in sorted(self._places)], dtype=np.int64).reshape(-1, 2)
        for name, column in zip(self._names[1:], places.T, strict=True):
            np.save(self._folder / f"{name}.npy", column)

    def write(self, index: Sequence[int], states: Tensor, mask: Tensor) -> None:
        """Write the real tokens of a batch, `(batch, seq, slots, hidden)`."""
        counts = mask.sum(dim=1).tolist()
        start = self._rows.rows
        for i, count in zip(index, counts, strict=True):
            self._places[i] = (start, count)
            start += count
        rows = states[mask.bool()].cpu().numpy()
        if not np.isfinite(rows).all():
            raise OrdtoolError(
                "a hidden state of this backbone is too large for float16", "`cache=False` keeps float32"
            )
        self._rows.write(rows)
