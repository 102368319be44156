"""What one row asks to be learned: conversations or plain text, before any template or tokenizer. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, NamedTuple

from finetune_api.runid import canonical_json

Message = dict[str, Any]


@dataclass(frozen=True)
class Conversation:
    """Turns that a chat template renders; the first ``prompt`` of them carry no loss."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()
    prompt: int = 0

    def words(self) -> str:
        """What is said, without roles."""
        return "\n".join(message["content"] for message in self.messages)

    def document(self) -> Any:
        """A JSON value that stands for it; plain chat is its list of messages."""
        messages = list(self.messages)
        if not self.tools and not self.prompt:
            return messages
        return {"messages": messages, "tools": list(self.tools), "prompt": self.prompt}


@dataclass(frozen=True)
class PlainText:
    """Text that no template touches; its first ``prompt`` characters carry no loss."""

    text: str
    prompt: int = 0

    def words(self) -> str:
        """The text."""
        return self.text

    def document(self) -> Any:
        """A JSON value that stands for it."""
        return {"text": self.text, "prompt": self.prompt}


@dataclass(frozen=True)
class Example:
    """One row: one sequence, or the chosen and the rejected one of a preference. ``label`` is that of unpaired rows."""

    sequences: tuple[Conversation | PlainText, ...]
    label: bool | None = None

    def words(self) -> str:
        """Everything that the row says, for comparisons between rows."""
        return "\n".join(sequence.words() for sequence in self.sequences)


class RowKey(NamedTuple):
    """128 bits of the SHA-256 of a row's content: equal rows have equal keys, wherever they stand.

    ``place`` decides whether the row is held out, ``share`` whether a fractional weight takes it; each is 64 bits.
    """

    place: int
    share: int


def row_key(example: Example) -> RowKey:
    """The key of a row's content."""
    documents = [sequence.document() for sequence in example.sequences]
    content: Any = documents[0] if len(documents) == 1 and example.label is None else [documents, example.label]
    digest = hashlib.sha256(canonical_json(content)).digest()
    return RowKey(int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:16], "big"))
