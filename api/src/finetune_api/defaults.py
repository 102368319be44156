"""Built-in defaults that a job began with: what nobody said, and how it is laid under what was said. Pure."""

from __future__ import annotations

from typing import Any

from finetune_api.applicable import value_at
from finetune_api.base import Object


def remembered_defaults(manifest: Object) -> Object:
    """The defaults that a job began with, as its status remembers them; empty where it remembers none."""
    known = value_at(manifest, "status.plan.defaults")
    return known if isinstance(known, dict) else {}


def left_out(effective: Any, said: Any) -> Any:
    """What of a document nobody said: its leaves that ``said`` lacks, in the shape of the document; None for nothing.

    Items of a list stay at their places, so that ``{}`` stands for an item that lacks nothing.
    """
    if said is None:
        return None if effective == {} else effective
    if isinstance(effective, dict) and isinstance(said, dict):
        parts = {name: left_out(value, said.get(name)) for name, value in effective.items()}
        return {name: part for name, part in parts.items() if part is not None} or None
    if isinstance(effective, list) and isinstance(said, list):
        items = [left_out(*pair) for pair in zip(effective, said, strict=False)]
        return [item or {} for item in items] if any(items) else None
    return None


def filled(document: Any, defaults: Any) -> Any:
    """A document with what it lacks, the reverse of :func:`left_out`; null counts as left out."""
    if document is None:
        return defaults
    if isinstance(document, dict) and isinstance(defaults, dict):
        return document | {name: filled(document.get(name), value) for name, value in defaults.items()}
    if isinstance(document, list) and isinstance(defaults, list):
        met = [filled(*pair) for pair in zip(document, defaults, strict=False)]
        return met + document[len(met) :]
    return document


def known_to(schema: Object, document: Any) -> Any:
    """A document with the fields of a schema and in its order: a version may have dropped one of them."""
    if isinstance(document, dict) and "properties" in schema:
        fields = schema["properties"]
        return {name: known_to(field, document[name]) for name, field in fields.items() if name in document}
    if isinstance(document, list) and "items" in schema:
        return [known_to(schema["items"], item) for item in document]
    return document
