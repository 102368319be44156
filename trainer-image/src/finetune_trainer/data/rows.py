"""Lines of JSON as rows, and what is told of those that cannot be used. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from finetune_trainer.errors import BadRow

# Longer lines are no rows: mostly a file without line ends, which would not fit into memory.
MAX_LINE_BYTES = 16 << 20
_REPORTED_PROBLEMS = 100
_REPORTED_CHARACTERS = 50_000
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines of a file that comes in pieces, without their ends.

    Memory grows with the longest line only; of a line longer than MAX_LINE_BYTES just more than that is kept.
    """
    pending: list[bytes] = []
    kept = 0
    for chunk in chunks:
        first, *rest = chunk.split(b"\n")
        for index, piece in enumerate((first, *rest)):
            if index:
                yield b"".join(pending)
                pending, kept = [], 0
            piece = piece[: MAX_LINE_BYTES + 1 - kept]
            pending.append(piece)
            kept += len(piece)
    last = b"".join(pending)
    if last:
        yield last


def json_object(line: bytes) -> dict[str, Any]:
    """The JSON object on a line.

    Raises:
        BadRow: there is none; the reason in words.
    """
    if len(line) > MAX_LINE_BYTES:
        raise BadRow(f"longer than {MAX_LINE_BYTES >> 20} MiB")
    try:
        text = line.removeprefix(_BYTE_ORDER_MARK).decode()
    except UnicodeDecodeError as error:
        if line.startswith(_UTF_16):
            raise BadRow("not UTF-8, but UTF-16") from error
        raise BadRow(f"not UTF-8: {error.reason} at byte {error.start + 1}") from error
    row = _json(text)
    if isinstance(row, list):
        raise BadRow("not a JSON object, but a list: write one object per line")
    if not isinstance(row, dict):
        raise BadRow("not a JSON object")
    return row


def _json(text: str) -> Any:
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise BadRow(f"not valid JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise BadRow("not valid JSON: nested too deeply") from error
    except ValueError as error:
        # Python reads integers of up to 4,300 digits.
        raise BadRow("not valid JSON: a number of too many digits") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise BadRow(f"the key {json.dumps(twice)[:80]} is there twice in one object")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise BadRow(f"not valid JSON: {name}")


# Made once: json.loads makes one for each row.
_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse_constant)


@dataclass(frozen=True)
class RefusedRow:
    """A row that cannot be used: its number over all files, file and line, and the reason."""

    row: int
    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


class Problems:
    """Rows that cannot be used: the first of them, and how many there are."""

    def __init__(self) -> None:
        self.total = 0
        self.too_long = 0
        self._noted: list[RefusedRow] = []
        self._characters = 0

    @property
    def noted(self) -> list[RefusedRow]:
        """The first rows, in order."""
        return sorted(self._noted, key=lambda refused: refused.row)

    def add(self, row: int, place: str, reason: str) -> None:
        """Notes one row, by its number over all files; ``place`` is file and line."""
        self.total += 1
        refused = RefusedRow(row, place, reason)
        if len(self._noted) < _REPORTED_PROBLEMS and self._characters + len(str(refused)) < _REPORTED_CHARACTERS:
            self._noted.append(refused)
            self._characters += len(str(refused))

    def add_too_long(self, row: int, place: str, tokens: int, limit: int) -> None:
        """Notes one row that is too long where such rows are refused."""
        self.too_long += 1
        self.add(row, place, f"{tokens} tokens, more than spec.hyperparameters.maxSequenceLength {limit}")
