"""The order of the rows in an epoch, a part of it at a time: memory does not grow with the number of rows.

Rows are sorted by a hash instead of shuffled by a library, whose streams change between versions: the order is part of
what a run ID stands for. Hashes are spread evenly, so the rows whose hash begins with the same bits are a part of the
order, and small enough to be sorted alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# About as many rows are in a part of the order, and are hashed at a time.
_PART_ROWS = 1 << 16

Numbers = NDArray[np.int64]
Hashes = NDArray[np.uint64]


def epoch_rows(rows: int, seed: int, epoch: int, first: int, count: int) -> Numbers:
    """Numbers of the rows at the positions ``first`` to ``first + count`` of one epoch, [count]."""
    bounds = _bounds(rows, seed, epoch)
    found = []
    for part in range(int(np.searchsorted(bounds, first, side="right")) - 1, len(bounds) - 1):
        begin, end = int(bounds[part]), int(bounds[part + 1])
        if begin >= first + count:
            break
        found.append(_part(rows, seed, epoch, part)[max(first - begin, 0) : min(first + count, end) - begin])
    return np.concatenate(found)


def _splitmix64(values: Hashes) -> Hashes:
    """Finalizer of SplitMix64, https://doi.org/10.1145/2714064.2660195: a bijection on 64-bit integers."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _hashed(rows: int, seed: int, epoch: int) -> Iterator[tuple[int, Hashes]]:
    """Hashes of all rows in pieces, each with the number of its first row. No two rows have the same hash."""
    stream = _splitmix64(_splitmix64(np.array([seed], dtype=np.uint64)) + np.uint64(epoch))
    for first in range(0, rows, _PART_ROWS):
        yield first, _splitmix64(stream ^ np.arange(first, min(first + _PART_ROWS, rows), dtype=np.uint64))


def _parts(hashes: Hashes, rows: int) -> Numbers:
    """Number of the part that each hash belongs to: its first bits."""
    bits = max(0, (rows - 1) // _PART_ROWS).bit_length()
    # Shifted twice, since a shift by all 64 bits is undefined.
    return (hashes >> np.uint64(1) >> np.uint64(63 - bits)).astype(np.int64)


@lru_cache(maxsize=2)
def _bounds(rows: int, seed: int, epoch: int) -> Numbers:
    """Positions at which the parts begin, and at which the last one ends, [parts + 1]."""
    parts = 1 << max(0, (rows - 1) // _PART_ROWS).bit_length()
    counts = sum(np.bincount(_parts(hashes, rows), minlength=parts) for _, hashes in _hashed(rows, seed, epoch))
    return np.concatenate([[0], np.cumsum(counts)])


# Two: the last of an epoch, and the first of the next one.
@lru_cache(maxsize=2)
def _part(rows: int, seed: int, epoch: int, part: int) -> Numbers:
    """Numbers of the rows of one part, in order."""
    chosen = [
        (first + places, hashes[places])
        for first, hashes in _hashed(rows, seed, epoch)
        for places in [np.flatnonzero(_parts(hashes, rows) == part)]
    ]
    numbers, hashes = (np.concatenate(column) for column in zip(*chosen, strict=True))
    ordered: Numbers = numbers[np.argsort(hashes)]
    return ordered
