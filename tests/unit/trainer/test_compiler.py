"""What is asked of PyTorch's compiler before it is imported."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from finetune_trainer import compiler
from finetune_trainer.compiler import disable


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A compiler that is not there until ``deferred`` is false; then it marks what must not be compiled."""
    found = SimpleNamespace(deferred=True)
    found.disable = lambda function, recursive, **options: lambda: (function(), recursive, options)
    monkeypatch.setitem(sys.modules, "torch._dynamo", found)  # type: ignore[arg-type]
    monkeypatch.setattr(compiler, "is_deferred", lambda module: module.deferred)
    return found


def test_a_function_is_called_as_it_is_until_there_is_a_compiler(stand_in: SimpleNamespace) -> None:
    function = disable(lambda: "called", reason="why")
    assert function() == "called"
    stand_in.deferred = False
    assert function() == ("called", True, {"reason": "why"})


@pytest.mark.usefixtures("stand_in")
def test_it_is_a_decorator_with_arguments_too() -> None:
    @disable(recursive=False)
    def function() -> str:
        """Its own."""
        return "called"

    assert (function(), function.__doc__) == ("called", "Its own.")


def test_a_class_stays_as_it_is() -> None:
    class Some:
        pass

    marked: Any = disable(Some)
    assert marked is Some
