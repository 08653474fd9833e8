"""Changes to modules that LiteLLM itself imports late, or never. A start that imported them would take longer."""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from types import ModuleType

from luthien_litellm_hooks.hooks import fitting_litellm, incompatible

Change = Callable[[ModuleType], None]


def when_imported(name: str, change: Change) -> None:
    """Calls `change` with the module `name`: now if it is imported, else before its importer gets it.

    Raises `ConfigError` if the module is missing. The import raises it if the module does not fit.
    """
    if name in sys.modules:
        _apply(change, sys.modules[name])
    elif find_spec(name) is None:
        raise incompatible(f"the module {name} is missing")
    else:
        sys.meta_path.insert(0, _Finder(name, change))


class _Finder(MetaPathFinder):
    def __init__(self, name: str, change: Change) -> None:
        self._name, self._change = name, change

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path) if fullname == self._name else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Changing(spec.loader, self._change)
        return spec


class _Changing(Loader):
    """Loader that changes a module after the loader before it has executed it."""

    def __init__(self, inner: Loader, change: Change) -> None:
        self._inner, self._change = inner, change

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._inner.exec_module(module)
        _apply(self._change, module)


def _apply(change: Change, module: ModuleType) -> None:
    with fitting_litellm():
        change(module)
