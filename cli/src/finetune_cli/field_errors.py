"""Errors of single fields, worded as the API server words them.

The wording is that of ``k8s.io/apimachinery/pkg/util/validation/field`` and ``k8s.io/kube-openapi/pkg/validation``, so
that a message met offline can be looked up, and is met again, on a cluster.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# The API server omits the value of objects and arrays that break a rule.
OMITTED = object()

ROOT = "<nil>"


@dataclass(frozen=True)
class FieldError:
    """One violated rule.

    ``path`` is the field in dots and brackets, ``text`` the whole message. ``blocking`` errors make rules over the same
    part of the document meaningless, so these are not evaluated.
    """

    path: str
    text: str
    blocking: bool = False

    def __str__(self) -> str:
        return self.text


def quoted(value: object) -> str:
    """A value as Go prints it in an error: strings in double quotes, everything else as JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _at(path: str, body: str, *, blocking: bool = False) -> FieldError:
    return FieldError(path, f"{path or ROOT}: {body}", blocking)


def invalid(path: str, value: object, detail: str) -> FieldError:
    shown = "" if value is OMITTED else f"{quoted(value)}: "
    return _at(path, f"Invalid value: {shown}{detail}")


def wrong_type(path: str, expected: str, found: str) -> FieldError:
    """A value of another JSON type; the API server prints the type's name in the value's place."""
    detail = f"{path} in body must be of type {expected}: {quoted(found)}"
    return _at(path, f"Invalid value: {quoted(found)}: {detail}", blocking=True)


def required(path: str, detail: str = "") -> FieldError:
    return _at(path, f"Required value: {detail}" if detail else "Required value", blocking=True)


def unknown_field(path: str) -> FieldError:
    """A field that the schema does not have, as the strict validation that kubectl asks for names it."""
    return FieldError(path, f"unknown field {quoted(path)}")


def unsupported(path: str, value: object, allowed: Iterable[Any]) -> FieldError:
    values = ", ".join(quoted(item if isinstance(item, str) else quoted(item)) for item in allowed)
    return _at(path, f"Unsupported value: {quoted(value)}: supported values: {values}", blocking=True)


def too_long(path: str, limit: int) -> FieldError:
    unit = "byte" if limit == 1 else "bytes"
    return _at(path, f"Too long: may not be more than {limit} {unit}", blocking=True)


def too_many(path: str, count: int, limit: int) -> FieldError:
    unit = "item" if limit == 1 else "items"
    return _at(path, f"Too many: {count}: must have at most {limit} {unit}", blocking=True)
