"""How many documents of which length share rows: best-fit decreasing, planned for whole groups at once. Free of numpy.

Johnson et al. 1974, "Worst-case performance bounds for simple one-dimensional packing algorithms": documents from the
longest to the shortest, each into the fullest row that has room for it. Documents of one length are placed together, so
that the work grows with the number of different lengths and not with that of documents.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Placement:
    """``documents`` documents of ``length`` tokens go into ``rows`` rows that have ``left`` tokens left each.

    The rows get ``each`` documents, only the last of them may get fewer. ``new`` rows are opened before.
    """

    length: int
    documents: int
    left: int
    rows: int
    each: int
    new: int

    @property
    def last(self) -> int:
        """Documents of the last row."""
        return self.documents - self.each * (self.rows - 1)


def placements(counts: Mapping[int, int], capacity: int) -> Iterator[Placement]:
    """Where the documents go, from the longest to the shortest.

    Args:
        counts: documents by length in tokens, each from 1 to ``capacity``.
        capacity: most tokens of a row.
    """
    space = _Space()
    for length in sorted(counts, reverse=True):
        waiting = counts[length]
        while waiting:
            placement = space.place(length, waiting, capacity)
            waiting -= placement.documents
            yield placement


def packed_rows(counts: Mapping[int, int], capacity: int) -> int:
    """Rows that documents of some lengths fill; arguments as of :func:`placements`."""
    return sum(placement.new for placement in placements(counts, capacity))


class _Space:
    """How many rows have how many tokens left."""

    def __init__(self) -> None:
        self._left: list[int] = []
        """Ascending, each the key of some rows."""
        self._rows: dict[int, int] = {}

    def place(self, length: int, waiting: int, capacity: int) -> Placement:
        at, new = bisect_left(self._left, length), 0
        if at == len(self._left):
            new = -(-waiting // (capacity // length))
            self._add(capacity, new)
        left = self._left[at]
        each = left // length
        rows = min(self._rows[left], -(-waiting // each))
        placement = Placement(length, min(waiting, each * rows), left, rows, each, new)
        self._take(left, rows)
        self._add(left - each * length, rows - 1)
        self._add(left - placement.last * length, 1)
        return placement

    def _take(self, left: int, rows: int) -> None:
        self._rows[left] -= rows
        if not self._rows[left]:
            del self._rows[left]
            self._left.remove(left)

    def _add(self, left: int, rows: int) -> None:
        if rows and left not in self._rows:
            insort(self._left, left)
        if rows:
            self._rows[left] = self._rows.get(left, 0) + rows
