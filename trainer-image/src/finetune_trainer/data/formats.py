"""Rows of each format as examples. Pure: a row in, an example or a reason out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from finetune_api.spec import DataFormat, DataSource, FieldMapping
from finetune_trainer.data.examples import Conversation, Example, Message, PlainText
from finetune_trainer.data.messages import (
    MessageFields,
    check_answers,
    conversation,
    refuse_unsupported,
    says_something,
    text,
    tools,
)
from finetune_trainer.errors import BadRow

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Columns:
    """Names of the columns of one source."""

    names: Mapping[str, str]
    messages: MessageFields

    def __getitem__(self, field: str) -> str:
        return self.names.get(field, field)

    def value(self, row: Row, field: str) -> Any:
        """What a row has in a column, None where it has none."""
        return row.get(self[field])

    def required(self, row: Row, field: str) -> Any:
        """What a row has in a column.

        Raises:
            BadRow: it has no such column.
        """
        name = self[field]
        if name not in row:
            raise BadRow(f'no "{name}" ({_found(row)})')
        return row[name]


def columns_of(source: DataSource) -> Columns:
    """The columns that a source names, and the format's own names for the others."""
    mapping = source.fields or FieldMapping()
    names = {name: column for name in FieldMapping.model_fields if (column := getattr(mapping, name))}
    fields = MessageFields(names.get("role", "role"), names.get("content", "content"), "role" in names)
    return Columns(names, fields)


def parse_row(row: Row, kind: DataFormat, columns: Columns) -> Example:
    """The example that a row of a format holds.

    Raises:
        BadRow: the reason in words.
    """
    if kind is not DataFormat.COMPLETION:
        refuse_unsupported(row, "the row")
    return _PARSERS[kind](row, columns)


def _chat(row: Row, columns: Columns) -> Example:
    turns = conversation(columns.required(row, "messages"), columns["messages"], columns.messages)
    check_answers(turns)
    _check_each(turns, columns["messages"])
    return Example((Conversation(turns, _tools(row, columns)),))


def _instruction(row: Row, columns: Columns) -> Example:
    has_prompt, has_instruction = (columns[name] in row for name in ("prompt", "instruction"))
    if has_prompt and has_instruction:
        raise BadRow(f'both "{columns["instruction"]}" and "{columns["prompt"]}"')
    if has_prompt:
        return _prompt_and_completion(row, columns)
    if not has_instruction:
        raise BadRow(f'no "{columns["instruction"]}" and no "{columns["prompt"]}" ({_found(row)})')
    question = _said(row, columns, "instruction")
    about = columns.value(row, "input")
    if about is not None and text(about, f'"{columns["input"]}"').strip():
        question = f"{question}\n\n{about}"
    system = columns.value(row, "system")
    first = _turn("system", text(system, f'"{columns["system"]}"')) if system else ()
    prompt = (*first, *_turn("user", question))
    return _answered(prompt, _turn("assistant", _said(row, columns, "output")), row, columns)


def _prompt_and_completion(row: Row, columns: Columns, label: bool | None = None) -> Example:
    prompt = _turns(columns.required(row, "prompt"), columns["prompt"], "user", columns)
    answer = _turns(columns.required(row, "completion"), columns["completion"], "assistant", columns)
    return _answered(prompt, answer, row, columns, label)


def _answered(
    prompt: tuple[Message, ...], answer: tuple[Message, ...], row: Row, columns: Columns, label: bool | None = None
) -> Example:
    check_answers(answer)
    return Example((Conversation((*prompt, *answer), _tools(row, columns), len(prompt)),), label)


def _completion(row: Row, columns: Columns) -> Example:
    return Example((PlainText(_said(row, columns, "text")),))


