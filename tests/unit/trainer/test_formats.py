"""Rows of every format: accepted as what they say, or refused with a reason."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_api.spec import DataFormat, DataSource
from finetune_trainer.data.examples import Conversation, Example, PlainText, row_key
from finetune_trainer.data.formats import columns_of, parse_row
from finetune_trainer.data.rows import json_object
from finetune_trainer.errors import BadRow
from support.run_plans import chat

Turns = list[dict[str, Any]]


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def parsed(row: dict[str, Any] | bytes, kind: str = "chat", **fields: str) -> Example:
    """A row as its format has it; ``fields`` are names of columns."""
    source = DataSource.model_validate({"source": "s3://bucket/rows", "format": kind, "fields": fields or None})
    found = json_object(row) if isinstance(row, bytes) else row
    return parse_row(found, DataFormat(kind), columns_of(source))


def turns_of(example: Example, sequence: int = 0) -> Turns:
    found = example.sequences[sequence]
    assert isinstance(found, Conversation)
    return list(found.messages)


def reason_of(row: dict[str, Any] | bytes, kind: str = "chat", **fields: str) -> str:
    with pytest.raises(BadRow) as refused:
        parsed(row, kind, **fields)
    return refused.value.message


def test_a_chat_row_is_reduced_to_roles_and_contents() -> None:
    row = {"id": 7, "messages": [{"role": "user", "content": "a", "name": "x"}, {"role": "assistant", "content": "b"}]}
    assert turns_of(parsed(row)) == chat("a", "b")["messages"]


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
    assert turns_of(parsed(line))[-1] == {"role": "assistant", "content": "a"}


CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {}}}


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (CALL, CALL),
        ({"id": "c1", **CALL}, {"id": "c1", **CALL}),
        ({"name": "add", "arguments": {"a": 1}}, CALL),
        ({"function": {"name": "add", "arguments": json.dumps({"a": 1})}}, CALL),
        ({"function": {"name": "add"}}, {"type": "function", "function": {"name": "add", "arguments": {}}}),
    ],
    ids=["whole", "id", "flat", "arguments as a string", "no arguments"],
)
def test_tool_calls_have_one_form(call: dict[str, Any], expected: dict[str, Any]) -> None:
    turn = {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {"role": "tool", "content": "2", "name": "add", "tool_call_id": "c1", "other": 1}
    example = parsed({"messages": [user("?"), turn, result, assistant("2")], "tools": json.dumps([TOOL])})
    assert turns_of(example)[1:3] == [
        {"role": "assistant", "content": "", "tool_calls": [expected]},
        {"role": "tool", "content": "2", "name": "add", "tool_call_id": "c1"},
    ]
    assert isinstance(example.sequences[0], Conversation)
    assert example.sequences[0].tools == (TOOL,)


def test_parts_of_text_are_put_together() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert turns_of(parsed({"messages": [user("?"), {"role": "assistant", "content": parts}]}))[1]["content"] == "ab"


def test_sharegpt_is_a_mapping_of_fields() -> None:
    row = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    example = parsed(row, messages="conversations", role="from", content="value")
    assert turns_of(example) == chat("a", "b")["messages"]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instruction": "Add", "input": "1, 1", "output": "2"}, [user("Add\n\n1, 1"), assistant("2")]),
        ({"instruction": "Hi", "input": "", "output": "Hello"}, [user("Hi"), assistant("Hello")]),
        ({"instruction": "Hi", "input": None, "output": "Yo"}, [user("Hi"), assistant("Yo")]),
        ({"instruction": "Hi", "output": "Yo", "text": "other"}, [user("Hi"), assistant("Yo")]),
        (
            {"system": "Be brief", "instruction": "Hi", "output": "Yo"},
            [{"role": "system", "content": "Be brief"}, user("Hi"), assistant("Yo")],
        ),
        ({"prompt": "Hi", "completion": "Yo"}, [user("Hi"), assistant("Yo")]),
        ({"prompt": [user("Hi")], "completion": [assistant("Yo")]}, [user("Hi"), assistant("Yo")]),
    ],
)
def test_instructions(row: dict[str, Any], expected: Turns) -> None:
    example = parsed(row, "instruction")
    assert turns_of(example) == expected
    assert isinstance(example.sequences[0], Conversation)
    assert example.sequences[0].prompt == len(expected) - 1


def test_completions_are_plain_text() -> None:
    assert parsed({"text": "Once upon"}, "completion").sequences == (PlainText("Once upon"),)
    assert parsed({"body": " x "}, "completion", text="body").sequences == (PlainText(" x "),)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "?", "chosen": "good", "rejected": "bad"},
        {"prompt": [user("?")], "chosen": [assistant("good")], "rejected": [assistant("bad")]},
        {"chosen": [user("?"), assistant("good")], "rejected": [user("?"), assistant("bad")]},
        {"prompt": "?", "chosen": [user("?"), assistant("good")], "rejected": [user("?"), assistant("bad")]},
        {"prompt": [user("?")], "chosen": "good", "rejected": "bad", "score": 3},
    ],
    ids=["strings", "lists", "implicit prompt", "repeated prompt", "mixed"],
)
def test_preferences_have_one_form(row: dict[str, Any]) -> None:
    example = parsed(row, "preference")
    assert [turns_of(example, index) for index in range(2)] == [
        [user("?"), assistant("good")],
        [user("?"), assistant("bad")],
    ]
    assert [sequence.prompt for sequence in example.sequences] == [1, 1]


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("Human: Hi Assistant: good", "Human: Hi Assistant: bad", "Human: Hi Assistant:"),
        ("Q: a\nA: go", "Q: a\nA: gone", None),
        ("Q: a\ngood", "Q: a\ngreat", "Q: a\n"),
        ("Q: sky is blue", "Q: sky is black", "Q: sky is"),
    ],
)
def test_preferences_of_plain_text_share_their_beginning(chosen: str, rejected: str, prompt: str | None) -> None:
    row = {"chosen": chosen, "rejected": rejected}
    if prompt is None:
        assert "only the beginning of the other" in reason_of(row, "preference")
        return
    size = len(prompt)
    assert parsed(row, "preference").sequences == (PlainText(chosen, size), PlainText(rejected, size))


@pytest.mark.parametrize("label", [True, False])
def test_unpaired_preferences_have_a_label(label: bool) -> None:
    example = parsed({"prompt": "?", "completion": "!", "label": label}, "unpaired")
    assert (example.label, turns_of(example)) == (label, [user("?"), assistant("!")])


@pytest.mark.parametrize(
    ("kind", "row", "reason"),
    [
        ("chat", {}, 'no "messages" (found nothing)'),
        ("chat", {"prompt": "a", "answer": "b"}, "no \"messages\" (found 'answer', 'prompt')"),
        ("chat", {"messages": "hello"}, '"messages" is not a list'),
        ("chat", {"messages": None}, '"messages" is not a list'),
        ("chat", {"messages": []}, '"messages" is empty'),
        ("chat", {"messages": ["hello"]}, "messages[0] is not an object"),
        ("chat", {"messages": [{"content": "a"}]}, 'messages[0] has no "role"'),
        ("chat", {"messages": [{"role": "user"}]}, 'messages[0] has no "content"'),
        (
            "chat",
            {"messages": [{"role": "bot", "content": "a"}]},
            'messages[0] has the role "bot"; roles are system, user, assistant, tool',
        ),
        (
            "chat",
            {"messages": [{"role": None, "content": "a"}]},
            "messages[0] has the role null; roles are system, user, assistant, tool",
        ),
        ("chat", {"messages": [{"role": "user", "content": None}]}, "the content of messages[0] is not a string"),
        ("chat", {"messages": [assistant("\ud800")]}, "the content of messages[0] has half of a surrogate pair"),
        ("chat", {"messages": [user("a")]}, "no assistant turn"),
        ("chat", {"messages": [assistant(" ")]}, "no assistant turn with text"),
        ("chat", {"messages": [user(""), assistant("a")]}, "messages[0] is a turn of the user without text"),
        (
            "chat",
            {"messages": [user("a"), assistant("b"), user("c"), assistant("")]},
            "messages[3] is a turn of the assistant without text",
        ),
        (
            "chat",
            {"messages": [user("a"), {"role": "assistant", "content": [{"type": "image_url"}]}]},
            'the content of messages[1] has a part of the type "image_url"; only text is supported',
        ),
        (
            "chat",
            {"messages": [user("a"), assistant("b", reasoning_content="c")]},
            'messages[1] has "reasoning_content", which is not supported',
        ),
        (
            "chat",
            {"messages": [user("a"), assistant("b", weight=0)]},
            'messages[1] has "weight" 0, which is not supported',
        ),
        ("chat", {"functions": [{}], "messages": []}, 'the row has "functions", which is not supported'),
        (
            "chat",
            {"messages": [assistant("", tool_calls=[{}])]},
            'messages[0].tool_calls[0] has no function with a "name"',
        ),
        (
            "chat",
            {"messages": [{"role": "user", "content": "a", "tool_calls": [CALL]}]},
            'messages[0] has "tool_calls", but its role is user',
        ),
        ("chat", {"messages": [assistant("", tool_calls="x")]}, 'the "tool_calls" of messages[0] are not a list'),
        (
            "chat",
            {"messages": [assistant("", tool_calls=[{"name": "f", "arguments": "{"}])]},
            "the arguments of messages[0].tool_calls[0] is a string that is not JSON",
        ),
        (
            "chat",
            {"messages": [assistant("", tool_calls=[{"name": "f", "arguments": [1]}])]},
            "the arguments of messages[0].tool_calls[0] are not an object",
        ),
        ("chat", {"messages": [assistant("a")], "tools": [{}]}, 'tools[0] has no function with a "name"'),
        ("chat", {"messages": [assistant("a")], "tools": "["}, '"tools" is a string that is not JSON'),
        ("chat", {"messages": [assistant("a")], "tools": {"a": 1}}, '"tools" is not a list'),
        (
            "instruction",
            {"question": "a"},
            'no "instruction" and no "prompt" (found \'question\')',
        ),
        ("instruction", {"instruction": "a", "prompt": "b"}, 'both "instruction" and "prompt"'),
        ("instruction", {"instruction": "a"}, "no \"output\" (found 'instruction')"),
        ("instruction", {"instruction": " ", "output": "a"}, '"instruction" has no text'),
        ("instruction", {"instruction": "a", "output": 3}, '"output" is not a string'),
        ("instruction", {"instruction": "a", "input": 3, "output": "b"}, '"input" is not a string'),
        ("instruction", {"prompt": "a", "completion": ""}, '"completion" has no text'),
        ("instruction", {"prompt": "a", "completion": [user("b")]}, "no assistant turn"),
        ("completion", {"content": "a"}, "no \"text\" (found 'content')"),
        ("completion", {"text": ""}, '"text" has no text'),
        ("completion", {"text": ["a"]}, '"text" is not a string'),
        ("preference", {"prompt": "a", "chosen": "b"}, "no \"rejected\" (found 'chosen', 'prompt')"),
        ("preference", {"prompt": "a", "chosen": "b", "rejected": "b"}, '"chosen" and "rejected" are equal'),
        ("preference", {"chosen": "b", "rejected": "b"}, '"chosen" and "rejected" are equal'),
        (
            "preference",
            {"chosen": "b", "rejected": "c"},
            'no "prompt", and "chosen" and "rejected" do not begin alike',
        ),
        (
            "preference",
            {"chosen": [user("b"), assistant("c")], "rejected": [user("d"), assistant("c")]},
            'no "prompt", and "chosen" and "rejected" do not begin alike',
        ),
        (
            "preference",
            {"prompt": "a", "chosen": [user("b")], "rejected": [assistant("c")]},
            '"chosen": no assistant turn',
        ),
        ("preference", {"prompt": "a", "chosen": 3, "rejected": "c"}, '"chosen" is not a list'),
        ("unpaired", {"prompt": "a", "completion": "b"}, "no \"label\" (found 'completion', 'prompt')"),
        ("unpaired", {"prompt": "a", "completion": "b", "label": 1}, '"label" is neither true nor false'),
    ],
)
def test_reasons(kind: str, row: dict[str, Any], reason: str) -> None:
    assert reason_of(row, kind) == reason


def test_reasons_name_the_columns_of_the_source() -> None:
    assert reason_of({"a": 1}, messages="talk") == "no \"talk\" (found 'a')"
    assert reason_of({"q": ""}, "instruction", instruction="q") == '"q" has no text'


def test_keys_depend_on_the_content_only() -> None:
    one = parsed(b'{"messages": [{"role": "assistant", "content": "a"}], "id": 1}')
    two = parsed(b'{"id": 2, "messages": [{"content": "a", "role": "assistant"}]}')
    assert row_key(one) == row_key(two)
    assert row_key(one) != row_key(parsed({"messages": [assistant("b")]}))
    assert 0 <= row_key(one).place < 1 << 64
    assert row_key(one).place != row_key(one).share


def test_labels_and_prompts_are_part_of_the_key() -> None:
    row = {"prompt": "a", "completion": "b"}
    keys = {row_key(parsed(row | {"label": label}, "unpaired")) for label in (True, False)}
    keys |= {row_key(parsed(row, "instruction")), row_key(parsed(chat("a", "b")))}
    assert len(keys) == 4
