"""Turns of a conversation as rows hold them: checked, and reduced to what a chat template may see. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_trainer.data.examples import Message
from finetune_trainer.errors import BadRow

ROLES = ("system", "user", "assistant", "tool")
_SHAREGPT_ROLES = {"human": "user", "gpt": "assistant"}
# Leaving these out would change what the row says, and they are not rendered.
UNSUPPORTED = ("functions", "function_call", "reasoning_content", "reasoning", "thinking", "audio", "images", "videos")
_UNSUPPORTED_NAMES = frozenset(UNSUPPORTED)
_OF_TOOL_TURNS = ("name", "tool_call_id")
_TOOL_CALLS = "tool_calls"
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class MessageFields:
    """Names of role and content in a message; ``sharegpt`` reads human and gpt as user and assistant."""

    role: str = "role"
    content: str = "content"
    sharegpt: bool = False


def conversation(value: object, where: str, fields: MessageFields) -> tuple[Message, ...]:
    """The turns of a list of messages; ``where`` names it.

    Raises:
        BadRow: the reason in words.
    """
    if not isinstance(value, list):
        raise BadRow(f'"{where}" is not a list')
    if not value:
        raise BadRow(f'"{where}" is empty')
    return tuple(_message(message, f"{where}[{index}]", fields) for index, message in enumerate(value))


def text(value: object, what: str) -> str:
    """A string of a row, which UTF-8 can hold.

    Raises:
        BadRow: it is none.
    """
    if not isinstance(value, str):
        raise BadRow(f"{what} is not a string")
    if not value.isascii() and _SURROGATE.search(value):
        raise BadRow(f"{what} has half of a surrogate pair")
    return value


def refuse_unsupported(fields: Mapping[str, Any], where: str) -> None:
    """Refuses fields whose meaning would be lost.

    Raises:
        BadRow: naming the first of them.
    """
    if _UNSUPPORTED_NAMES.isdisjoint(fields):
        return
    for key in UNSUPPORTED:
        if fields.get(key):
            raise BadRow(f'{where} has "{key}", which is not supported')


def check_answers(turns: tuple[Message, ...]) -> None:
    """Refuses turns of which the model could learn nothing.

    Raises:
        BadRow: no assistant turn, or none that says anything.
    """
    answers = [message for message in turns if message["role"] == "assistant"]
    if not answers:
        raise BadRow("no assistant turn")
    if not any(says_something(message) for message in answers):
        raise BadRow("no assistant turn with text")


def says_something(message: Message) -> bool:
    """Whether a turn has text or calls a tool."""
    return bool(message["content"].strip() or message.get(_TOOL_CALLS))


def _message(message: object, where: str, fields: MessageFields) -> Message:
    if not isinstance(message, dict):
        raise BadRow(f"{where} is not an object")
    calls = message.get(_TOOL_CALLS) or []
    for key in (fields.role, fields.content):
        if key not in message and not (key == fields.content and calls):
            raise BadRow(f'{where} has no "{key}"')
    refuse_unsupported(message, where)
    if message.get("weight") == 0:
        raise BadRow(f'{where} has "weight" 0, which is not supported')
    role = _role(message[fields.role], where, fields)
    content = message.get(fields.content)
    found: Message = {"role": role, "content": _content(content, where) if content is not None or not calls else ""}
    if calls:
        found[_TOOL_CALLS] = _calls(calls, role, where)
    if role == "tool":
        found |= {key: text(message[key], f"the {key} of {where}") for key in _OF_TOOL_TURNS if message.get(key)}
    return found


def _role(role: object, where: str, fields: MessageFields) -> str:
    if fields.sharegpt and isinstance(role, str):
        role = _SHAREGPT_ROLES.get(role, role)
    if not isinstance(role, str) or role not in ROLES:
        shown = json.dumps(role, default=str)[:40]
        raise BadRow(f"{where} has the role {shown}; roles are {', '.join(ROLES)}")
    return role


def _content(content: object, where: str) -> str:
    """A string, or the text parts of the form [{"type": "text", "text": "..."}] put together."""
    if isinstance(content, list) and content and all(isinstance(part, dict) for part in content):
        for part in content:
            if part.get("type") != "text":
                kind = json.dumps(part.get("type"), default=str)[:40]
                raise BadRow(f"the content of {where} has a part of the type {kind}; only text is supported")
        return "".join(text(part.get("text"), f"the text of a part of {where}") for part in content)
    return text(content, f"the content of {where}")


def _calls(calls: object, role: str, where: str) -> list[dict[str, Any]]:
    if role != "assistant":
        raise BadRow(f'{where} has "{_TOOL_CALLS}", but its role is {role}')
    if not isinstance(calls, list):
        raise BadRow(f'the "{_TOOL_CALLS}" of {where} are not a list')
    return [_call(call, f"{where}.{_TOOL_CALLS}[{index}]") for index, call in enumerate(calls)]


def _call(call: object, where: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRow(f'{where} has no function with a "name"')
    arguments = function.get("arguments")
    # Templates print arguments as JSON: a string of JSON would be quoted once more.
    decoded = json_value(arguments, f"the arguments of {where}") if isinstance(arguments, str) else arguments
    if decoded is not None and not isinstance(decoded, dict):
        raise BadRow(f"the arguments of {where} are not an object")
    identity = {"id": call["id"]} if isinstance(call, dict) and isinstance(call.get("id"), str) else {}
    return identity | {"type": "function", "function": {"name": function["name"], "arguments": decoded or {}}}


def tools(value: object, where: str) -> tuple[dict[str, Any], ...]:
    """Functions of a row, each a JSON schema with a name; as a list, or as a string of JSON that is one.

    Raises:
        BadRow: they are not.
    """
    found = json_value(value, f'"{where}"') if isinstance(value, str) and value else value
    if not found:
        return ()
    if not isinstance(found, list):
        raise BadRow(f'"{where}" is not a list')
    for index, tool in enumerate(found):
        if not isinstance(tool, dict) or tool_name(tool) is None:
            raise BadRow(f'{where}[{index}] has no function with a "name"')
    return tuple(found)


def tool_name(tool: Mapping[str, Any]) -> str | None:
    """Name of a function, given alone or as {"type": "function", "function": {...}}."""
    function = tool.get("function", tool)
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) and name else None


def json_value(value: str, what: str) -> Any:
    """The JSON value in a string.

    Raises:
        BadRow: it holds none.
    """
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise BadRow(f"{what} is a string that is not JSON") from error
