"""Shards of tokenized rows: filled in memory up to a bounded size, then stored and forgotten."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from finetune_api.results import SplitSummary
from finetune_api.uris import S3Location
from finetune_trainer.data.bins import packed_rows
from finetune_trainer.data.splitfiles import shard_name, write_split_file
from finetune_trainer.data.tokenizer import TokenizedRow
from finetune_trainer.storage.digests import file_sha256
from finetune_trainer.storage.interface import ObjectStore

# Five bytes per token: 10 MB.
SHARD_TOKENS = 2 << 20
SHARD_ROWS = 1 << 20


class ShardWriter:
    """Writes one split into a folder of a store, shard by shard; the same rows give the same files."""

    def __init__(self, split: str, store: ObjectStore, folder: S3Location, scratch: Path) -> None:
        self.files: dict[str, str] = {}
        self.rows = self.tokens = self.loss_tokens = self.truncated = self.without_loss = 0
        self._split, self._store, self._folder, self._scratch = split, store, folder, scratch
        self._paired = False
        # Filled again for every shard: arrays that grow would leave holes behind, and memory would creep up.
        # As memory views: they take a row of a few tokens sooner than numpy does.
        self._input_ids, self._loss_mask = _buffers(SHARD_TOKENS)
        # No more entries than a row may have tokens.
        self._lengths: Counter[int] = Counter()
        self._empty()

    def add(self, sequences: Sequence[TokenizedRow], label: bool | None, truncated: bool) -> None:
        """Appends one row, of one sequence or of two."""
        tokens = sum(len(sequence.input_ids) for sequence in sequences)
        self._make_room(tokens)
        for sequence in sequences:
            begin, end = self._offsets[-1], self._offsets[-1] + len(sequence.input_ids)
            self._input_ids[begin:end] = array("i", sequence.input_ids)
            self._loss_mask[begin:end] = sequence.loss_mask
            self._offsets.append(end)
            self._lengths[len(sequence.input_ids)] += 1
        if label is not None:
            self._desirable.append(label)
        self._paired = len(sequences) == 2
        self.rows += 1
        self.truncated += truncated
        loss_tokens = sum(sequence.loss_mask.count(1) for sequence in sequences)
        self.tokens += tokens
        self.loss_tokens += loss_tokens
        self.without_loss += not loss_tokens

    def _make_room(self, tokens: int) -> None:
        """Stores the shard when one more row would be too much for it."""
        if self._offsets[-1] + tokens > len(self._input_ids) or len(self._offsets) > SHARD_ROWS:
            self.close()
        if tokens > len(self._input_ids):
            self._input_ids, self._loss_mask = _buffers(tokens)

    def close(self) -> None:
        """Stores what is left."""
        if len(self._offsets) > 1:
            self._store_shard()

    def summary(self, digest: str, capacity: int) -> SplitSummary:
        """Counts of the split; ``capacity`` is the most tokens of a packed row."""
        return SplitSummary(
            digest=digest,
            rows=self.rows,
            tokens=self.tokens,
            loss_tokens=self.loss_tokens,
            truncated=self.truncated,
            packed_rows=packed_rows(self._lengths, capacity),
        )

    def _empty(self) -> None:
        self._offsets, self._desirable = array("q", [0]), bytearray()

    def _store_shard(self) -> None:
        name = shard_name(self._split, len(self.files))
        path = self._scratch / name
        tokens = self._offsets[-1]
        buffers = (self._input_ids[:tokens], self._loss_mask[:tokens], memoryview(self._offsets))
        desirable = memoryview(self._desirable) if self._desirable else None
        write_split_file(path, *buffers, paired=self._paired, desirable=desirable)
        self.files[name] = f"sha256:{file_sha256(path)}"
        self._store.upload(path, self._folder.child(name))
        path.unlink()
        self._empty()


def _buffers(tokens: int) -> tuple[memoryview, memoryview]:
    """Room for token ids, as int32, and for their loss mask, as uint8; memory that is not touched costs nothing."""
    return np.empty(tokens, dtype=np.int32).data, np.empty(tokens, dtype=np.uint8).data
