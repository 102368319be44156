"""Evaluates the CEL rules (``x-kubernetes-validations``) of a structural schema over a manifest."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import celpy
from celpy import celtypes
from celpy.adapter import json_to_cel
from celpy.evaluation import CELEvalError

from finetune_cli.field_errors import OMITTED, FieldError, invalid

# Rules over the old object hold for updates only; a manifest on its own is always a creation.
_TRANSITION = re.compile(r"\boldSelf\b")
_REFERENCE = re.compile(r"\bself((?:\.[A-Za-z_]\w*)*)")


def rule_errors(value: Any, schema: dict[str, Any], blocked: Sequence[str] = ()) -> list[FieldError]:
    """Violated rules, outer ones first.

    ``blocked`` are paths of fields that are missing or malformed. Rules that read them are left out: the API server
    leaves out every rule then, but the others are worth knowing at once too.
    """
    return list(_walk(value, schema, "", blocked))


def _walk(value: Any, schema: dict[str, Any], path: str, blocked: Sequence[str]) -> Iterator[FieldError]:
    for rule in schema.get("x-kubernetes-validations", ()):
        expression = rule["rule"]
        if not _TRANSITION.search(expression) and not _reads_any(expression, path, blocked):
            yield from _violation(value, expression, rule["message"], path)
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _walk(item, schema.get("items", {}), f"{path}[{index}]", blocked)
    if isinstance(value, dict):
        for name, child in schema.get("properties", {}).items():
            if name in value:
                yield from _walk(value[name], child, f"{path}.{name}".removeprefix("."), blocked)


def _reads_any(expression: str, path: str, blocked: Sequence[str]) -> bool:
    """Whether a rule at ``path`` reads one of the blocked fields, or something below one."""
    read = [f"{path}{match[1]}".removeprefix(".") for match in _REFERENCE.finditer(expression)]
    return any(field == bad or field.startswith((f"{bad}.", f"{bad}[")) for field in read for bad in blocked)


def _violation(value: Any, expression: str, message: str, path: str) -> Iterator[FieldError]:
    shown = OMITTED if isinstance(value, dict | list) else value
    try:
        holds = _program(expression).evaluate({"self": _as_cel(value)})
    except CELEvalError as error:
        yield invalid(path, shown, f"{error.args[0]!r} evaluating rule: {message}")
        return
    if not holds:
        yield invalid(path, shown, message)


def _as_cel(value: Any) -> celtypes.Value:
    return json_to_cel(value)


@cache
def _program(rule: str) -> celpy.Runner:
    environment = celpy.Environment()
    return environment.program(environment.compile(rule))
