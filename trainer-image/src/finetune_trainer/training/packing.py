"""Which documents share a row: the plan of :mod:`finetune_trainer.data.bins`, document by document."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.data.bins import Placement, placements
from finetune_trainer.training.batches import BatchOrder, GlobalBatch


@dataclass(frozen=True)
class Packing:
    """Rows of documents: row i holds ``documents[bounds[i]:bounds[i + 1]]``."""

    bounds: NDArray[np.int64]
    documents: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def members(self, row: int) -> NDArray[np.int32]:
        """Numbers of the documents of one row, ascending."""
        return self.documents[self.bounds[row] : self.bounds[row + 1]]


def pack(lengths: NDArray[np.int64], capacity: int) -> Packing:
    """Distributes documents over rows of at most ``capacity`` tokens. The same lengths give the same rows.

    Needs about 20 bytes for each document.

    Args:
        lengths: tokens of each document, [documents], each from 1 to ``capacity``.
        capacity: most tokens of a row.
    """
    row_of = _row_of_each(lengths, capacity)
    rows = int(row_of.max()) + 1 if len(row_of) else 0
    bounds = np.concatenate([[0], np.cumsum(np.bincount(row_of, minlength=rows))]).astype(np.int64)
    return Packing(bounds, np.argsort(row_of, kind="stable").astype(np.int32))


def _row_of_each(lengths: NDArray[np.int64], capacity: int) -> NDArray[np.int32]:
    longest_first = np.argsort(-lengths.astype(np.int32), kind="stable")
    counts = np.bincount(lengths)
    row_of, rows, placed = np.empty(len(lengths), dtype=np.int32), _OpenRows(capacity), 0
    for placement in placements({int(length): int(counts[length]) for length in np.flatnonzero(counts)}, capacity):
        end = placed + placement.documents
        row_of[longest_first[placed:end]] = rows.take(placement)
        placed = end
    return row_of


class _OpenRows:
    """Numbers of the rows by the tokens that they have left."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._opened = 0
        self._by_left: dict[int, NDArray[np.int32]] = {}

    def take(self, placement: Placement) -> NDArray[np.int32]:
        """The row of each document of a placement, in the order of the documents."""
        self._add(self._capacity, np.arange(self._opened, self._opened + placement.new, dtype=np.int32))
        self._opened += placement.new
        rows = self._by_left[placement.left]
        used, self._by_left[placement.left] = rows[: placement.rows], rows[placement.rows :]
        self._add(placement.left - placement.each * placement.length, used[:-1])
        self._add(placement.left - placement.last * placement.length, used[-1:])
        return np.repeat(used, placement.each)[: placement.documents]

    def _add(self, left: int, rows: NDArray[np.int32]) -> None:
        if len(rows):
            known = self._by_left.get(left)
            self._by_left[left] = rows if known is None else np.concatenate([known, rows])


@dataclass(frozen=True)
class PackedOrder:
    """Batches of documents: those of the packed rows that ``order`` deals out."""

    order: BatchOrder
    packing: Packing

    def batch(self, step: int) -> GlobalBatch:
        """The documents of one optimizer step, and this rank's part of them."""
        batch = self.order.batch(step)
        members = [self.packing.members(row).tolist() for row in batch.rows]
        ends = np.cumsum([len(documents) for documents in members]).tolist()
        parts = [
            [document for row in part for document in range(ends[row] - len(members[row]), ends[row])]
            for part in batch.parts
        ]
        return GlobalBatch([document for documents in members for document in documents], parts)

    def epochs_done(self, steps: int) -> float:
        """Passes over the packed rows after a number of optimizer steps."""
        return self.order.epochs_done(steps)
