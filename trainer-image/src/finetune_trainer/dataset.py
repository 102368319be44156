"""From files of rows to tokenized splits: each row checked, rendered, tokenized, cut or refused, held out or not."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from finetune_api.results import SplitSummary
from finetune_trainer.chat import Rendered
from finetune_trainer.datafiles import DigestedFile
from finetune_trainer.errors import BadRow, DataError, UserError
from finetune_trainer.rows import Problems, lines, parse_row, row_key
from finetune_trainer.splits import SplitArrays
from finetune_trainer.tokenizer import ChatTokenizer, TokenizedRow

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


@dataclass(frozen=True)
class Rows:
    """Tokenized rows: the arrays, and per row its key and whether it was cut, [rows] each."""

    arrays: SplitArrays
    keys: NDArray[np.uint64]
    truncated: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.keys)

    def where(self, chosen: NDArray[np.bool_]) -> Rows:
        """The rows that are chosen, [rows], in the same order."""
        lengths = np.diff(self.arrays.offsets)
        tokens = np.repeat(chosen, lengths)
        offsets = np.concatenate(([0], np.cumsum(lengths[chosen]))).astype(np.int64)
        arrays = SplitArrays(self.arrays.input_ids[tokens], self.arrays.loss_mask[tokens], offsets)
        return Rows(arrays, self.keys[chosen], self.truncated[chosen])

    def summary(self, digest: str) -> SplitSummary:
        """Counts of the rows."""
        return SplitSummary(
            digest=digest,
            rows=len(self),
            tokens=len(self.arrays.input_ids),
            loss_tokens=int(self.arrays.loss_mask.sum()),
            truncated=int(self.truncated.sum()),
        )

    @property
    def without_loss(self) -> int:
        """Rows whose assistant turns were all cut off."""
        before = np.concatenate(([0], np.cumsum(self.arrays.loss_mask, dtype=np.int64)))
        return int((np.diff(before[self.arrays.offsets]) == 0).sum())


class _Collector:
    """Grows the arrays row by row, five bytes per token."""

    def __init__(self) -> None:
        self._ids, self._mask, self._lengths = array("i"), array("B"), array("q")
        self._keys, self._truncated = array("Q"), array("B")

    def add(self, row: TokenizedRow, key: int, limit: int) -> None:
        self._ids.frombytes(row.input_ids[:limit].tobytes())
        self._mask.frombytes(row.loss_mask[:limit].tobytes())
        self._lengths.append(min(len(row.input_ids), limit))
        self._keys.append(key)
        self._truncated.append(len(row.input_ids) > limit)

    def rows(self) -> Rows:
        offsets = np.concatenate(([0], np.cumsum(np.frombuffer(self._lengths, dtype=np.int64)))).astype(np.int64)
        arrays = SplitArrays(
            np.frombuffer(self._ids, dtype=np.int32), np.frombuffer(self._mask, dtype=np.uint8), offsets
        )
        keys, truncated = np.frombuffer(self._keys, dtype=np.uint64), np.frombuffer(self._truncated, dtype=np.uint8)
        return Rows(arrays, keys, truncated)


@dataclass(frozen=True)
class _Row:
    place: str
    key: int
    rendered: Rendered


def read_rows(files: Sequence[DigestedFile], tokenizer: ChatTokenizer, limits: Limits, field: str) -> Rows:
    """Reads and tokenizes every row of some files; ``field`` is where the spec names them.

    Raises:
        DataError: rows cannot be used, or there are none; the message names file, line and reason.
        UserError: the model cannot take the rows.
    """
    problems, collector, counter = Problems(), _Collector(), _Counter()
    rows = _rendered(files, tokenizer, problems, counter)
    while batch := list(islice(rows, _BATCH_ROWS)):
        tokenized = tokenizer.tokenize([row.rendered for row in batch])
        for row, tokens in zip(batch, tokenized, strict=True):
            _check_model_takes(row.place, tokens, limits)
            if limits.refuse_longer and len(tokens.input_ids) > limits.max_tokens:
                problems.add_too_long(row.place, len(tokens.input_ids), limits.max_tokens)
            collector.add(tokens, row.key, limits.max_tokens)
    problems.raise_if_any(counter.rows)
    if not counter.rows:
        names = ", ".join(file.file.uri for file in files)
        raise DataError(f"the dataset of {field} is empty: {names} has no rows", "upload data with at least one row")
    return collector.rows()


class _Counter:
    rows = 0


def _rendered(
    files: Sequence[DigestedFile], tokenizer: ChatTokenizer, problems: Problems, counter: _Counter
) -> Iterator[_Row]:
    for file in files:
        for number, line in enumerate(lines(file.chunks()), start=1):
            if not line.strip():
                continue
            counter.rows += 1
            place = f"{file.file.uri}:{number}"
            try:
                messages = parse_row(line)
                yield _Row(place, row_key(messages), tokenizer.template.render(messages))
            except BadRow as error:
                problems.add(place, error.message)


def _check_model_takes(place: str, tokens: TokenizedRow, limits: Limits) -> None:
    length = min(len(tokens.input_ids), limits.max_tokens)
    if limits.positions is not None and length > limits.positions:
        raise UserError(
            f"{place}: {length} tokens, but the model has {limits.positions} positions (max_position_embeddings)",
            f"set spec.hyperparameters.maxSequenceLength to at most {limits.positions}",
        )
    if limits.vocabulary is not None and length and int(tokens.input_ids.max()) >= limits.vocabulary:
        raise UserError(
            f"the tokenizer of spec.model.source does not fit its model: {place} has the token "
            f"{int(tokens.input_ids.max())}, the vocabulary ends at {limits.vocabulary - 1}",
            "use the tokenizer that belongs to the model, or resize the model's embedding",
        )


def hold_out(rows: Rows, fraction: str) -> tuple[Rows, Rows]:
    """Training and held-out rows; which they are depends on each row's content, so that equal rows stay together.

    Raises:
        UserError: one of them would have no rows.
    """
    chosen = held_out(rows.keys, Decimal(fraction))
    left = "to hold out" if not chosen.any() else "to train on" if chosen.all() else None
    if left:
        change = "raise" if left == "to hold out" else "lower"
        raise UserError(
            f"{FRACTION_FIELD} {fraction!r} of {len(rows)} rows leaves nothing {left}",
            f"{change} it, add rows that differ, or name held-out files in spec.dataset.validation.sources",
        )
    return rows.where(~chosen), rows.where(chosen)


def held_out(keys: NDArray[np.uint64], fraction: Decimal) -> NDArray[np.bool_]:
    """Which rows are held out, [rows]: those whose key is in the lowest ``fraction`` of all keys.

    Where chance leaves a side empty though a row or more is due to it, the row that is nearest goes there.
    """
    threshold = int(fraction * _KEYS)
    chosen: NDArray[np.bool_] = keys < threshold if threshold < _KEYS else np.ones(len(keys), dtype=np.bool_)
    if not chosen.any() and len(keys) * fraction >= 1:
        chosen = keys == keys.min()
    elif chosen.all() and len(keys) * (1 - fraction) >= 1:
        chosen = keys != keys.max()
    return chosen


def check_loss(rows: Rows, field: str, limit: int) -> None:
    """Refuses a split in which no token carries loss.

    Raises:
        DataError: everything that the assistant wrote was cut off.
    """
    if not rows.arrays.loss_mask.any():
        raise DataError(
            f"no row of {field} has a token of the assistant among its first {limit} tokens",
            "raise spec.hyperparameters.maxSequenceLength or shorten the rows",
        )
