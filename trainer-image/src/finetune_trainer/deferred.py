"""Packages that are executed when something is first asked of them, instead of when they are imported."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from threading import RLock
from types import ModuleType
from typing import Any

_ASKED = "__getattr__"


def defer(
    name: str,
    meanwhile: Mapping[str, Any] | None = None,
    at_once: Sequence[str] = (),
    afterwards: Callable[[Any], None] | None = None,
) -> None:
    """Puts a package into sys.modules that is executed as soon as it is asked for what it does not have until then.

    Nothing happens if it is imported already.

    Args:
        name: of the package, in another package.
        meanwhile: what it has until it is executed, which must be as good as its own as long as nothing else is used.
        at_once: modules of it that do without the rest, and are imported now.
        afterwards: called with the package once it has been executed.

    Raises:
        ImportError: there is no such package or module.
    """
    if name in sys.modules:
        return
    spec = find_spec(name)
    if spec is None or spec.loader is None or not spec.parent:
        raise ModuleNotFoundError(f"there is no package {name}", name=name)
    module = module_from_spec(spec)
    sys.modules[name] = module
    for child in at_once:
        import_module(f"{name}.{child}")
    parent, _, own = name.rpartition(".")
    setattr(import_module(parent), own, module)
    _Deferred(module, spec, meanwhile or {}, afterwards)


def is_deferred(module: ModuleType) -> bool:
    """Whether nothing has been asked of a module that :func:`defer` made, or nothing but what it had."""
    return isinstance(getattr(module.__dict__.get(_ASKED), "__self__", None), _Deferred)


def execute(module: ModuleType) -> None:
    """Executes a module that :func:`defer` made, unless that has been done."""
    deferred = getattr(module.__dict__.get(_ASKED), "__self__", None)
    if isinstance(deferred, _Deferred):
        deferred.execute_once()


class _Deferred(MetaPathFinder):
    """What is behind a package that has not been executed.

    A module's ``__getattr__`` is asked for what the module does not have (https://peps.python.org/pep-0562/), a finder
    for a module of it. Executing the package may import that one, which must not be done twice.
    """

    def __init__(
        self,
        module: ModuleType,
        spec: ModuleSpec,
        meanwhile: Mapping[str, Any],
        afterwards: Callable[[Any], None] | None,
    ) -> None:
        self._module, self._spec, self._lock = module, spec, RLock()
        self._meanwhile, self._afterwards = meanwhile, afterwards
        module.__dict__.update(meanwhile, **{_ASKED: self.answer})
        sys.meta_path.insert(0, self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """That of a module of the package which the package itself has imported."""
        if fullname.rpartition(".")[0] != self._spec.name:
            return None
        self.execute_once()
        imported = sys.modules.get(fullname)
        if imported is None:
            return None
        spec = ModuleSpec(fullname, _Imported(imported))
        # The import system prefers the spec of a module that has come in the meantime, which would be executed again.
        imported.__spec__ = spec
        return spec

    def answer(self, name: str) -> Any:
        """What the package has under a name; it is executed first.

        Raises:
            AttributeError: it has no such name.
        """
        if name == "__path__" and self._spec.submodule_search_locations is None:
            # Each import from a module asks for it, to tell packages by it.
            raise AttributeError(f"module {self._spec.name!r} is no package", name=name)
        self.execute_once()
        known = self._module.__dict__
        if name not in known:
            raise AttributeError(f"module {self._spec.name!r} has no attribute {name!r}", name=name)
        return known[name]

    def execute_once(self) -> None:
        """Executes the package; only the first call does."""
        with self._lock:
            known = self._module.__dict__
            if known.pop(_ASKED, None) is None:
                return
            sys.meta_path.remove(self)
            for name in self._meanwhile:
                known.pop(name, None)
            assert self._spec.loader is not None
            self._spec.loader.exec_module(self._module)
            if self._afterwards:
                self._afterwards(self._module)


class _Imported(Loader):
    """Loads a module that is there already."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec
