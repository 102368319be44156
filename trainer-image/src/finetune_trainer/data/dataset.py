"""From files of rows to tokenized splits: each row checked, rendered, tokenized, cut or refused, held out or not."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from operator import sub

from finetune_api.results import SplitSummary
from finetune_trainer.data.bins import packed_rows
from finetune_trainer.data.chat import ChatTemplate, Rendered
from finetune_trainer.data.datafiles import DigestedFile
from finetune_trainer.data.rows import Problems, lines, parse_row, row_key
from finetune_trainer.data.tokenizer import ChatTokenizer
from finetune_trainer.errors import BadRow, DataError, UserError

_BATCH_ROWS = 256
_KEYS = 1 << 64
FRACTION_FIELD = "spec.dataset.validation.fraction"


@dataclass(frozen=True)
class Limits:
    """What a row may have. ``positions`` and ``vocabulary`` are the model's, where it says them."""

    max_tokens: int
    refuse_longer: bool
    positions: int | None
    vocabulary: int | None


class Rows:
    """Tokenized rows in memory, five bytes per token. Arrays are as in :mod:`finetune_trainer.data.splitfiles`."""

    def __init__(self) -> None:
        self.input_ids = array("i")
        self.loss_mask = bytearray()
        self.offsets = array("q", [0])
        self.keys = array("Q")
        self.cut = bytearray()
        self.without_loss = 0

    def __len__(self) -> int:
        return len(self.keys)

    def add(self, input_ids: Sequence[int], loss_mask: bytearray, key: int, truncated: int) -> None:
        """Appends one row."""
        self.input_ids.extend(input_ids)
        self.loss_mask += loss_mask
        self.offsets.append(len(self.input_ids))
        self.keys.append(key)
        self.cut.append(truncated)
        self.without_loss += not any(loss_mask)

    @property
    def loss_tokens(self) -> int:
        return self.loss_mask.count(1)

    @property
    def truncated(self) -> int:
        """Rows that were cut."""
        return self.cut.count(1)

    def summary(self, digest: str, capacity: int) -> SplitSummary:
        """Counts of the rows; ``capacity`` is the most tokens of a packed one."""
        return SplitSummary(
            digest=digest,
            rows=len(self),
            tokens=len(self.input_ids),
            loss_tokens=self.loss_tokens,
            truncated=self.truncated,
            packed_rows=packed_rows(Counter(map(sub, self.offsets[1:], self.offsets)), capacity),
        )


@dataclass(frozen=True)
class _Row:
    number: int
    place: str
    key: int
    rendered: Rendered


class _Reader:
    """Reads rows one by one, counts them and notes those that cannot be used."""

    def __init__(self, template: ChatTemplate) -> None:
        self.rows = 0
        self.problems = Problems()
        self._template = template

    def read(self, files: Sequence[DigestedFile]) -> Iterator[_Row]:
        for file in files:
            for number, line in enumerate(lines(file.chunks()), start=1):
                if not line.strip():
                    continue
                self.rows += 1
                place = f"{file.file.uri}:{number}"
                try:
                    messages = parse_row(line)
                    yield _Row(self.rows, place, row_key(messages), self._template.render(messages))
                except BadRow as error:
                    self.problems.add(self.rows, place, error.message)


def read_rows(files: Sequence[DigestedFile], tokenizer: ChatTokenizer, limits: Limits, field: str) -> Rows:
    """Reads and tokenizes every row of some files; ``field`` is where the spec names them.

    Raises:
        DataError: rows cannot be used, or there are none; the message names file, line and reason.
        UserError: the model cannot take the rows.
    """
    reader, found, limit = _Reader(tokenizer.template), Rows(), limits.max_tokens
    rows = reader.read(files)
    while batch := list(islice(rows, _BATCH_ROWS)):
        tokenized = tokenizer.tokenize([row.rendered for row in batch])
        for row, tokens in zip(batch, tokenized, strict=True):
            length = len(tokens.input_ids)
            if limits.refuse_longer and length > limit:
                reader.problems.add_too_long(row.number, row.place, length, limit)
                continue
            _check_model_takes(row.place, tokens.input_ids[:limit], limits)
            found.add(tokens.input_ids[:limit], tokens.loss_mask[:limit], row.key, length > limit)
    reader.problems.raise_if_any(reader.rows)
    if not reader.rows:
        names = ", ".join(file.file.uri for file in files)
        raise DataError(f"the dataset of {field} is empty: {names} has no rows", "upload data with at least one row")
    return found


def _check_model_takes(place: str, input_ids: Sequence[int], limits: Limits) -> None:
    if limits.positions is not None and len(input_ids) > limits.positions:
        raise UserError(
            f"{place}: {len(input_ids)} tokens, but the model has {limits.positions} positions",
            f"set spec.hyperparameters.maxSequenceLength to at most {limits.positions}",
        )
    if limits.vocabulary is not None and max(input_ids, default=0) >= limits.vocabulary:
        raise UserError(
            f"the tokenizer of spec.model.source does not fit its model: {place} has the token {max(input_ids)}, "
            f"the vocabulary ends at {limits.vocabulary - 1}",
            "use the tokenizer that belongs to the model, or resize the model's embedding",
        )


def hold_out(rows: Rows, fraction: str) -> tuple[Rows, Rows]:
    """Training and held-out rows; which they are depends on each row's content, so that equal rows stay together.

    Raises:
        UserError: one of them would have no rows.
    """
    chosen = held_out(rows.keys, Decimal(fraction))
    left = "to hold out" if not any(chosen) else "to train on" if all(chosen) else None
    if left:
        change = "raise" if left == "to hold out" else "lower"
        raise UserError(
            f"{FRACTION_FIELD} {fraction!r} of {len(rows)} rows leaves nothing {left}",
            f"{change} it, add rows that differ, or name held-out files in spec.dataset.validation.sources",
        )
    train, validation = Rows(), Rows()
    for index, is_held_out in enumerate(chosen):
        begin, end = rows.offsets[index], rows.offsets[index + 1]
        split = validation if is_held_out else train
        split.add(rows.input_ids[begin:end], rows.loss_mask[begin:end], rows.keys[index], rows.cut[index])
    return train, validation


def held_out(keys: Sequence[int], fraction: Decimal) -> list[bool]:
    """Which rows are held out: those whose key is in the lowest ``fraction`` of all keys.

    Where chance leaves a side empty though a row or more is due to it, the row that is nearest goes there.
    """
    threshold = fraction * _KEYS
    chosen = [key < threshold for key in keys]
    lowest, highest = min(keys), max(keys)
    if lowest == highest:
        return chosen
    if not any(chosen) and len(keys) * fraction >= 1:
        return [key == lowest for key in keys]
    if all(chosen) and len(keys) * (1 - fraction) >= 1:
        return [key != highest for key in keys]
    return chosen


def check_loss(rows: Rows, field: str, limit: int) -> None:
    """Refuses a split in which no token carries loss.

    Raises:
        DataError: everything that the assistant wrote was cut off.
    """
    if len(rows) == rows.without_loss:
        raise DataError(
            f"no row of {field} has a token of the assistant among its first {limit} tokens",
            "raise spec.hyperparameters.maxSequenceLength or shorten the rows",
        )