def _preference(row: Row, columns: Columns) -> Example:
    answers = [columns.required(row, name) for name in ("chosen", "rejected")]
    given = columns.value(row, "prompt")
    if given is None and all(isinstance(answer, str) for answer in answers):
        return _plain_preference(*(_said(row, columns, name) for name in ("chosen", "rejected")))
    names = columns["chosen"], columns["rejected"]
    chosen, rejected = (_turns(*pair, "assistant", columns) for pair in zip(answers, names, strict=True))
    if given is None:
        prompt = _common(chosen, rejected)
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
        if not prompt:
            raise BadRow(f'no "{columns["prompt"]}", and "{names[0]}" and "{names[1]}" do not begin alike')
    else:
        prompt = _turns(given, columns["prompt"], "user", columns)
        chosen, rejected = (_without(prompt, answer) for answer in (chosen, rejected))
    if chosen == rejected:
        raise BadRow(f'"{names[0]}" and "{names[1]}" are equal')
    for name, answer in zip(names, (chosen, rejected), strict=True):
        _check_answer(name, answer)
    functions = _tools(row, columns)
    pair = (Conversation((*prompt, *answer), functions, len(prompt)) for answer in (chosen, rejected))
    return Example(tuple(pair))


def _plain_preference(chosen: str, rejected: str) -> Example:
    if chosen == rejected:
        raise BadRow('"chosen" and "rejected" are equal')
    prompt = _common(chosen, rejected)
    if not prompt:
        raise BadRow('no "prompt", and "chosen" and "rejected" do not begin alike')
    if len(prompt) in (len(chosen), len(rejected)):
        raise BadRow('no "prompt", and of "chosen" and "rejected" one is only the beginning of the other')
    # Not in the middle of a word, and its space belongs to it, as most tokenizers have it.
    start = max(prompt.rstrip().rfind(" "), prompt.rfind("\n") + 1) if not prompt[-1].isspace() else len(prompt)
    start = start - 1 if prompt[:start].endswith(" ") else start
    return Example((PlainText(chosen, max(start, 0)), PlainText(rejected, max(start, 0))))


def _unpaired(row: Row, columns: Columns) -> Example:
    label = columns.required(row, "label")
    if not isinstance(label, bool):
        raise BadRow(f'"{columns["label"]}" is neither true nor false')
    return _prompt_and_completion(row, columns, label)


_PARSERS: dict[DataFormat, Callable[[Row, Columns], Example]] = {
    DataFormat.CHAT: _chat,
    DataFormat.INSTRUCTION: _instruction,
    DataFormat.COMPLETION: _completion,
    DataFormat.PREFERENCE: _preference,
    DataFormat.UNPAIRED: _unpaired,
}


def _check_each(turns: tuple[Message, ...], where: str) -> None:
    """Empty turns of user and assistant are slips that would be learned from."""
    for index, message in enumerate(turns):
        if message["role"] in ("user", "assistant") and not says_something(message):
            raise BadRow(f"{where}[{index}] is a turn of the {message['role']} without text")


def _check_answer(name: str, answer: tuple[Message, ...]) -> None:
    try:
        check_answers(answer)
    except BadRow as error:
        raise BadRow(f'"{name}": {error.message}') from error


def _tools(row: Row, columns: Columns) -> tuple[dict[str, Any], ...]:
    return tools(columns.value(row, "tools"), columns["tools"])


def _said(row: Row, columns: Columns, field: str) -> str:
    """A string of a row that says something."""
    name = columns[field]
    said = text(columns.required(row, field), f'"{name}"')
    if not said.strip():
        raise BadRow(f'"{name}" has no text')
    return said


def _turn(role: str, content: str) -> tuple[Message, ...]:
    return ({"role": role, "content": content},)


def _turns(value: object, name: str, role: str, columns: Columns) -> tuple[Message, ...]:
    """A string as one turn of a role, or a list of messages."""
    if not isinstance(value, str):
        return conversation(value, name, columns.messages)
    if not value.strip():
        raise BadRow(f'"{name}" has no text')
    return _turn(role, text(value, f'"{name}"'))


def _common(one: Any, other: Any) -> Any:
    """What two sequences have in common at their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    alike = sum(1 for _ in takewhile(lambda pair: pair[1][0] == pair[1][1], pairs))
    return one[:alike]


def _without(prompt: tuple[Message, ...], answer: tuple[Message, ...]) -> tuple[Message, ...]:
    """An answer without the prompt, where it repeats that."""
    return answer[len(prompt) :] if answer[: len(prompt)] == prompt else answer


def _found(row: Row) -> str:
    names = ", ".join(map(repr, sorted(map(str, row))[:5]))
    return f"found {names or 'nothing'}"
