"""PyTorch's compiler, which is imported when something is to be compiled: that takes as long as PyTorch itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from types import SimpleNamespace
from typing import Any, cast

from finetune_trainer.deferred import defer, is_deferred

_COMPILER = "torch._dynamo"
# transformers' masks use the one, checkpointed blocks read the other; neither imports the rest.
_ALONE = ("_trace_wrapped_higher_order_op", "config")


def defer_compiler() -> None:
    """Gives what PyTorch and transformers ask of the compiler, whether anything is compiled or not.

    They mark functions that are not to be compiled or not to be looked into, and optimizers break a graph that there is
    not. The marks hold once the compiler is there.
    """
    allowed: list[Any] = []
    meanwhile = {
        "allow_in_graph": partial(_allow_in_graph, allowed),
        "assume_constant_result": _assume_constant_result,
        "disable": disable,
        "graph_break": lambda msg="": None,
        # Joining a world forgets rules that may have been made too early.
        "trace_rules": SimpleNamespace(clear_lru_cache=lambda: None),
    }
    defer(_COMPILER, meanwhile, _ALONE, lambda compiler: compiler.allow_in_graph(allowed))


def _allow_in_graph(allowed: list[Any], function: Any) -> Any:
    allowed.append(function)
    return function


def _assume_constant_result(function: Any) -> Any:
    # All that the real one does.
    function._dynamo_marked_constant = True
    return function


def disable(function: Any = None, recursive: bool = True, **options: Any) -> Any:
    """``torch._dynamo.disable`` as long as there is no compiler: calls the function as it is until there is one."""
    if function is None:
        return partial(disable, recursive=recursive, **options)
    if isinstance(function, type):
        # The real one would only care for calls of its instances.
        return function
    disabled: Callable[..., Any] | None = None

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        nonlocal disabled
        if disabled is None:
            compiler = sys.modules[_COMPILER]
            if is_deferred(compiler):
                return function(*args, **kwargs)
            disabled = cast(Any, compiler).disable(function, recursive, **options)
        return disabled(*args, **kwargs)

    return run


@contextmanager
def compiling_at_first_call() -> Iterator[None]:
    """Has functions that are marked with ``torch.compile`` in the meantime compiled when they are called first.

    PyTorch imports the compiler as soon as a function is marked, called or not.
    """
    import torch

    compile_now = torch.compile
    cast(Any, torch).compile = partial(_at_first_call, compile_now)
    try:
        yield
    finally:
        cast(Any, torch).compile = compile_now


def _at_first_call(compile_now: Callable[..., Any], function: Any = None, **options: Any) -> Any:
    if function is None:
        return partial(_at_first_call, compile_now, **options)
    compiled: Callable[..., Any] | None = None

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        nonlocal compiled
        if compiled is None:
            compiled = cast(Callable[..., Any], compile_now(function, **options))
        return compiled(*args, **kwargs)

    return run
