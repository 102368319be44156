"""Evaluates the CEL rules of a schema over a document, as the API server does for a creation.

Needs cel-python, which the operator and the command line bring along; nothing that a pod runs loads this module.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import celpy
from celpy.adapter import json_to_cel
from celpy.evaluation import CELEvalError

from finetune_api.base import EFFECTIVE_RULES, WRITTEN_RULES

# Rules over the old object hold for updates only; a document on its own is always a creation.
_TRANSITION = re.compile(r"\boldSelf\b")
_REFERENCE = re.compile(r"\bself((?:\.[A-Za-z_]\w*)*)")


@dataclass(frozen=True)
class Violation:
    """A broken rule: the path of the value that it is about, that value, and what the rule says."""

    path: str
    value: Any
    message: str


def no_rule_is_skipped(_: str, __: str) -> bool:
    return False


def violations(
    value: Any, schema: dict[str, Any], path: str = "", skipped: Callable[[str, str], bool] = no_rule_is_skipped
) -> Iterator[Violation]:
    """Broken rules of a document, outer ones first; ``skipped`` leaves out a rule by its expression and path."""
    for rule in (rule for key in (WRITTEN_RULES, EFFECTIVE_RULES) for rule in schema.get(key, ())):
        expression = rule["rule"]
        if not _TRANSITION.search(expression) and not skipped(expression, path):
            yield from _violation(value, expression, rule["message"], path)
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from violations(item, schema.get("items", {}), f"{path}[{index}]", skipped)
    if isinstance(value, dict):
        for name, child in schema.get("properties", {}).items():
            if name in value:
                yield from violations(value[name], child, f"{path}.{name}".removeprefix("."), skipped)


def fields_read(expression: str, path: str) -> tuple[str, ...]:
    """Paths of the fields that a rule at ``path`` reads."""
    return tuple(f"{path}{match[1]}".removeprefix(".") for match in _REFERENCE.finditer(expression))


def _violation(value: Any, expression: str, message: str, path: str) -> Iterator[Violation]:
    problem = _problem(expression, json.dumps(_part_read(value, expression), sort_keys=True))
    if problem is not None:
        yield Violation(path, value, f"{problem}{message}")


def _part_read(value: Any, expression: str) -> Any:
    """The part of a value that a rule reads: many documents have it in common."""
    fields = {match[1].removeprefix(".") for match in _REFERENCE.finditer(expression)}
    return _only(value, [field.split(".") for field in fields]) if all(fields) else value


def _only(value: Any, paths: list[list[str]]) -> Any:
    if not isinstance(value, dict) or not all(paths):
        return value
    heads = {path[0] for path in paths} & value.keys()
    return {head: _only(value[head], [path[1:] for path in paths if path[0] == head]) for head in heads}


@lru_cache(maxsize=4096)
def _problem(expression: str, value: str) -> str | None:
    """None where a rule holds, else what comes before its message: nothing, or why it cannot be evaluated."""
    try:
        holds = _program(expression).evaluate({"self": json_to_cel(json.loads(value, parse_int=_in_64_bits))})
    except CELEvalError as error:
        return f"{error.args[0]!r} evaluating rule: "
    return None if holds else ""


def _in_64_bits(digits: str) -> int:
    """The nearest number that CEL holds: a schema refuses the others, whatever its rules make of them."""
    return max(-(1 << 63), min(int(digits), (1 << 63) - 1))


@cache
def _program(rule: str) -> celpy.Runner:
    environment = celpy.Environment()
    return environment.program(environment.compile(rule))
