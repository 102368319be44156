"""Found by every Python process that has this folder in its path: notes what could run code that came from elsewhere.

Events: https://docs.python.org/3/library/audit_events.html. ``AUDIT_LOG`` is the file for the notes, one JSON document
a line; ``AUDIT_WATCHED`` are folders with what came from a store or a hub, and ``AUDIT_MARK`` is text in each piece of
code among that.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from types import CodeType, FrameType
from typing import Any

_LOG = os.environ.get("AUDIT_LOG")
_WATCHED = tuple(filter(None, os.environ.get("AUDIT_WATCHED", "").split(os.pathsep)))
_MARK = os.environ.get("AUDIT_MARK", "")
_STACK = 6
_done: set[str] = set()


def _note(event: str, detail: str) -> None:
    frame: FrameType | None = sys._getframe(2)
    stack = []
    while frame and len(stack) < _STACK:
        stack.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
        frame = frame.f_back
    line = json.dumps({"event": event, "detail": detail, "stack": stack, "process": sys.argv[:3]}) + "\n"
    assert _LOG
    file = os.open(_LOG, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.write(file, line.encode())
    os.close(file)


def _watched(path: object) -> bool:
    return isinstance(path, str) and path.startswith(_WATCHED)


def _marked(source: object) -> bool:
    if isinstance(source, CodeType):
        return _MARK in source.co_consts or _watched(source.co_filename)
    text = source.decode(errors="replace") if isinstance(source, bytes) else source
    return isinstance(text, str) and _MARK in text


def _foreign(event: str, arguments: tuple[Any, ...]) -> str | None:
    """What an event tells of code from elsewhere; None when it is nothing."""
    match event, arguments:
        case "pickle.find_class", (module, name):
            return f"{module}.{name}"
        case (("marshal.load" | "marshal.loads"), _):
            # Compiled modules are read so by the import system itself.
            caller = sys._getframe(2).f_code.co_filename
            return None if caller.startswith("<frozen importlib") else caller
        case "compile", (source, name):
            return str(name) if _marked(source) or _watched(name) else None
        case "exec", (code,):
            return code.co_filename if _marked(code) else None
        case "import", (module, name, path, *_):
            return str(module) if _watched(name) or any(map(_watched, path or ())) else None
        case "ctypes.dlopen", (name,):
            return str(name) if _watched(name) else None
    return None


def _watch_torch() -> None:
    """torch.load has no event; it is watched from when it is there."""
    serialization = sys.modules.get("torch.serialization")
    load = getattr(serialization, "load", None)
    if load is None or "torch" in _done or not hasattr(sys.modules.get("torch"), "load"):
        return
    _done.add("torch")

    @functools.wraps(load)
    def noted(*arguments: Any, **options: Any) -> Any:
        _note("torch.load", repr(options.get("weights_only")))
        return load(*arguments, **options)

    for module in (serialization, sys.modules["torch"]):
        vars(module)["load"] = noted


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("import", "exec"):
        _watch_torch()
    detail = _foreign(event, arguments)
    if detail is not None:
        _note(event, detail)


if _LOG:
    sys.addaudithook(_hook)
