"""Tokenized splits as numpy arrays, by memory map. :mod:`finetune_trainer.data.splitfiles` describes the files."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from finetune_api.plan import OUTPUT, RunPlan
from finetune_api.uris import S3Location, parse_destination
from finetune_trainer.data.splitfiles import (
    REPORT_FILE,
    SUMMARY_FILE,
    TRAIN,
    TRAIN_FILE,
    VALIDATION,
    VALIDATION_FILE,
    SplitsSummary,
    write_split_file,
)
from finetune_trainer.errors import NotSafetensors, StorageError
from finetune_trainer.models.tensors import TensorFile
from finetune_trainer.storage.stores import store_of

__all__ = [
    "SUMMARY_FILE",
    "TRAIN_FILE",
    "VALIDATION_FILE",
    "SplitArrays",
    "Splits",
    "SplitsSummary",
    "TokenizedSplit",
    "fetch_splits",
    "open_splits",
    "write_split",
]


# Token ids and loss mask, of the same length.
TokenSequence = tuple[NDArray[np.int32], NDArray[np.uint8]]


@dataclass(frozen=True)
class SplitArrays:
    """One split in memory; see the module for the meaning of the arrays."""

    input_ids: NDArray[np.int32]
    loss_mask: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    paired: bool = False
    desirable: NDArray[np.uint8] | None = None


def write_split(path: Path, split: SplitArrays) -> None:
    """Writes a split; the same split gives the same bytes."""
    desirable = None if split.desirable is None else split.desirable.data
    buffers = (split.input_ids.data, split.loss_mask.data, split.offsets.data)
    write_split_file(path, *buffers, paired=split.paired, desirable=desirable)


class TokenizedSplit:
    """A split on disk; rows are views of a memory map.

    Rows of one sequence have a :meth:`row`, those of unpaired preference data also a :meth:`label`; rows of preference
    data have a :meth:`pair`.

    Raises:
        NotSafetensors: the file is damaged.
    """

    def __init__(self, *paths: Path) -> None:
        self._shards = [_Shard(path) for path in paths]
        counts = accumulate(len(shard.offsets) - 1 for shard in self._shards)
        # Number of the first sequence of each shard, and of one more that is not there.
        self._firsts = [0, *counts]
        self._sequences = 2 if any(shard.paired for shard in self._shards) else 1

    def __len__(self) -> int:
        return self._firsts[-1] // self._sequences

    def label(self, index: int) -> bool:
        """Whether the completion of a row of unpaired preference data is desirable."""
        shard, place = self._find(index)
        assert shard.desirable is not None, "rows of another kind"
        return bool(shard.desirable[place])

    def wanted(self, index: int) -> TokenSequence | None:
        """The sequence of a row whose completion is one to learn: of preference data the chosen one; None for an
        undesirable completion."""
        if self._sequences == 2:
            return self.pair(index)[0]
        shard, place = self._find(index)
        if shard.desirable is not None and not shard.desirable[place]:
            return None
        return self.row(index)

    def pair(self, index: int) -> tuple[TokenSequence, TokenSequence]:
        """Chosen and rejected sequence of a row of preference data."""
        assert self._sequences == 2, "rows of another kind"
        return self.row(2 * index), self.row(2 * index + 1)

    def row(self, index: int) -> TokenSequence:
        """Token ids and loss mask of one row, each [tokens of the row]; of preference data, of one sequence."""
        shard, place = self._find(index)
        begin, end = shard.offsets[place], shard.offsets[place + 1]
        return shard.input_ids[begin:end], shard.loss_mask[begin:end].view(np.uint8)

    def _find(self, index: int) -> tuple[_Shard, int]:
        number = bisect_right(self._firsts, index) - 1
        return self._shards[number], index - self._firsts[number]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each sequence, [sequences]."""
        return np.concatenate([np.diff(shard.offsets) for shard in self._shards])


class _Shard:
    """The arrays of one file, by memory map."""

    def __init__(self, path: Path) -> None:
        file = TensorFile(path)
        self.input_ids = file.bits("input_ids").view(np.int32)
        self.loss_mask = file.bits("loss_mask")
        self.offsets = file.bits("offsets").view(np.int64)
        self.paired = "paired" in file.tensors
        self.desirable = file.bits("desirable") if "desirable" in file.tensors else None
        self._check()

    def _check(self) -> None:
        """Rows are found by offsets alone."""
        ends = int(self.offsets[0]), int(self.offsets[-1])
        if ends != (0, len(self.input_ids)) or len(self.loss_mask) != len(self.input_ids):
            raise NotSafetensors("its rows do not cover its tokens")
        if (np.diff(self.offsets) < 0).any():
            raise NotSafetensors("a row of it ends before it begins")


@dataclass(frozen=True)
class Splits:
    """The splits of a run, on this machine's disk."""

    train: TokenizedSplit
    validation: TokenizedSplit | None


def fetch_splits(plan: RunPlan, environment: Mapping[str, str], into: Path) -> Splits:
    """Downloads the tokenized data of a prepared plan into a folder and checks it.

    Raises:
        StorageError: the data is gone or is not what prepare wrote.
    """
    if plan.prepared is None:
        raise StorageError("the plan has no prepared data", "run the prepare stage first")
    store, folder = store_of(plan, OUTPUT, environment), parse_destination(plan.prepared.data_uri)
    summary = _summary(store.read(folder.child(SUMMARY_FILE)), folder)
    into.mkdir(parents=True, exist_ok=True)
    for name, digest in summary.files.items():
        store.download(folder.child(name), into / name)
        _check(into / name, digest, folder.child(name))
    if summary.facts:
        store.download(folder.child(REPORT_FILE), into / REPORT_FILE)
    (into / SUMMARY_FILE).write_text(summary.to_json())
    return open_splits(into)


def _summary(content: bytes, folder: S3Location) -> SplitsSummary:
    try:
        return SplitsSummary.model_validate_json(content)
    except ValidationError as error:
        place = folder.child(SUMMARY_FILE)
        raise StorageError(
            f"{place} is damaged: it is not what prepare wrote", f"delete {place} and run again"
        ) from error


def open_splits(folder: Path) -> Splits:
    """The splits in a folder that :func:`fetch_splits` has filled."""
    summary = SplitsSummary.model_validate_json((folder / SUMMARY_FILE).read_bytes())
    train, validation = (
        TokenizedSplit(*(folder / name for name in summary.shards(split))) for split in (TRAIN, VALIDATION)
    )
    return Splits(train, validation if summary.validation else None)


def _check(path: Path, digest: str, location: S3Location) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if f"sha256:{found}" != digest:
        raise StorageError(f"{location} is damaged: it is not what prepare wrote", f"delete {location} and run again")
