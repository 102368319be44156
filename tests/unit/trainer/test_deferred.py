"""Packages are executed when something is asked of them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from finetune_trainer.deferred import defer, execute, is_deferred

_NAME = "finetune_test_outer.inner"
_CODE = (
    "from finetune_test_outer.inner import second\nlog = 'written'\nchosen = 'own'\nsecond.order.append('package')\n"
)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package in a package, with modules that tell who was executed."""
    folder = tmp_path / "finetune_test_outer" / "inner"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "__init__.py").write_text(_CODE)
    (folder / "first.py").write_text("value = 1\n")
    (folder / "second.py").write_text("order = ['second']\n")
    monkeypatch.syspath_prepend(tmp_path)
    finders = list(sys.meta_path)
    yield
    sys.meta_path[:] = finders
    for name in [name for name in sys.modules if name.startswith("finetune_test_outer")]:
        del sys.modules[name]


def _inner() -> Any:
    return importlib.import_module(_NAME)


@pytest.mark.usefixtures("package")
class TestDefer:
    def test_importing_the_package_does_not_execute_it(self) -> None:
        defer(_NAME)
        assert is_deferred(_inner())
        assert importlib.import_module("finetune_test_outer").inner is _inner()
        assert f"{_NAME}.second" not in sys.modules

    def test_what_it_has_until_then_does_not_execute_it(self) -> None:
        defer(_NAME, {"chosen": "stand-in"}, ("first",))
        assert (_inner().chosen, _inner().first.value) == ("stand-in", 1)
        assert is_deferred(_inner())

    def test_anything_else_executes_it_once(self) -> None:
        told: list[ModuleType] = []
        defer(_NAME, {"chosen": "stand-in"}, ("first",), told.append)
        assert (_inner().log, _inner().chosen) == ("written", "own")
        assert not is_deferred(_inner())
        assert told == [_inner()]
        assert _inner().second.order == ["second", "package"]

    def test_it_is_executed_on_demand_and_only_once(self) -> None:
        defer(_NAME, {"chosen": "stand-in"})
        inner = _inner()
        execute(inner)
        execute(inner)
        assert (inner.chosen, inner.second.order) == ("own", ["second", "package"])

    def test_an_import_from_a_module_does_not_execute_it(self) -> None:
        name = "finetune_test_outer.inner.first"
        defer(name, {"value": "stand-in"})
        from finetune_test_outer.inner.first import value  # type: ignore[import-not-found]

        assert value == "stand-in"
        assert is_deferred(sys.modules[name])
        execute(sys.modules[name])
        assert sys.modules[name].value == 1

    def test_importing_a_module_of_it_executes_it(self) -> None:
        defer(_NAME)
        assert importlib.import_module(f"{_NAME}.second").order == ["second", "package"]
        assert not is_deferred(_inner())
        assert _inner().second.__spec__.origin.endswith("second.py")

    def test_a_module_that_it_does_not_import_itself(self) -> None:
        defer(_NAME)
        assert importlib.import_module(f"{_NAME}.first").value == 1
        assert _inner().second.order == ["second", "package"]

    def test_a_name_that_it_has_not(self) -> None:
        defer(_NAME)
        for _ in range(2):
            with pytest.raises(AttributeError, match="no attribute 'other'"):
                _ = _inner().other

    def test_what_is_imported_stays_as_it_is(self) -> None:
        imported = _inner()
        defer(_NAME, {"chosen": "stand-in"})
        assert (_inner() is imported, imported.chosen) == (True, "own")

    def test_no_such_package(self) -> None:
        with pytest.raises(ModuleNotFoundError, match=r"finetune_test_outer\.absent"):
            defer("finetune_test_outer.absent")
