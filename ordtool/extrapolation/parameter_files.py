"""Files that a method's parameters name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ordtool.errors import OrdtoolError

__all__ = ["read_json"]


def read_json(path: str, form: str) -> Any:
    """Read the file that a method's parameter names.

    Args:
        path: A file of JSON.
        form: How the parameter is written, for the hint.

    Raises:
        OrdtoolError: If it can't be read, or is no JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise OrdtoolError(f"{path}: {error.strerror or error}", form) from error
    except (ValueError, RecursionError) as error:
        raise OrdtoolError(f"{path}: no JSON: {error}") from error
