"""Rows of chat data: accepted, or refused with a reason."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.rows import Problems, lines, parse_row, row_key
from finetune_trainer.errors import BadRow, DataError
from support.run_plans import chat


@given(st.lists(st.binary(max_size=8)), st.integers(1, 5))
def test_lines_do_not_depend_on_how_the_file_is_cut(parts: list[bytes], size: int) -> None:
    content = b"\n".join(parts)
    pieces = [content[start : start + size] for start in range(0, len(content), size)]
    expected = content.split(b"\n")
    assert list(lines(pieces)) == (expected if expected[-1] else expected[:-1])


def test_a_row_is_reduced_to_roles_and_contents() -> None:
    row = {"id": 7, "messages": [{"role": "user", "content": "a", "name": "x"}, {"role": "assistant", "content": "b"}]}
    assert parse_row(json.dumps(row).encode()) == chat("a", "b")["messages"]


@pytest.mark.parametrize(
    "line",
    [
        b'\xef\xbb\xbf{"messages": [{"role": "assistant", "content": "a"}]}',
        b'  {"messages": [{"role": "assistant", "content": "a"}]}\r',
        b'{"messages": [{"role": "assistant", "content": "a", "tool_calls": null}], "tools": []}',
        b'{"messages": [{"role": "tool", "content": ""}, {"role": "assistant", "content": "a"}]}',
    ],
    ids=["byte order mark", "white space", "empty tools", "tool turn"],
)
def test_usual_variants_are_accepted(line: bytes) -> None:
    assert parse_row(line)[-1] == {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"messages": [}', "not valid JSON: Expecting value at column 15"),
        (b'{"messages": []', "not valid JSON: Expecting ',' delimiter at column 16"),
        (b"\xff", "not UTF-8: invalid start byte at byte 1"),
        (b"[" * 100_000, "not valid JSON: nested too deeply"),
        (b"[]", "not a JSON object"),
        (b"{}", 'no "messages" (found nothing)'),
        (b'{"prompt": "a", "answer": "b"}', "no \"messages\" (found 'answer', 'prompt')"),
        (b'{"messages": "hello"}', '"messages" is not a list'),
        (b'{"messages": []}', '"messages" is empty'),
        (b'{"messages": ["hello"]}', "messages[0] is not an object"),
        (b'{"messages": [{"content": "a"}]}', 'messages[0] has no "role"'),
        (b'{"messages": [{"role": "user"}]}', 'messages[0] has no "content"'),
        (
            b'{"messages": [{"role": "bot", "content": "a"}]}',
            'messages[0] has the role "bot"; roles are system, user, assistant, tool',
        ),
        (b'{"messages": [{"role": "user", "content": null}]}', "the content of messages[0] is not a string"),
        (
            b'{"messages": [{"role": "assistant", "content": "\\ud800"}]}',
            "the content of messages[0] has half of a surrogate pair",
        ),
        (b'{"messages": [{"role": "user", "content": "a"}]}', "no assistant turn"),
        (b'{"messages": [{"role": "assistant", "content": " "}]}', "no assistant turn with text"),
        (
            b'{"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}',
            'messages[0] has "tool_calls", which is not supported',
        ),
        (b'{"tools": [{}], "messages": []}', 'the row has "tools", which is not supported'),
    ],
)
def test_reasons(line: bytes, reason: str) -> None:
    with pytest.raises(BadRow) as refused:
        parse_row(line)
    assert refused.value.message == reason


def test_keys_depend_on_the_content_only() -> None:
    one = parse_row(b'{"messages": [{"role": "assistant", "content": "a"}], "id": 1}')
    two = parse_row(b'{"id": 2, "messages": [{"content": "a", "role": "assistant"}]}')
    assert row_key(one) == row_key(two)
    assert row_key(one) != row_key([{"role": "assistant", "content": "b"}])
    assert 0 <= row_key(one) < 1 << 64


def message_of(problems: Problems, rows: int) -> str:
    with pytest.raises(DataError) as refused:
        problems.raise_if_any(rows)
    return refused.value.message


def test_no_problems_are_no_error() -> None:
    problems = Problems()
    problems.raise_if_any(10)
    assert problems.total == 0


def test_one_problem() -> None:
    problems = Problems()
    problems.add(17, "s3://b/train.jsonl:17", "not a JSON object")
    assert message_of(problems, 150) == "1 of 150 rows cannot be used:\ns3://b/train.jsonl:17: not a JSON object"


def test_ten_of_many_are_shown_in_order() -> None:
    problems = Problems()
    for number in [*range(2, 14), 1]:
        problems.add(number, f"f:{number}", "bad")
    shown = "\n".join(f"f:{number}: bad" for number in range(2, 12))
    assert message_of(problems, 20) == f"13 of 20 rows cannot be used:\n{shown}\nand 3 more"


def test_long_names_do_not_make_the_message_too_long() -> None:
    problems = Problems()
    for number in range(10):
        problems.add(number, "s3://bucket/" + "x" * 500, "bad")
    message = message_of(problems, 10)
    assert len(message) < 2048
    assert message.endswith("and 7 more")


def test_the_remedy_for_rows_that_are_only_too_long() -> None:
    problems = Problems()
    problems.add_too_long(1, "f:1", 300, 256)
    with pytest.raises(DataError) as refused:
        problems.raise_if_any(1)
    assert refused.value.message.endswith("f:1: 300 tokens, more than spec.hyperparameters.maxSequenceLength 256")
    assert "spec.dataset.tooLong to Truncate" in refused.value.remedy
