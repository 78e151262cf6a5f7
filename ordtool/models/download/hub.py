"""Model folders from the Hugging Face hub: configuration, tokenizer, safetensors, no code."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ordtool.models.download.download_progress import watch_bytes
from ordtool.progress import Progress

# Never *.bin, *.py, ONNX, OpenVINO or other copies of the same weights.
WANTED = ("*.json", "*.txt", "*.model", "*.jinja", "*.md", "*.safetensors")
_UNWANTED = ("onnx/*", "openvino/*", "original/*", "consolidated*")
_TIMEOUT = 5.0


class HubError(Exception):
    """The hub can't be reached, or doesn't have the model; the message says which."""


def cached_snapshot(repo: str) -> Path | None:
    """Return the folder of a model that an earlier download left in the hub's own cache.

    Args:
        repo: A hub id.

    Returns:
        The folder, or None if the model (with safetensors) isn't there.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repo, local_files_only=True, allow_patterns=list(WANTED)))
    except (OSError, ValueError):
        return None
    return folder if any(folder.rglob("*.safetensors")) else None


def download_snapshot(repo: str, progress: Progress, folder: Path | None = None) -> Path:
    """Fetch a model's files.

    Args:
        repo: A hub id.
        progress: Told what comes from where, with a bar for the bytes.
        folder: Where to put the files; None: the hub's own cache.

    Returns:
        The folder with the files.

    Raises:
        HubError: If the hub is offline by choice (`HF_HUB_OFFLINE`), can't be reached
            within seconds, has no such model, or it is gated.
    """
    import huggingface_hub
    from huggingface_hub import errors

    http_error: Any = getattr(errors, "HTTPError", errors.HfHubHTTPError)
    try:
        sizes = _file_sizes(repo)
        progress.note(f"fetching {repo} from the hub ({sum(sizes.values()) / 1e6:.0f} MB)")
        watched = folder or Path(huggingface_hub.constants.HF_HUB_CACHE) / (
            "models--" + repo.replace("/", "--")
        )
        with watch_bytes(watched, sum(sizes.values()), repo, progress):
            place = huggingface_hub.snapshot_download(
                repo,
                local_dir=folder,
                allow_patterns=list(sizes),
                etag_timeout=_TIMEOUT,
                tqdm_class=_silent_bar(),
            )
    except errors.OfflineModeIsEnabled:
        raise HubError("HF_HUB_OFFLINE is set") from None
    except errors.GatedRepoError:
        raise HubError("it is gated: accept its terms on the hub, then set HF_TOKEN") from None
    except errors.RepositoryNotFoundError:
        raise HubError("no such model, or a private one") from None
    except (OSError, http_error, errors.HfHubHTTPError) as error:
        raise HubError(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from None
    return Path(place)


def _file_sizes(repo: str) -> dict[str, int]:
    """Ask which files of the model to fetch, and how large they are."""
    from huggingface_hub import HfApi

    info = HfApi().model_info(repo, files_metadata=True, timeout=_TIMEOUT)
    files = {file.rfilename: file.size or 0 for file in info.siblings or []}
    names = [name for name in files if _matches(name, WANTED) and not _matches(name, _UNWANTED)]
    if not any(name.endswith(".safetensors") for name in names):
        raise HubError("it has no safetensors weights, and pickled ones are never loaded")
    return {name: files[name] for name in names}


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _silent_bar() -> type:
    """Make a tqdm that draws nothing: the bytes are shown by our own bar."""
    from huggingface_hub.utils import tqdm

    class Silent(tqdm):
        """A bar that is never drawn."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "disable": True})

    return Silent
