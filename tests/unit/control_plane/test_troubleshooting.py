"""The documents say of every failure class what it means and what to do, and what is tried again."""

from __future__ import annotations

import re

import pytest

from finetune_api.outcomes import EXIT_CODE_OF_CLASS, FailureClass
from finetune_operator.attempts import RULES, Retry
from support.clusters import PROJECT

TROUBLESHOOTING = (PROJECT / "docs" / "troubleshooting.md").read_text()
STATUS = (PROJECT / "docs" / "status.md").read_text()
WORDS = {Retry.NEVER: "no", Retry.SMALLER: "smaller", Retry.WITHIN_LIMIT: "within the limit", Retry.ALWAYS: "always"}


def test_troubleshooting_has_a_section_for_each_class_and_no_other() -> None:
    sections = re.split(r"^## (\w+)\n", TROUBLESHOOTING, flags=re.MULTILINE)[1:]
    found = dict(zip(sections[::2], sections[1::2], strict=True))
    assert list(found) == [kind.value for kind in FailureClass]
    assert all(len(text.split()) > 15 for text in found.values())


@pytest.mark.parametrize("kind", FailureClass)
def test_status_tells_what_is_tried_again(kind: FailureClass) -> None:
    (row,) = re.findall(rf"^\| `{kind.value}` \|(.*)\|(.*)\|.*\|$", STATUS, flags=re.MULTILINE)
    code, retried = (cell.strip() for cell in row)
    assert retried.startswith(WORDS[RULES[kind].retry])
    assert code.partition(" ")[0] == (str(int(EXIT_CODE_OF_CLASS[kind])) if kind in EXIT_CODE_OF_CLASS else code)
