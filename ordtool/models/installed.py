"""Which releases of torch and transformers are installed, and whether this ordtool was tested with them.

Read from the metadata of what is installed: nothing is imported, and the range stands in pyproject.toml alone.
"""

from __future__ import annotations

import functools
from importlib import metadata

LIBRARIES = ("torch", "transformers")
"""What models run on."""


def installed_releases() -> dict[str, str | None]:
    """Return the installed release of each of `LIBRARIES`, such as `2.13.0+cpu`; None where there is none."""
    return {name: _release(name) for name in LIBRARIES}


@functools.cache
def untested_releases() -> tuple[str, ...]:
    """Name each of `LIBRARIES` whose release lies outside the range that this ordtool asks for.

    Returns:
        Phrases such as `transformers 6.0.0 (tested: >=5.0,<5.25)`; none where ordtool itself isn't installed, and the
        range isn't known.
    """
    from packaging.requirements import Requirement

    try:
        asked = [Requirement(line) for line in metadata.requires("ordtool") or ()]
    except metadata.PackageNotFoundError:
        return ()
    tested = {requirement.name: requirement.specifier for requirement in asked}
    found = []
    for name, release in installed_releases().items():
        if release and name in tested and not tested[name].contains(release, prereleases=True):
            bounds = ",".join(sorted(map(str, tested[name]), reverse=True))
            found.append(f"{name} {release} (tested: {bounds})")
    return tuple(found)


def _release(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
