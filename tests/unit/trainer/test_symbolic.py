"""What is asked of PyTorch's symbolic shapes is answered as they answer it, and by them where there are symbols."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch._prims_common as common
from torch.fx.experimental import symbolic_shapes
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from finetune_trainer import symbolic

_CONDITIONS = ("expect_true", "guard_or_false", "guard_or_true", "guard_size_oblivious", "statically_known_true")
_ASKED: list[tuple[str, tuple[Any, ...]]] = [
    *((name, (value,)) for name in (*_CONDITIONS, "sym_and", "sym_or") for value in (True, False)),
    *((name, (True, value)) for name in ("sym_and", "sym_or") for value in (True, False)),
    *((name, (False, False, True)) for name in ("sym_and", "sym_or")),
    *(("guarding_hint_or_throw", (value,)) for value in (0, 3, True)),
    *((name, (value,)) for name in ("has_guarding_hint", "is_nested_int") for value in (0, 1.5, True)),
    *(("sym_eq", pair) for pair in (((1, 2), (1, 2)), ((1, 2), (1, 3)), ((1,), (1, 2)), ((), ()))),
]


def answering(name: str) -> Any:
    return symbolic._answering(name, *symbolic._KNOWN[name])


# PyTorch says that guard_size_oblivious is going to be removed, and still asks for it itself.
@pytest.mark.filterwarnings("ignore:guard_size_oblivious will be removed:FutureWarning")
@pytest.mark.parametrize(("name", "values"), _ASKED)
def test_what_has_no_symbols_is_answered_as_it_would_be(name: str, values: tuple[Any, ...]) -> None:
    expected, found = getattr(symbolic_shapes, name)(*values), answering(name)(*values)
    assert (type(found), found) == (type(expected), expected)


def test_each_function_that_is_answered_is_compared() -> None:
    assert {name for name, _ in _ASKED} == set(symbolic._KNOWN)


@pytest.mark.parametrize("name", symbolic._KNOWN)
def test_the_module_itself_is_asked_of_anything_else(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = SimpleNamespace(**{name: lambda *values: ("really", values)})
    monkeypatch.setitem(sys.modules, "torch.fx.experimental.symbolic_shapes", asked)
    assert answering(name)("no number") == ("really", ("no number",))


def test_a_symbol_is_known_to_the_module() -> None:
    shapes = ShapeEnv()
    size = shapes.create_unbacked_symint()
    assert answering("guard_or_true")(size == 3) is True
    assert answering("guard_or_false")(size == 3) is False
    assert answering("is_nested_int")(size) is False


def test_types_of_results_are_found_without_sympy(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = common.ELEMENTWISE_TYPE_PROMOTION_KIND.INT_TO_FLOAT
    monkeypatch.delitem(sys.modules, "sympy", raising=False)
    values = torch.ones(2, dtype=torch.int32), 3
    found = symbolic._without_symbols(common.elementwise_dtypes)(*values, type_promotion_kind=kinds)
    assert "sympy" not in sys.modules
    assert found == (torch.float32, torch.float32)


def test_sympy_is_used_where_it_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sympy", ModuleType("sympy"))
    used = symbolic._without_symbols(lambda: sys.modules["sympy"])
    assert used() is sys.modules["sympy"]


def test_sympy_is_not_hidden_for_longer_than_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sympy", raising=False)
    with pytest.raises(ZeroDivisionError):
        symbolic._without_symbols(lambda: 1 // 0)()
    assert "sympy" not in sys.modules


def test_a_pytorch_that_finds_types_in_another_way_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(common, "elementwise_dtypes")
    with pytest.raises(ImportError, match="has no elementwise_dtypes"):
        symbolic.defer_symbols()
