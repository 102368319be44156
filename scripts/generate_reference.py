"""Writes docs/reference.md from the CustomResourceDefinition; with --check only says whether it is current."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune_api.base import EFFECTIVE_RULES, WRITTEN_RULES
from finetune_api.crd import default_text, effective_job_schema, job_crd, profile_crd, schema_of
from finetune_api.outcomes import EXIT_CODE_OF_CLASS, FailureClass
from finetune_api.profile import FineTuneProfileSpec
from finetune_api.status import ConditionType, Reason

FILE = Path(__file__).resolve().parent.parent / "docs" / "reference.md"
HEADER = """\
<!-- Generated from api/ by `make crds`. Do not edit. -->
# Reference

"""

Schema = dict[str, Any]


def rendered() -> str:
    """The whole document."""
    crd = job_crd()["spec"]
    schema = effective_job_schema()
    names = crd["names"]
    title = f"## {names['kind']} ({crd['group']}/{crd['versions'][0]['name']})\n\n"
    intro = (
        f"{schema['description']} {crd['scope']}; short name `{names['shortNames'][0]}`. Fields that are not listed "
    )
    intro += "are refused.\n\n"
    parts = [
        HEADER + title + intro,
        "### spec\n\n" + _table(schema["properties"]["spec"], "spec", defaults=True),
        "### Rules across fields\n\n" + "".join(f"- {rule}\n" for rule in _rules(schema)),
        "### status\n\n" + _table(schema["properties"]["status"], "status", defaults=False),
        "### Conditions\n\n" + _conditions(),
        _profile(),
        "### Failure classes and exit codes\n\n" + _exit_codes(),
    ]
    return "\n".join(parts)


def _profile() -> str:
    """The fields of a profile; what its defaults may hold is in the table of the job's spec."""
    crd = profile_crd()["spec"]
    schema = crd["versions"][0]["schema"]["openAPIV3Schema"]
    spec = schema_of(FineTuneProfileSpec)
    title = f"## {crd['names']['kind']} ({crd['group']}/{crd['versions'][0]['name']})\n\n"
    intro = f"{schema['description']} {crd['scope']}-scoped; short name `{crd['names']['shortNames'][0]}`.\n\n"
    return title + intro + "### profile spec\n\n" + _table(spec, "spec", defaults=True)


def _table(schema: Schema, path: str, *, defaults: bool) -> str:
    """Every field below ``path``, one row each."""
    head = "| field | type | default | meaning |\n|---|---|---|---|\n"
    if not defaults:
        head = "| field | type | meaning |\n|---|---|---|\n"
    rows = []
    for field, child, required in _fields(schema, path):
        cells = [f"`{field}`", _type(child), _text(child.get("description", ""))]
        if defaults:
            cells.insert(2, _default(child, required))
        rows.append("| " + " | ".join(cells) + " |\n")
    return head + "".join(rows)


def _fields(schema: Schema, path: str) -> Iterator[tuple[str, Schema, bool]]:
    """Fields in depth-first order of the schema, with whether they are required."""
    required = schema.get("required", ())
    for name, child in schema.get("properties", {}).items():
        field = f"{path}.{name}"
        yield field, child, name in required
        if child.get("type") == "array":
            yield from _fields(child["items"], f"{field}[]")
        else:
            yield from _fields(child, field)


def _type(schema: Schema) -> str:
    if schema.get("x-kubernetes-int-or-string"):
        return "quantity"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    kind: str = schema.get("type", "object")
    if kind == "array":
        return f"list of {_type(schema['items'])}{_bounds(schema, 'minItems', 'maxItems')}"
    if kind == "object" and "additionalProperties" in schema:
        return f"map of {_type(schema['additionalProperties'])}"
    if kind == "integer":
        return f"integer{_bounds(schema, 'minimum', 'maximum')}"
    if kind == "string" and schema.get("format") == "date-time":
        return "time"
    return kind


def _bounds(schema: Schema, lower: str, upper: str) -> str:
    low, high = schema.get(lower), schema.get(upper)
    if low is not None and high is not None:
        return f", {low} to {high}"
    if low is not None:
        return f", at least {low}"
    return f", at most {high}" if high is not None else ""


def _default(schema: Schema, required: bool) -> str:
    if required:
        return "**required**"
    default = default_text(schema)
    return f"`{default}`" if default else ""


def _text(description: str) -> str:
    """A description that Markdown shows as it is, also inside a table."""
    return description.replace("|", "\\|").replace("<", "&lt;").replace("*.jsonl", "\\*.jsonl")


def _rules(schema: Schema) -> list[str]:
    """Messages of all CEL rules, each once."""
    own = [_text(rule["message"]) for key in (WRITTEN_RULES, EFFECTIVE_RULES) for rule in schema.get(key, ())]
    children = [*schema.get("properties", {}).values(), *filter(None, [schema.get("items")])]
    return list(dict.fromkeys([*own, *(message for child in children for message in _rules(child))]))


def _conditions() -> str:
    kinds = ", ".join(f"`{kind}`" for kind in ConditionType)
    reasons = ", ".join(f"`{reason}`" for reason in Reason)
    return f"Types: {kinds}. `Complete` and `Failed` are final.\n\nReasons: {reasons}.\n"


def _exit_codes() -> str:
    rows = [f"| `{kind}` | {EXIT_CODE_OF_CLASS.get(kind, '')} |\n" for kind in FailureClass]
    note = "Classes without an exit code are found by the operator, not by the trainer.\n\n"
    return note + "| `status.failure.class` | exit code of the trainer |\n|---|---|\n" + "".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail when the file differs")
    check = parser.parse_args().check
    if FILE.exists() and FILE.read_text() == rendered():
        return 0
    if check:
        print("docs/reference.md is behind api/. Run `make crds` and commit.", file=sys.stderr)
        return 1
    FILE.write_text(rendered())
    return 0


if __name__ == "__main__":
    sys.exit(main())
