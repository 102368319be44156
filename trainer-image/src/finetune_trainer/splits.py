"""Tokenized splits: one safetensors file each, written by prepare and read by memory map in training.

Tensors: ``input_ids`` int32 [tokens], ``loss_mask`` uint8 [tokens] (1 where the token carries loss), ``offsets`` int64
[rows + 1]; row i is the slice ``offsets[i]:offsets[i + 1]``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from finetune_api.base import Document
from finetune_api.plan import OUTPUT, RunPlan
from finetune_api.results import Digest, SplitSummary
from finetune_api.uris import S3Location, parse_destination
from finetune_trainer.errors import StorageError
from finetune_trainer.storage import store_of
from finetune_trainer.tensors import TensorFile

TRAIN_FILE = "train.safetensors"
VALIDATION_FILE = "validation.safetensors"
SUMMARY_FILE = "summary.json"


@dataclass(frozen=True)
class SplitArrays:
    """One split in memory; see the module for the meaning of the arrays."""

    input_ids: NDArray[np.int32]
    loss_mask: NDArray[np.uint8]
    offsets: NDArray[np.int64]


def write_split(path: Path, split: SplitArrays) -> None:
    """Writes a split; the same split gives the same bytes."""
    save_file({"input_ids": split.input_ids, "loss_mask": split.loss_mask, "offsets": split.offsets}, path)


class TokenizedSplit:
    """A split on disk; rows are views of a memory map.

    Raises:
        NotSafetensors: the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        file = TensorFile(path)
        self._input_ids = file.bits("input_ids").view(np.int32)
        self._loss_mask = file.bits("loss_mask")
        self._offsets = file.bits("offsets").view(np.int64)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def row(self, index: int) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """Token ids and loss mask of one row, each [tokens of the row]."""
        begin, end = self._offsets[index], self._offsets[index + 1]
        return self._input_ids[begin:end], self._loss_mask[begin:end].view(np.uint8)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, [rows]."""
        return np.diff(self._offsets)


class SplitsSummary(Document):
    """What ``summary.json`` says of tokenized data; it is written last, and only then the data counts."""

    train: SplitSummary
    validation: SplitSummary | None = None
    files: Mapping[str, Digest]


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
    summary = SplitsSummary.model_validate_json(store.read(folder.child(SUMMARY_FILE)))
    into.mkdir(parents=True, exist_ok=True)
    for name, digest in summary.files.items():
        store.download(folder.child(name), into / name)
        _check(into / name, digest, folder.child(name))
    validation = TokenizedSplit(into / VALIDATION_FILE) if summary.validation else None
    return Splits(TokenizedSplit(into / TRAIN_FILE), validation)


def _check(path: Path, digest: str, location: S3Location) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if f"sha256:{found}" != digest:
        raise StorageError(f"{location} is damaged: it is not what prepare wrote", f"delete {location} and run again")
