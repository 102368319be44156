"""Rules over a document: which are broken, where, and that equal parts are evaluated once."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.base import EFFECTIVE_RULES, WRITTEN_RULES, is_written, where_written
from finetune_api.cel import Violation, fields_read, violations

SIZE = {"rule": "self.size >= 1", "message": "size is too small"}
SCHEMA = {
    "type": "object",
    WRITTEN_RULES: [{"rule": "self == oldSelf", "message": "never seen"}],
    "properties": {
        "box": {"type": "object", WRITTEN_RULES: [SIZE]},
        "list": {"type": "array", "items": {"type": "object", EFFECTIVE_RULES: [SIZE]}},
    },
}


@pytest.mark.parametrize(
    ("value", "paths"),
    [
        ({}, []),
        ({"box": {"size": 1, "other": "x"}}, []),
        ({"box": {"size": 0}}, ["box"]),
        ({"list": [{"size": 1}, {"size": 0}]}, ["list[1]"]),
    ],
    ids=str,
)
def test_broken_rules_are_found_where_they_are(value: Any, paths: list[str]) -> None:
    assert [broken.path for broken in violations(value, SCHEMA)] == paths


def test_a_violation_has_the_value_and_the_message() -> None:
    assert list(violations({"size": 0}, {WRITTEN_RULES: [SIZE]}, "spec")) == [
        Violation("spec", {"size": 0}, "size is too small")
    ]


def test_a_rule_that_cannot_be_evaluated_is_broken_and_says_why() -> None:
    [broken] = violations({}, {WRITTEN_RULES: [SIZE]})
    assert broken.message.endswith("evaluating rule: size is too small")


def test_rules_are_skipped_by_what_they_read() -> None:
    skipped = violations({"size": 0}, {WRITTEN_RULES: [SIZE]}, skipped=lambda rule, _: "self.size" in rule)
    assert list(skipped) == []


def test_fields_read() -> None:
    assert fields_read("self.a.b > 1 || has(self.c)", "spec") == ("spec.a.b", "spec.c")


@pytest.mark.parametrize(
    ("document", "holds"), [({}, True), ({"a": {}}, True), ({"a": {"b": 1}}, True), ({"a": {"b": 2}}, False)], ids=str
)
def test_where_written(document: Any, holds: bool) -> None:
    rule = {"rule": where_written("self.a.b == 1", "a.b"), "message": "b must be 1"}
    assert (list(violations(document, {WRITTEN_RULES: [rule]})) == []) is holds


def test_is_written_asks_for_every_group() -> None:
    assert is_written("a.b.c") == "has(self.a) && has(self.a.b) && has(self.a.b.c)"
