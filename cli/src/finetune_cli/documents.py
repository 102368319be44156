"""Reads fields of JSON documents that others write. Pure.

A command line is older or newer than the operator that it looks at: a field that is absent, unknown or of another type
than expected must never end a command. So documents of a cluster are read field by field here, not by the models of
``finetune_api``, which refuse what they do not know.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

Object = dict[str, Any]


def value_at(document: Any, *path: str) -> Any:
    """The value at a path of keys; None where there is none."""
    for key in path:
        if not isinstance(document, dict):
            return None
        document = document.get(key)
    return document


def text_at(document: Any, *path: str) -> str:
    """A scalar as text; empty where there is none."""
    return scalar_text(value_at(document, *path))


def number_at(document: Any, *path: str) -> float | None:
    """A number, also one that travels as a decimal string; None where there is none."""
    value = value_at(document, *path)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def whole_at(document: Any, *path: str) -> int | None:
    """A whole number; None where there is none."""
    value = value_at(document, *path)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def object_at(document: Any, *path: str) -> Object:
    """An object; empty where there is none."""
    value = value_at(document, *path)
    return value if isinstance(value, dict) else {}


def objects_at(document: Any, *path: str) -> tuple[Object, ...]:
    """The objects of a list; empty where there is none."""
    value = value_at(document, *path)
    return tuple(item for item in value if isinstance(item, dict)) if isinstance(value, list) else ()


def time_at(document: Any, *path: str) -> datetime | None:
    """A time in RFC 3339 with its zone; None where there is none."""
    try:
        moment = datetime.fromisoformat(text_at(document, *path))
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def scalar_text(value: Any) -> str:
    """A scalar, or a list of scalars, as YAML would show it; empty for what is neither."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(scalar_text(item) for item in value)
    return str(value) if isinstance(value, int | float | str) else ""


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every scalar below a value with its path, such as ``dataset.train[0].source``. A list of scalars is one value, as
    are an empty list and an empty object."""
    if isinstance(value, dict) and value:
        for key, child in value.items():
            yield from leaves(child, f"{path}.{key}".removeprefix("."))
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for index, child in enumerate(value):
            yield from leaves(child, f"{path}[{index}]")
    else:
        yield path, value
