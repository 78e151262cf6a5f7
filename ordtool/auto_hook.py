"""Lets transformers' Auto classes know ordtool's own kinds of models, when and if transformers is imported.

`import ordtool` imports no transformers, so it leaves a finder on `sys.meta_path`, which waits for the module of AutoConfig
and then registers a stand-in for each kind's configuration. The first folder of that kind imports the kind itself.
"""

from __future__ import annotations

import sys

_AWAITED = "transformers.models.auto.configuration_auto"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any


class _Finder:
    """Finds nothing itself, but lets the module that it waits for run a step more."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Find a module's spec, as the import system asks."""
        if name != _AWAITED:
            return None
        from importlib.util import find_spec

        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
        return spec


class _Loader:
    """Loads as another loader does, and then registers the stand-ins."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Create the module."""
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Run it."""
        self._loader.exec_module(module)
        _register(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def _register(module: Any) -> None:
    from transformers import PreTrainedConfig

    from ordtool.models.own import OWN_MODELS

    for kind in OWN_MODELS:
        module.AutoConfig.register(kind, _stand_in(kind, PreTrainedConfig), exist_ok=True)


def _stand_in(kind: str, base: Any) -> Any:
    """Make a configuration that becomes the kind's own once it is asked for: its modules register that in its place."""

    def own() -> Any:
        from ordtool.models.own import config_class

        return config_class(kind)

    def new(cls: Any, *args: Any, **values: Any) -> Any:
        return own()(*args, **values)

    def from_dict(cls: Any, values: Any, **options: Any) -> Any:
        return own().from_dict(values, **options)

    return type(
        f"{kind.title().replace('_', '')}StandIn",
        (base,),
        {"model_type": kind, "__new__": new, "from_dict": classmethod(from_dict), "__module__": __name__},
    )


def wait_for_transformers() -> None:
    """Register now if AutoConfig is imported, else when it is."""
    if _AWAITED in sys.modules:
        _register(sys.modules[_AWAITED])
    else:
        sys.meta_path.insert(0, _Finder())
