"""PyTorch's symbolic shapes, which take a tenth of a process's start with sympy and are there for its compiler.

transformers first makes each model of tensors without memory. For these PyTorch asks, in Python, whether conditions on
shapes hold, and which type a result has; both are answered here as long as there are no symbols.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import wraps
from types import ModuleType
from typing import Any

from finetune_trainer.deferred import defer, execute

_SHAPES, _SYMBOLS, _TYPES = "torch.fx.experimental.symbolic_shapes", "sympy", "elementwise_dtypes"


def defer_symbols() -> None:
    """Has symbolic shapes and sympy imported when something else is asked of them, or something of a symbol.

    Raises:
        ImportError: this PyTorch does not ask for them in the way that is known.
    """
    defer(_SHAPES, {name: _answering(name, *known) for name, known in _KNOWN.items()})
    import torch._prims_common as common

    if not hasattr(common, _TYPES):
        raise ImportError(f"{common.__name__} has no {_TYPES}, which imports {_SYMBOLS}", name=common.__name__)
    setattr(common, _TYPES, _without_symbols(getattr(common, _TYPES)))


def _is_condition(value: Any) -> bool:
    return type(value) is bool


def _is_whole(value: Any) -> bool:
    return type(value) in (bool, int)


def _is_number(value: Any) -> bool:
    return type(value) in (bool, int, float)


def _is_shape(value: Any) -> bool:
    return type(value) is tuple and all(type(size) is int for size in value)


def _itself(value: Any) -> Any:
    return value


# Functions of the module: which arguments have no symbols in them, and what the answer for these is.
_Known = tuple[Callable[[Any], bool], Callable[..., Any]]
_KNOWN: Mapping[str, _Known] = {
    "expect_true": (_is_condition, _itself),
    "guard_or_false": (_is_condition, _itself),
    "guard_or_true": (_is_condition, _itself),
    "guard_size_oblivious": (_is_condition, _itself),
    "guarding_hint_or_throw": (_is_whole, _itself),
    "has_guarding_hint": (_is_number, lambda value: True),
    "is_nested_int": (_is_number, lambda value: False),
    "statically_known_true": (_is_condition, _itself),
    "sym_and": (_is_condition, lambda *values: all(values)),
    "sym_eq": (_is_shape, lambda one, other: one == other),
    "sym_or": (_is_condition, lambda *values: any(values)),
}


def _answering(name: str, is_known: Callable[[Any], bool], answer: Callable[..., Any]) -> Callable[..., Any]:
    def function(*values: Any) -> Any:
        if all(map(is_known, values)):
            return answer(*values)
        execute(sys.modules[_SHAPES])
        return getattr(sys.modules[_SHAPES], name)(*values)

    return function


class _NoSymbol:
    """What nothing is an instance of, as nothing is a symbol where sympy has not been imported."""


def _without_symbols(types: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which imports sympy to see whether something is a symbol, without that import."""
    symbols = ModuleType(_SYMBOLS)
    vars(symbols)["Basic"] = _NoSymbol

    @wraps(types)
    def answer(*args: Any, **options: Any) -> Any:
        if _SYMBOLS in sys.modules:
            return types(*args, **options)
        sys.modules[_SYMBOLS] = symbols
        try:
            return types(*args, **options)
        finally:
            del sys.modules[_SYMBOLS]

    return answer
