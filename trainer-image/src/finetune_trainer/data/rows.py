"""Rows of chat data: one JSON object per line, checked one by one. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

from finetune_api.runid import canonical_json
from finetune_trainer.errors import BadRow, DataError

ROLES = ("system", "user", "assistant", "tool")
_SHOWN_PROBLEMS = 10
# Leaves room for the sentence around it in a failure's 2,048 characters.
_SHOWN_CHARACTERS = 1800
# Leaving these out would change what the row says, and they are not rendered yet.
_UNSUPPORTED = ("tools", "functions", "tool_calls", "function_call")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

Message = dict[str, str]


def lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines of a file that comes in pieces, without their ends; memory grows with the longest line only."""
    pending: list[bytes] = []
    for chunk in chunks:
        first, *rest = chunk.split(b"\n")
        pending.append(first)
        for following in rest:
            yield b"".join(pending)
            pending = [following]
    last = b"".join(pending)
    if last:
        yield last


def parse_row(line: bytes) -> list[Message]:
    """The messages of one row, each with ``role`` and ``content`` only.

    Raises:
        BadRow: the reason in words.
    """
    row = _json_object(line)
    messages = row.get("messages")
    if "messages" not in row:
        raise BadRow(f'no "messages" (found {", ".join(map(repr, sorted(row)[:5])) or "nothing"})')
    _refuse_unsupported(row, "the row")
    if not isinstance(messages, list) or not messages:
        raise BadRow('"messages" is not a list' if not isinstance(messages, list) else '"messages" is empty')
    found = [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]
    turns = [message for message in found if message["role"] == "assistant"]
    if not turns:
        raise BadRow("no assistant turn")
    if not any(message["content"].strip() for message in turns):
        raise BadRow("no assistant turn with text")
    return found


def _json_object(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.removeprefix(_BYTE_ORDER_MARK).decode())
    except UnicodeDecodeError as error:
        raise BadRow(f"not UTF-8: {error.reason} at byte {error.start + 1}") from error
    except json.JSONDecodeError as error:
        raise BadRow(f"not valid JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise BadRow("not valid JSON: nested too deeply") from error
    if not isinstance(row, dict):
        raise BadRow("not a JSON object")
    return row


def _message(message: object, where: str) -> Message:
    if not isinstance(message, dict):
        raise BadRow(f"{where} is not an object")
    for key in ("role", "content"):
        if key not in message:
            raise BadRow(f'{where} has no "{key}"')
    _refuse_unsupported(message, where)
    role, content = message["role"], message["content"]
    if role not in ROLES:
        raise BadRow(f"{where} has the role {json.dumps(role)[:40]}; roles are {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise BadRow(f"the content of {where} is not a string")
    if any("\ud800" <= character <= "\udfff" for character in content):
        raise BadRow(f"the content of {where} has half of a surrogate pair")
    return {"role": role, "content": content}


def _refuse_unsupported(fields: dict[str, Any], where: str) -> None:
    for key in _UNSUPPORTED:
        if fields.get(key):
            raise BadRow(f'{where} has "{key}", which is not supported')


def row_key(messages: list[Message]) -> int:
    """64 bits of the SHA-256 of a row's content: equal rows have equal keys, wherever they stand."""
    return int.from_bytes(hashlib.sha256(canonical_json(messages)).digest()[:8], "big")


class Problems:
    """Rows that cannot be used: the first reasons, and how many there are."""

    def __init__(self) -> None:
        self.total = 0
        self.too_long = 0
        self._shown: list[tuple[int, str]] = []

    def add(self, row: int, place: str, reason: str) -> None:
        """Notes one row, by its number over all files; ``place`` is file and line."""
        self.total += 1
        line = f"{place}: {reason}"
        room = _SHOWN_CHARACTERS - sum(len(text) for _, text in self._shown)
        if len(self._shown) < _SHOWN_PROBLEMS and len(line) < room:
            self._shown.append((row, line))

    def add_too_long(self, row: int, place: str, tokens: int, limit: int) -> None:
        """Notes one row that is too long where such rows are refused."""
        self.too_long += 1
        self.add(row, place, f"{tokens} tokens, more than spec.hyperparameters.maxSequenceLength {limit}")

    def raise_if_any(self, rows: int) -> None:
        """Ends the work when any of ``rows`` rows cannot be used.

        Raises:
            DataError: with file, line and reason of the first rows.
        """
        if not self.total:
            return
        rest = self.total - len(self._shown)
        more = [f"and {rest} more"] if rest else []
        shown = [text for _, text in sorted(self._shown)]
        noun = "row" if rows == 1 else "rows"
        raise DataError("\n".join([f"{self.total} of {rows} {noun} cannot be used:", *shown, *more]), self._remedy())

    def _remedy(self) -> str:
        if self.too_long == self.total:
            return "raise hyperparameters.maxSequenceLength, shorten the rows or set spec.dataset.tooLong to Truncate"
        example = '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'
        return f"correct or remove these lines; each must be like {example}"
