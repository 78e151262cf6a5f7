"""Whitening from file to file: what `ordtool whiten` runs."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ordtool.arguments import as_many
from ordtool.embedding.statistics import DataError, Moments, accumulate, as_rows, check_scale, output_dtype
from ordtool.embedding.whitening import Whitening, WhiteningWarning, merge_whitenings
from ordtool.errors import OrdtoolError, UsageError, close_match_hint
from ordtool.io.atomic import atomic_output, check_directory, check_output
from ordtool.io.formats import output_format
from ordtool.io.npy import NpyWriter, read_npy
from ordtool.plotting import check_plot, save_figure
from ordtool.progress import SILENT, Progress
from ordtool.sharding.run import Scale
from ordtool.sharding.tasks import run_tasks

PRECISIONS = ("auto", "float32", "float16", "float64")


@dataclass(frozen=True, slots=True)
class WhitenConfig:
    """What one run of `ordtool whiten` does.

    Attributes:
        source: The NPY file to fit on and to transform; `-` is stdin. Several are one set, file after file: the moments
            of each are taken alone, in float64, and merged.
        output: Where the transformed vectors go; `-` is stdout. None is stdout too, unless `save`, `export` or `plot`
            says that something else is what is wanted.
        options: Options of `Whitening` by name, only those asked for.
        transform: A fitted transform to apply instead of fitting; `options` are solved anew from its statistics.
        save: Where to write the fitted transform.
        export: A sentence-transformers folder to write.
        model: The model that `export` extends, a local folder.
        pooling: The pooling that `export` writes; None keeps the model's own.
        plot: Where to draw the spectrum before and after; needs matplotlib.
        precision: dtype of the output: `float32`, `float16`, `float64`, or `auto`: as wide as the input, at
            least float32.
        threads: CPU threads; None: one a core.
        device: Where products are computed: `cpu`, or a CUDA device.
        workers: Processes that share the files, or with `ray` its actors.
        ray: The address of a Ray cluster; `local` starts Ray here; None: without Ray.
        force: Replace existing outputs.
    """

    source: str | Sequence[str] = "-"
    output: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    transform: Path | None = None
    save: Path | None = None
    export: Path | None = None
    model: Path | None = None
    pooling: str | None = None
    plot: Path | None = None
    precision: str = "auto"
    threads: int | None = None
    device: str = "cpu"
    workers: int | None = None
    ray: str | None = None
    force: bool = False

    def __post_init__(self) -> None:
        """Check that the options go together.

        Raises:
            UsageError: Unknown names, options without meaning or that contradict each other.
        """
        if self.precision not in PRECISIONS:
            raise UsageError(
                f"unknown precision {self.precision!r}", close_match_hint(self.precision, PRECISIONS)
            )
        if (self.export is None) != (self.model is None):
            raise UsageError(
                "`export` and `model` go together",
                "`export` FOLDER `model` minilm writes minilm with the whitening behind it",
            )
        if self.pooling is not None and self.export is None:
            raise UsageError(
                "`pooling` is for `export`", "the pooling of the vectors was chosen by ordtool embed"
            )
        if not self.scale.alone and (len(self.sources) < 2 or "-" in self.sources):
            raise UsageError("workers share several files, and there is one, or a pipe", "without `workers`")
        Whitening(**self.options).config()

    @property
    def scale(self) -> Scale:
        """Who takes the moments of files."""
        return Scale(self.workers, self.ray, threads=self.threads)

    @property
    def sources(self) -> tuple[str, ...]:
        """The files, in their order."""
        return tuple(as_many(self.source)) or ("-",)

    @property
    def writes_vectors(self) -> bool:
        """Whether transformed vectors are asked for."""
        return self.output is not None or (self.save is None and self.export is None and self.plot is None)


def whiten(config: WhitenConfig, progress: Progress = SILENT) -> Whitening:
    """Fit or load a whitening, save it, export it and transform the vectors, as asked.

    The vectors are read twice, piece by piece, and memory doesn't grow with their number.

    Raises:
        OrdtoolError: The input can't be read or whitened, or an output can't be written; nothing half-written
            is left under an output's name.
        UsageError: Options without meaning.
    """
    _check_outputs(config)
    needs_rows = config.writes_vectors or config.transform is None
    arrays = _read(config.sources) if needs_rows else {}
    whitening = _fitted(config, arrays, progress)
    for note in whitening.notes_:
        progress.warn(note)
    progress.note(describe(whitening))
    if config.save is not None:
        whitening.save(config.save, force=config.force)
    if config.export is not None and config.model is not None:
        from ordtool.embedding.export import export_sentence_transformers

        export_sentence_transformers(
            whitening, config.export, config.model, pooling=config.pooling, force=config.force
        )
    if config.plot is not None:
        _draw(whitening, config.plot, config.force)
    if config.writes_vectors:
        _write_vectors(whitening, arrays, config, progress)
    progress.close()
    return whitening


def merge(
    transforms: list[Path],
    output: Path,
    options: Mapping[str, Any],
    *,
    force: bool = False,
    progress: Progress = SILENT,
) -> Whitening:
    """Merge fitted transforms into the one of all their rows; what `ordtool whiten merge` runs.

    Raises:
        OrdtoolError: A file is no transform, or the transforms don't fit together.
    """
    output_format(output, ("safetensors",))
    check_output(output, force=force)
    if len(transforms) < 2:
        raise UsageError(
            "merge needs two transforms or more",
            "ordtool whiten merge a.safetensors b.safetensors -o c.safetensors",
        )
    merged = merge_whitenings([Whitening.load(path) for path in transforms], **options)
    for note in merged.notes_:
        progress.warn(note)
    progress.note(describe(merged))
    merged.save(output, force=force)
    return merged


def describe(whitening: Whitening) -> str:
    """One line on a fit: what it was fitted on, its widths and what they keep."""
    values = whitening.eigenvalues_
    width = whitening.kernel_.shape[1]
    kept = values[:width].sum() / values.sum() if whitening.method == "pca" else 1.0
    shifted = whitening.covariance == "shifted" and whitening.beta < 1
    what = "mean square" if shifted else "variance"
    share = f" ({100 * kept:.1f}% of the {what})" if width < whitening.n_features_in_ else ""
    rank = f"rank {whitening.rank_} of {values.size}" if whitening.rank_ < values.size else "full rank"
    shrunk = f", shrinkage {whitening.shrinkage_:.3g}" if whitening.shrinkage_ else ""
    return f"fitted on {whitening.fitted_on_}: {values.size} -> {width} columns{share}, {rank}{shrunk}"


def _draw(whitening: Whitening, path: Path, force: bool) -> None:
    from ordtool.embedding.whitening_plot import draw_spectrum

    with atomic_output(path, force=force) as file:
        save_figure(draw_spectrum(whitening), file, check_plot(path))


def _check_outputs(config: WhitenConfig) -> None:
    for path, formats in ((config.output, ("npy",)), (config.save, ("safetensors",))):
        output_format(path, formats)
        check_output(path, force=config.force)
    if config.plot is not None:
        check_plot(config.plot)
        check_output(config.plot, force=config.force)
    if config.export is not None:
        check_directory(config.export, force=config.force)


def _read(sources: Sequence[str]) -> dict[str, np.ndarray]:
    """Map files of vectors of one width into memory, by their names.

    Raises:
        UsageError: A file is named twice.
        DataError: The widths differ.
    """
    if len(set(sources)) < len(sources):
        raise UsageError("a file of vectors is named twice", "its rows would count twice")
    arrays = {source: read_npy(source) for source in sources}
    first = sources[0]
    for source, array in arrays.items():
        if array.shape[1] != arrays[first].shape[1]:
            raise DataError(
                f"{_name(source)}: {array.shape[1]} columns, and {_name(first)} has {arrays[first].shape[1]}",
                hint="vectors must come from the same model and settings",
            )
    return arrays


def file_moments(
    source: str | np.ndarray, threads: int | None = None, progress: Progress = SILENT
) -> Moments:
    """Take the moments of a file of vectors, in float64: a task, whose result merges with those of other files.

    Args:
        source: An NPY file, or its rows.
        threads: CPU threads; None: one a core.
        progress: Advanced by rows; the caller starts the bar.

    Raises:
        DataError: A row has a NaN or an infinity.
    """
    array = as_rows(read_npy(source) if isinstance(source, str) else source)
    return accumulate(array, threads=threads, exact=True, progress=progress)


def _moments_task(source: str, threads: int | None) -> bytes:
    """`file_moments` in a worker."""
    with _naming(_name(source)):
        return file_moments(source, threads).to_bytes()


def _fitted(config: WhitenConfig, arrays: Mapping[str, np.ndarray], progress: Progress) -> Whitening:
    if config.transform is not None:
        whitening = Whitening.load(config.transform)
        for source, array in arrays.items():
            _check_width(whitening, array, source, config)
        return whitening.with_options(**config.options) if config.options else whitening
    rows = sum(array.shape[0] for array in arrays.values())
    progress.start("fitting", rows, "rows")
    if len(arrays) > 1:
        return _fitted_on_files(config, arrays, progress)
    [(source, array)] = arrays.items()
    with warnings.catch_warnings(), _naming(_name(source)):
        warnings.simplefilter("ignore", WhiteningWarning)  # the caller hears of them through `progress`
        whitening = Whitening(**config.options).fit(
            array, threads=config.threads, device=config.device, progress=progress
        )
    whitening.fitted_on_ = f"{_name(source)} ({rows:,} rows)"
    return whitening


def _fitted_on_files(config: WhitenConfig, arrays: Mapping[str, np.ndarray], progress: Progress) -> Whitening:
    total = Moments.empty(next(iter(arrays.values())).shape[1])
    if config.scale.alone:
        for source, array in arrays.items():
            with _naming(_name(source)):
                total.merge(file_moments(array, config.threads, progress))
    else:
        paths = [os.path.abspath(source) for source in arrays]
        for array, found in zip(
            arrays.values(), run_tasks(_moments_task, paths, config.scale, progress), strict=True
        ):
            total.merge(Moments.from_bytes(found))
            progress.advance(array.shape[0])
    for source, array in arrays.items():
        with _naming(_name(source)):
            check_scale(total, array)
    names = f"{len(arrays)} files, {_name(next(iter(arrays)))} to {_name(list(arrays)[-1])}"
    return Whitening.from_moments(total, f"{names} ({total.count:,} rows)", **config.options)


def _check_width(whitening: Whitening, array: np.ndarray, source: str, config: WhitenConfig) -> None:
    if array.shape[1] != whitening.n_features_in_:
        raise DataError(
            f"{_name(source)}: {array.shape[1]} columns, and the transform {config.transform} takes "
            f"{whitening.n_features_in_}",
            hint=f"it was fitted on {whitening.fitted_on_}; vectors must come from the same model and settings",
        )


def _name(source: str) -> str:
    return "<stdin>" if source == "-" else Path(source).name


class _naming:
    """Puts a file's name before what is wrong with its rows."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, DataError):
            raise DataError(f"{self._name}: {error.message}", error.hint) from None


def _write_vectors(
    whitening: Whitening, arrays: Mapping[str, np.ndarray], config: WhitenConfig, progress: Progress
) -> None:
    dtype = np.dtype(config.precision if config.precision != "auto" else "float32")
    if config.precision == "auto":
        dtype = np.result_type(*(output_dtype(array) for array in arrays.values()))
    total = sum(array.shape[0] for array in arrays.values())
    progress.start("transforming", total, "rows")
    with atomic_output(config.output, force=config.force, binary=True) as file:
        writer = NpyWriter(file, whitening.kernel_.shape[1], dtype, rows=total)
        for source, array in arrays.items():
            with _naming(_name(source)):
                for rows in whitening.iter_transform(array, threads=config.threads, device=config.device):
                    writer.write(_narrowed(rows, dtype))
                    progress.advance(rows.shape[0])
        writer.close()


def _narrowed(rows: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    if dtype != np.float16:
        return rows
    with np.errstate(over="ignore"):
        narrow = rows.astype(dtype)
    if not np.isfinite(narrow).all():
        raise OrdtoolError(
            f"a result of {np.abs(rows).max():.3g} is beyond float16, which ends at 65504",
            "use `precision` float32",
        )
    return narrow
