"""Structural-schema validation as the API server does it: nulls, defaults, unknown fields, types and bounds.

Follows ``k8s.io/apiextensions-apiserver/pkg/apiserver`` (``schema/defaulting``, ``validation``).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import jsonschema
from jsonschema.exceptions import ValidationError

from finetune_cli.field_errors import (
    FieldError,
    invalid,
    required,
    too_long,
    too_many,
    unknown_field,
    unsupported,
    wrong_type,
)

Schema = dict[str, Any]

# metav1.ObjectMeta; the CRD says only that metadata is an object.
_METADATA_FIELDS = frozenset(
    (
        "annotations",
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generateName",
        "generation",
        "labels",
        "managedFields",
        "name",
        "namespace",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
        "uid",
    )
)


def with_defaults(value: Any, schema: Schema) -> Any:
    """A copy in which nulls are dropped and absent fields have the schema's defaults."""
    if isinstance(value, list):
        items = schema.get("items", {})
        return [with_defaults(item, items) for item in value]
    if not isinstance(value, dict):
        return value
    properties = schema.get("properties", {})
    defaults = {name: copy.deepcopy(child["default"]) for name, child in properties.items() if "default" in child}
    present = {name: child for name, child in value.items() if child is not None}
    other = schema.get("additionalProperties", {})
    return {name: with_defaults(child, properties.get(name, other)) for name, child in (defaults | present).items()}


def unknown_fields(value: Any, schema: Schema, path: str = "") -> Iterator[FieldError]:
    """Every field that the schema does not name, in document order."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from unknown_fields(item, schema.get("items", {}), f"{path}[{index}]")
    if not isinstance(value, dict) or "additionalProperties" in schema:
        return
    known = schema.get("properties")
    if known is None:
        return
    for name, child in value.items():
        where = f"{path}.{name}" if path else name
        if name not in known:
            yield unknown_field(where)
        elif where == "metadata" and isinstance(child, dict):
            yield from (unknown_field(f"metadata.{key}") for key in child if key not in _METADATA_FIELDS)
        else:
            yield from unknown_fields(child, known[name], where)


def schema_errors(value: Any, schema: Schema) -> list[FieldError]:
    """Violations of types, required fields, enums, patterns and bounds, by path."""
    errors = _VALIDATOR(schema).iter_errors(value)
    found = {message for error in errors for message in _messages(error)}
    return sorted(found, key=lambda error: (error.path, error.text))


def field_path(parts: Iterable[str | int]) -> str:
    """``spec.dataset.train[0].source`` for its parts."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.removeprefix(".")


def _pattern(_: Any, pattern: str, instance: Any, __: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not re.search(_go_pattern(pattern), instance):
        yield ValidationError("pattern")


def _go_pattern(pattern: str) -> str:
    """``$`` is the end of the text in Go; in Python it also matches before a last line feed."""
    return re.sub(r"(?<!\\)\$", r"\\Z", pattern)


def _is_integer(_: Any, instance: Any) -> bool:
    """Whether the API server reads it as one: what 64 bits do not hold is a number to it."""
    return isinstance(instance, int) and not isinstance(instance, bool) and -(1 << 63) <= instance < 1 << 63


_BASE = jsonschema.Draft7Validator
_extended: Callable[..., Any] = jsonschema.validators.extend
_VALIDATOR = _extended(_BASE, {"pattern": _pattern}, type_checker=_BASE.TYPE_CHECKER.redefine("integer", _is_integer))


def _type_name(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    names = {
        int: "integer" if _is_integer(None, value) else "number",
        float: "number",
        str: "string",
        list: "array",
        dict: "object",
        type(None): "null",
    }
    return names[type(value)]


# Builds the message of one violated keyword from the field's path, the keyword's value in the schema and the field's.
_Message = Callable[[str, Any, Any], FieldError]


def _limit(phrase: str) -> _Message:
    """Message of a violated bound; ``phrase`` holds the bound as ``{}``."""
    return lambda path, bound, value: invalid(path, value, f"{path} in body {phrase.format(bound)}")


def _count(phrase: str) -> _Message:
    return lambda path, bound, value: invalid(path, len(value), f"{path} in body {phrase.format(bound)}")


_MESSAGES: dict[str, _Message] = {
    "type": lambda path, expected, value: wrong_type(path, expected, _type_name(value)),
    # Only int-or-string fields have an anyOf; the API server reads them as a type of two names.
    "anyOf": lambda path, _, value: wrong_type(path, "integer,string", _type_name(value)),
    "required": lambda path, missing, _: required(f"{path}.{missing}".removeprefix(".")),
    "enum": lambda path, allowed, value: unsupported(path, value, allowed),
    "maxLength": lambda path, limit, _: too_long(path, limit),
    "maxItems": lambda path, limit, value: too_many(path, len(value), limit),
    "maxProperties": lambda path, limit, value: too_many(path, len(value), limit),
    "minLength": _limit("should be at least {} chars long"),
    "minItems": _count("should have at least {} items"),
    "minProperties": _count("should have at least {} properties"),
    "minimum": _limit("should be greater than or equal to {}"),
    "maximum": _limit("should be less than or equal to {}"),
    "pattern": _limit("should match '{}'"),
}


def _messages(error: ValidationError) -> list[FieldError]:
    path, keyword, value = field_path(error.absolute_path), str(error.validator), error.instance
    # An enum of a value of the wrong type says nothing more than the type does.
    if keyword == "enum" and not isinstance(value, str):
        return []
    # jsonschema reports each missing field on its own, but names it in the text only.
    if keyword == "required":
        fields: Any = error.validator_value
        return [_MESSAGES[keyword](path, name, value) for name in fields if name not in cast(dict[str, Any], value)]
    return [_MESSAGES[keyword](path, error.validator_value, value)]
