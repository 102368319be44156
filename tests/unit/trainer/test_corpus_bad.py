"""Bad rows of every format: each is refused by prepare with file, row and reason, word for word."""

from __future__ import annotations

from typing import Any

import pytest

from support.corpus import ALTERNATING_TEMPLATE, GOOD, kind, refusal, rows
from support.run_plans import Place, chat

ROW = "s3://bucket/corpus/rows.jsonl"
USER = {"role": "user", "content": "Why?"}
CALL = {"name": "add", "arguments": {"a": 1}}
PREFERENCE = {"prompt": "Why?", "chosen": "So.", "rejected": "No."}


def talk(*turns: Any, **more: Any) -> dict[str, Any]:
    return {"messages": list(turns), **more}


def answer(content: Any = "So.", **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


# The second of two rows is bad: the row, and the reason that stands behind file and line.
SECOND_ROW: dict[str, tuple[object, str]] = {
    "Latin-1": ('{"messages": "é"}'.encode("latin-1"), "not UTF-8: invalid continuation byte at byte 15"),
    "cut in the middle of a character": ('{"a": "é'.encode()[:-1], "not UTF-8: unexpected end of data at byte 8"),
    "UTF-16": ("\ufeff{}".encode("utf-16-le"), "not UTF-8, but UTF-16"),
    "UTF-16 without a mark": (
        "{}".encode("utf-16-be"),
        "not valid JSON: Expecting value at column 1",
    ),
    "zero bytes": (b"\0\0\0", "not valid JSON: Expecting value at column 1"),
    "half of a surrogate pair": (
        r'{"messages": [{"role": "assistant", "content": "\ud83d"}]}',
        "the content of messages[0] has half of a surrogate pair",
    ),
    "NaN": ('{"messages": [], "score": NaN}', "not valid JSON: NaN"),
    "infinity": ('{"messages": [], "score": Infinity}', "not valid JSON: Infinity"),
    "number of too many digits": ('{"a": ' + "9" * 5000 + "}", "not valid JSON: a number of too many digits"),
    "duplicate key": ('{"messages": [], "messages": []}', 'the key "messages" is there twice in one object'),
    "duplicate key in a message": (
        '{"messages": [{"role": "user", "role": "assistant", "content": "a"}]}',
        'the key "role" is there twice in one object',
    ),
    "endless line": (b'{"messages": "' + b"x" * (16 << 20) + b'"}', "longer than 16 MiB"),
    "nested without end": ("[" * 50_000, "not valid JSON: nested too deeply"),
    "trailing comma": (
        '{"messages": [],}',
        "not valid JSON: Expecting property name enclosed in double quotes at column 17",
    ),
    "Python, not JSON": (
        "{'messages': []}",
        "not valid JSON: Expecting property name enclosed in double quotes at column 2",
    ),
    "two objects on a line": ("{} {}", "not valid JSON: Extra data at column 4"),
    "comment": ("# generated", "not valid JSON: Expecting value at column 1"),
    "line break in a string": ('{"messages": "a', "not valid JSON: Unterminated string starting at at column 14"),
    "list": ('[{"messages": []}]', "not a JSON object, but a list: write one object per line"),
    "text": ('"hello"', "not a JSON object"),
    "null": ("null", "not a JSON object"),
    "other columns": ({"question": "a", "answer": "b"}, "no \"messages\" (found 'answer', 'question')"),
    "instruction among chat": ({"instruction": "a", "output": "b"}, "no \"messages\" (found 'instruction', 'output')"),
    "no columns": ({}, 'no "messages" (found nothing)'),
    "messages null": ({"messages": None}, '"messages" is not a list'),
    "messages as text": ({"messages": "[]"}, '"messages" is not a list'),
    "no messages": ({"messages": []}, '"messages" is empty'),
    "message null": ({"messages": [None]}, "messages[0] is not an object"),
    "message as text": ({"messages": ["Hi", "Yo"]}, "messages[0] is not an object"),
    "ShareGPT without a mapping": (
        {"messages": [{"from": "human", "value": "a"}]},
        'messages[0] has no "role"',
    ),
    "unknown role": (
        talk({"role": "bot", "content": "a"}),
        'messages[0] has the role "bot"; roles are system, user, assistant, tool',
    ),
    "role of another case": (
        talk({"role": "User", "content": "a"}),
        'messages[0] has the role "User"; roles are system, user, assistant, tool',
    ),
    "role null": (
        talk({"role": None, "content": "a"}),
        "messages[0] has the role null; roles are system, user, assistant, tool",
    ),
    "role that is a list": (
        talk({"role": ["user"], "content": "a"}),
        'messages[0] has the role ["user"]; roles are system, user, assistant, tool',
    ),
    "no content": (talk(USER, {"role": "assistant"}), 'messages[1] has no "content"'),
    "content null": (talk(USER, answer(None)), "the content of messages[1] is not a string"),
    "content that is a number": (talk(USER, answer(42)), "the content of messages[1] is not a string"),
    "image": (
        talk({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, answer()),
        'the content of messages[0] has a part of the type "image_url"; only text is supported',
    ),
    "nobody answers": (talk(USER), "no assistant turn"),
    "answer of white space": (talk(USER, answer(" \n")), "no assistant turn with text"),
    "empty question": (
        talk({"role": "user", "content": ""}, answer()),
        "messages[0] is a turn of the user without text",
    ),
    "empty last answer": (
        talk(USER, answer(), USER, answer("")),
        "messages[3] is a turn of the assistant without text",
    ),
    "tools that the template leaves out": (
        talk(USER, answer(), tools=[{"name": "add"}]),
        "the chat template of spec.model.source leaves out tools, such as 'add'",
    ),
    "tool calls that the template leaves out": (
        talk(USER, answer("", tool_calls=[CALL])),
        "the chat template of spec.model.source leaves out tool calls",
    ),
    "the user calls a tool": (
        talk({**USER, "tool_calls": [CALL]}, answer()),
        'messages[0] has "tool_calls", but its role is user',
    ),
    "arguments that are not JSON": (
        talk(USER, answer("", tool_calls=[{"function": {"name": "add", "arguments": "{a: 1}"}}])),
        "the arguments of messages[1].tool_calls[0] is a string that is not JSON",
    ),
    "call without a name": (
        talk(USER, answer("", tool_calls=[{"function": {}}])),
        'messages[1].tool_calls[0] has no function with a "name"',
    ),
    "old function call": (
        talk(USER, answer("", function_call=CALL)),
        'messages[1] has "function_call", which is not supported',
    ),
    "reasoning beside the content": (
        talk(USER, answer(reasoning_content="Hm.")),
        'messages[1] has "reasoning_content", which is not supported',
    ),
    "turn without weight": (talk(USER, answer(weight=0)), 'messages[1] has "weight" 0, which is not supported'),
}

# Rows of other formats; again the second of two.
OTHER_FORMATS: dict[str, tuple[dict[str, Any], object, object, str]] = {
    "instruction without an answer": (
        kind("instruction"),
        {"instruction": "a", "output": "b"},
        {"instruction": "a"},
        "no \"output\" (found 'instruction')",
    ),
    "instruction with an empty answer": (
        kind("instruction"),
        {"instruction": "a", "output": "b"},
        {"instruction": "a", "output": ""},
        '"output" has no text',
    ),
    "chat among instructions": (
        kind("instruction"),
        {"prompt": "a", "completion": "b"},
        GOOD,
        'no "instruction" and no "prompt" (found \'messages\')',
    ),
    "instruction and prompt": (
        kind("instruction"),
        {"prompt": "a", "completion": "b"},
        {"instruction": "a", "prompt": "b", "completion": "c"},
        'both "instruction" and "prompt"',
    ),
    "text that is a list": (kind("completion"), {"text": "a"}, {"text": ["a"]}, '"text" is not a string'),
    "text that is null": (kind("completion"), {"text": "a"}, {"text": None}, '"text" is not a string'),
    "column of another name": (
        kind("completion", text="body"),
        {"body": "a"},
        {"text": "a"},
        "no \"body\" (found 'text')",
    ),
    "one answer only": (
        kind("preference"),
        PREFERENCE,
        {"prompt": "a", "chosen": "b"},
        "no \"rejected\" (found 'chosen', 'prompt')",
    ),
    "equal answers": (
        kind("preference"),
        PREFERENCE,
        {"prompt": "a", "chosen": "b", "rejected": "b"},
        '"chosen" and "rejected" are equal',
    ),
    "answers to different questions": (
        kind("preference"),
        PREFERENCE,
        {"chosen": [USER, answer("a")], "rejected": [answer("a"), USER]},
        'no "prompt", and "chosen" and "rejected" do not begin alike',
    ),
    "answer of the user": (
        kind("preference"),
        PREFERENCE,
        {"prompt": "a", "chosen": [USER], "rejected": "c"},
        '"chosen": no assistant turn',
    ),
    "label that is a number": (
        kind("unpaired"),
        {"prompt": "a", "completion": "b", "label": True},
        {"prompt": "a", "completion": "b", "label": 1},
        '"label" is neither true nor false',
    ),
    "no label": (
        kind("unpaired"),
        {"prompt": "a", "completion": "b", "label": False},
        {"prompt": "a", "completion": "b"},
        "no \"label\" (found 'completion', 'prompt')",
    ),
    "roles that do not alternate": (
        {"dataset": {"chatTemplate": ALTERNATING_TEMPLATE}},
        GOOD,
        talk(USER, USER, answer()),
        "the chat template refuses it: roles must alternate",
    ),
    "turn that the template hides": (
        {
            "dataset": {
                "chatTemplate": "{% for message in messages[-2:] %}<|im_start|>{{ message.role }}\n"
                "{{ message.content }}<|im_end|>\n{% endfor %}"
            }
        },
        GOOD,
        talk(USER, answer(), USER, answer()),
        "the chat template does not show where the assistant's turn messages[1] is",
    ),
    "answer that is cut off": (
        {**kind("preference"), "limit_tokens": 40},
        PREFERENCE,
        {**PREFERENCE, "prompt": "word " * 50},
        "no token of the chosen answer is among the first 40",
    ),
    "row that is too long": (
        {"dataset": {"tooLong": "Refuse"}, "limit_tokens": 40},
        GOOD,
        chat("Why?", "word " * 50),
        "263 tokens, more than spec.hyperparameters.maxSequenceLength 40",
    ),
}


@pytest.mark.parametrize("case", SECOND_ROW)
def test_a_bad_row_of_chat_is_refused_with_file_line_and_reason(folder_place: Place, case: str) -> None:
    row, reason = SECOND_ROW[case]
    error = refusal(folder_place, rows(GOOD, row))
    assert error.message == f"1 of 2 rows cannot be used:\n{ROW}:2: {reason}"
    assert "each must be like" in error.remedy


@pytest.mark.parametrize("case", OTHER_FORMATS)
def test_a_bad_row_of_another_format_is_refused_with_file_line_and_reason(folder_place: Place, case: str) -> None:
    settings, good, bad, reason = OTHER_FORMATS[case]
    error = refusal(folder_place, rows(good, bad, **settings))
    assert error.message == f"1 of 2 rows cannot be used:\n{ROW}:2: {reason}"


def test_the_corpus_is_large_enough() -> None:
    assert len(SECOND_ROW) + len(OTHER_FORMATS) >= 60
