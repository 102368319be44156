"""Broken CEL rules of a manifest, in the words of the API server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from finetune_api.cel import fields_read, violations
from finetune_cli.field_errors import OMITTED, FieldError, invalid


def rule_errors(value: Any, schema: dict[str, Any], blocked: Sequence[str] = ()) -> list[FieldError]:
    """Violated rules, outer ones first.

    ``blocked`` are paths of fields that are missing or malformed. Rules that read them are left out: the API server
    leaves out every rule then, but the others are worth knowing at once too.
    """

    def reads_blocked(expression: str, path: str) -> bool:
        """Whether a rule reads one of the blocked fields, or something below one."""
        read = fields_read(expression, path)
        return any(field == bad or field.startswith((f"{bad}.", f"{bad}[")) for field in read for bad in blocked)

    found = violations(value, schema, skipped=reads_blocked)
    return [
        invalid(broken.path, OMITTED if isinstance(broken.value, dict | list) else broken.value, broken.message)
        for broken in found
    ]
