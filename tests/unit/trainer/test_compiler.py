"""What is asked of PyTorch's compiler before it is imported."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from finetune_trainer import compiler
from finetune_trainer.compiler import compiling_at_first_call, disable


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


def test_a_marked_function_is_compiled_once_when_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    told: list[Any] = []

    def compile_now(function: Any, **options: Any) -> Any:
        told.append((function(0), options))
        return lambda number: 10 * function(number)

    monkeypatch.setattr(torch, "compile", compile_now)
    with compiling_at_first_call():

        @torch.compile
        def plain(number: int) -> int:
            """Its own."""
            return number + 1

        @torch.compile(dynamic=False)
        def marked(number: int) -> int:
            return number + 2

    assert torch.compile is compile_now
    assert (told, plain.__doc__) == ([], "Its own.")
    assert [plain(1), plain(2), marked(1)] == [20, 30, 30]
    assert told == [(1, {}), (2, {"dynamic": False})]


def test_whatever_is_imported_pytorch_compiles_afterwards() -> None:
    import torch

    real = torch.compile
    with pytest.raises(ImportError), compiling_at_first_call():
        raise ImportError("no such library")
    assert torch.compile is real
