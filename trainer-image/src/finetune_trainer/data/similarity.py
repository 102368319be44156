"""Rows that equal or nearly equal each other, found on disk: memory does not grow with their number.

Near duplicates are estimated by MinHash (https://doi.org/10.1109/SEQUEN.1997.666900) in its one-permutation form
(https://arxiv.org/abs/1208.1259) over runs of eight bytes, with locality-sensitive hashing in 5 bands of 6 values: of
two rows that share 80 % of their runs, 78 % are found, at 90 % it is 98 %, at 50 % it is 8 %.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

BANDS, VALUES = 5, 6
_BUCKETS = 32
_SHINGLE_BYTES = 8
# More of a row says nothing new about whether it repeats another.
_MAX_BYTES = 1 << 16
# Keys that are sorted at a time, and read at a time.
_PART_KEYS = 1 << 16
_CHUNK_KEYS = 1 << 16
# Texts that wait for their keys: numpy is quick for many and slow for each.
_WAITING_ROWS, _WAITING_CHARACTERS = 256, 1 << 16

Keys = NDArray[np.uint64]
Flags = NDArray[np.uint8]

HELD_OUT, _AGAIN, _LEAKED, _NEARLY_AGAIN, _NEARLY_LEAKED = (1 << bit for bit in range(5))

_NONE = np.uint64(2**64 - 1)
_BUCKET_SHIFT = np.uint64(64 - 5)


def band_keys(texts: Sequence[str]) -> Keys:
    """Keys of the bands of some texts, uint64 [texts, BANDS]: similar texts have one in common.

    Case and white space do not count.
    """
    contents = [" ".join(text.lower().split()).encode()[:_MAX_BYTES].ljust(_SHINGLE_BYTES, b" ") for text in texts]
    lengths = np.array([len(content) for content in contents])
    joined = b"".join(contents)
    shingles: Keys = np.ndarray((len(joined) - _SHINGLE_BYTES + 1,), "<u8", joined, strides=(1,))
    numbers = np.repeat(np.arange(len(texts)), lengths)[: len(shingles)]
    # Runs that reach into the next text are none.
    inside = np.arange(_SHINGLE_BYTES, len(joined) + 1) <= np.cumsum(lengths)[numbers]
    hashed = _mixed(shingles[inside])
    least = np.full(len(texts) * _BUCKETS, _NONE)
    np.minimum.at(least, numbers[inside] * _BUCKETS + (hashed >> _BUCKET_SHIFT).astype(np.int64), hashed)
    # An empty bucket borrows from the next one, the last ones from the first.
    least = np.minimum.accumulate(least.reshape(-1, _BUCKETS)[:, ::-1], axis=1)[:, ::-1]
    least = np.where(least == _NONE, least[:, :1], least)[:, : BANDS * VALUES]
    return _mixed((least.reshape(-1, BANDS, VALUES) * _FACTORS).sum(axis=2))


def _mixed(values: Keys) -> Keys:
    """Finalizer of SplitMix64, https://doi.org/10.1145/2714064.2660195."""
    mixed = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


_FACTORS = _mixed(np.arange(1, VALUES + 1, dtype=np.uint64)) | np.uint64(1)


@dataclass(frozen=True)
class Repeats:
    """How many training rows repeat an earlier one, and how many held-out rows a training row."""

    duplicates: int
    near_duplicates: int
    overlap: int
    near_overlap: int


class KeyFiles:
    """Keys of all rows in files of a folder: what a row is, what it resembles, and in which split it is."""

    def __init__(self, folder: Path) -> None:
        self._keys = folder / "keys"
        self._bands = [folder / f"band-{band}" for band in range(BANDS)]
        self._splits = folder / "splits"
        self._paths = [self._keys, *self._bands, self._splits]
        self._open = ExitStack()
        self._files = [self._open.enter_context(path.open("wb")) for path in self._paths]
        self._waiting: list[tuple[int, str, bool]] = []
        self._characters = 0

    def __enter__(self) -> KeyFiles:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def add(self, key: int, words: str, held_out: bool) -> None:
        """Notes one row."""
        self._waiting.append((key, words, held_out))
        self._characters += len(words)
        if len(self._waiting) == _WAITING_ROWS or self._characters >= _WAITING_CHARACTERS:
            self._write()

    def _write(self) -> None:
        if not self._waiting:
            return
        keys, words, held_out = zip(*self._waiting, strict=True)
        columns = (np.array(keys, dtype=np.uint64), *band_keys(words).T, np.array(held_out, dtype=np.uint8))
        for file, column in zip(self._files, columns, strict=True):
            file.write(column.tobytes())
        self._waiting, self._characters = [], 0

    def count(self) -> Repeats:
        """Counts the repeats among the rows; none can be added after that."""
        self._write()
        self._open.close()
        # One byte per row is all that is kept of it in memory.
        flags = np.fromfile(self._splits, dtype=np.uint8)
        mark_repeats(self._keys, flags, _AGAIN, _LEAKED)
        for path in self._bands:
            mark_repeats(path, flags, _NEARLY_AGAIN, _NEARLY_LEAKED)
        return Repeats(
            duplicates=_count(flags, _AGAIN),
            near_duplicates=_count(flags, _NEARLY_AGAIN, without=_AGAIN),
            overlap=_count(flags, _LEAKED),
            near_overlap=_count(flags, _NEARLY_LEAKED, without=_LEAKED),
        )


def mark_repeats(path: Path, flags: Flags, again: int, leaked: int) -> None:
    """Sets the bit ``again`` of training rows that have the key of an earlier one, and the bit ``leaked`` of held-out
    rows that have the key of a training row.

    ``path`` holds one uint64 per row; ``flags`` is [rows], with the bit HELD_OUT.
    """
    for rows, keys in _parts(path, len(flags)):
        order = np.argsort(keys, kind="stable")
        rows, keys = rows[order], keys[order]
        is_train = (flags[rows] & HELD_OUT) == 0
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        group = np.repeat(np.arange(len(starts)), np.diff([*starts, len(keys)]))
        before: NDArray[np.int64] = np.cumsum(is_train) - is_train
        flags[rows[is_train & (before > before[starts][group])]] |= np.uint8(again)
        is_trained_on = np.add.reduceat(is_train.astype(np.int64), starts) > 0
        flags[rows[~is_train & is_trained_on[group]]] |= np.uint8(leaked)


def _count(flags: Flags, bit: int, without: int = 0) -> int:
    return int(((flags & (bit | without)) == bit).sum())


def _parts(path: Path, rows: int) -> Iterator[tuple[NDArray[np.int64], Keys]]:
    """Row numbers and keys, a share of all possible keys at a time; equal keys come together."""
    parts = max(1, -(-rows // _PART_KEYS))
    for part in range(parts):
        found = [(first + places, keys[places]) for first, keys in _chunks(path) for places in [_of(keys, part, parts)]]
        numbers = np.concatenate([np.zeros(0, dtype=np.int64), *(places for places, _ in found)])
        if len(numbers):
            yield numbers, np.concatenate([keys for _, keys in found])


def _of(keys: Keys, part: int, parts: int) -> NDArray[np.int64]:
    return np.flatnonzero(keys % np.uint64(parts) == part)


def _chunks(path: Path) -> Iterator[tuple[int, Keys]]:
    first = 0
    with path.open("rb") as file:
        while len(keys := np.fromfile(file, dtype=np.uint64, count=_CHUNK_KEYS)):
            yield first, keys
            first += len(keys)
