"""The effective spec: what the manifest says, and what it leaves out from elsewhere."""

from __future__ import annotations

from functools import cache

from finetune_api.cel import violations
from finetune_api.crd import Schema, effective_spec_schema
from finetune_api.spec import FineTuneJobSpec


@cache
def _schema() -> Schema:
    return effective_spec_schema()


def broken_rules(spec: FineTuneJobSpec) -> tuple[str, ...]:
    """What is wrong with an effective spec across its fields, every broken rule at once.

    The API server has held the rules against what was written; a default may break one that it could not decide.
    """
    found = violations(spec.to_wire(), _schema(), "spec")
    return tuple(f"{broken.path}: {broken.message}" for broken in found)
