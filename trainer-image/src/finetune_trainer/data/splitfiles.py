"""Files of tokenized data: shards of each split in safetensors form, and a summary that makes them count. No numpy.

Tensors of a shard: ``input_ids`` int32 [tokens], ``loss_mask`` uint8 [tokens] (1 where the token carries loss),
``offsets`` int64 [rows + 1]; row i is the slice ``offsets[i]:offsets[i + 1]``.

Preference data has two sequences per row, chosen and rejected, one after the other: ``offsets`` has 2 * rows + 1
elements, and ``paired`` uint8 [1] says so. Unpaired preference data has ``desirable`` uint8 [rows].
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from finetune_api.base import Document
from finetune_api.results import Digest, SplitSummary
from finetune_trainer.data.facts import DataFacts
from finetune_trainer.models.safetensors_header import write_vectors

TRAIN, VALIDATION = "train", "validation"
SUMMARY_FILE = "summary.json"
REPORT_FILE = "data-report.html"


def shard_name(split: str, number: int) -> str:
    """File name of a shard; shards of a split are in the order of their numbers."""
    return f"{split}-{number:05}.safetensors"


TRAIN_FILE, VALIDATION_FILE = shard_name(TRAIN, 0), shard_name(VALIDATION, 0)


class SplitsSummary(Document):
    """What ``summary.json`` says of tokenized data; it is written last, and only then the data counts."""

    train: SplitSummary
    validation: SplitSummary | None = None
    # Names become paths on this machine.
    files: Mapping[Annotated[str, Field(pattern=rf"^({TRAIN}|{VALIDATION})-\d{{5,9}}\.safetensors$")], Digest]
    facts: DataFacts | None = None

    def shards(self, split: str) -> list[str]:
        """Names of a split's shards, in order."""
        return sorted(name for name in self.files if name.startswith(f"{split}-"))


def write_split_file(
    path: Path,
    input_ids: memoryview,
    loss_mask: memoryview,
    offsets: memoryview,
    *,
    paired: bool = False,
    desirable: memoryview | None = None,
) -> None:
    """Writes one shard from buffers of int32, uint8, int64 and uint8; the same rows give the same bytes."""
    vectors: dict[str, tuple[str, bytes | memoryview]] = {
        "offsets": ("I64", offsets.cast("B")),
        "input_ids": ("I32", input_ids.cast("B")),
        "loss_mask": ("U8", loss_mask.cast("B")),
    }
    if paired:
        vectors["paired"] = ("U8", bytes([1]))
    if desirable is not None:
        vectors["desirable"] = ("U8", desirable.cast("B"))
    write_vectors(path, vectors)
