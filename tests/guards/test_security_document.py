"""docs/security.md tells of every right of the operator, with the reason that stands beside it in the chart."""

from __future__ import annotations

import yaml

from support.clusters import PROJECT

FILES = PROJECT / "charts" / "finetune-operator" / "files"
WHERE = {"cluster": "cluster", "served": "served namespaces", "own": "its own namespace"}


def _reasons(text: str) -> list[str]:
    """The comment right above each rule of a file."""
    found: list[str] = []
    comment: list[str] = []
    for line in text.splitlines():
        if line.startswith("#"):
            comment.append(line.lstrip("# "))
        elif line.startswith("- "):
            found.append(" ".join(comment))
            comment = []
        elif not line:
            comment = []
    return found


def _row(where: str, rule: dict[str, list[str]], reason: str) -> str:
    names = "".join(f" `{name}`" for name in rule.get("resourceNames", ()))
    cells = (
        where,
        ", ".join(rule["apiGroups"]),
        ", ".join(rule["resources"]) + names,
        ", ".join(rule["verbs"]),
        reason,
    )
    return "".join(f"| {cell} " if cell else "| " for cell in cells) + "|"


def test_the_table_of_rights_is_that_of_the_chart() -> None:
    files = {where: (FILES / f"{name}-rules.yaml").read_text() for name, where in WHERE.items()}
    expected = [
        _row(where, rule, reason)
        for where, text in files.items()
        for rule, reason in zip(yaml.safe_load(text), _reasons(text), strict=True)
    ]
    document = (PROJECT / "docs" / "security.md").read_text()
    starts = tuple(f"| {where} |" for where in WHERE.values())
    assert [line for line in document.splitlines() if line.startswith(starts)] == expected
    assert all(reason for text in files.values() for reason in _reasons(text))
