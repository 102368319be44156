"""Which rows each optimizer step sees, and how they become tensors.

The order depends on the seed and the number of rows only: every world size sees the same global batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from finetune_trainer.training.epochs import epoch_rows

# Positions that carry no loss, as torch.nn.functional.cross_entropy calls them.
IGNORE_INDEX = -100


# Token ids and loss mask, of the same length.
TokenSequence = tuple[NDArray[np.int32], NDArray[np.uint8]]


class Rows(Protocol):
    """Rows of one sequence: chat, instruction and completion data."""

    def __len__(self) -> int: ...

    def row(self, index: int) -> TokenSequence:
        """Token ids and loss mask of one row."""
        ...


class PairRows(Protocol):
    """Rows of two sequences, of which the first is preferred: preference data."""

    def __len__(self) -> int: ...

    def pair(self, index: int) -> tuple[TokenSequence, TokenSequence]:
        """The chosen and the rejected sequence of one row, each prompt and completion with the completion's mask."""
        ...


class LabelledRows(Rows, Protocol):
    """Rows of one sequence, prompt and completion, that is desirable or not: unpaired preference data."""

    def label(self, index: int) -> bool:
        """Whether a row's completion is desirable."""
        ...


@dataclass(frozen=True)
class GlobalBatch:
    """The rows of one batch over all ranks, and which of them are this rank's.

    ``parts`` are positions in ``rows``, one sequence per micro-batch of this rank. Every rank has as many parts, some
    of them empty at the end of a held-out split: under ZeRO-3 all ranks must take part in each forward pass.
    """

    rows: Sequence[int]
    parts: Sequence[Sequence[int]]

    @property
    def micro_batches(self) -> list[list[int]]:
        """Row numbers of this rank's parts."""
        return [[self.rows[position] for position in part] for part in self.parts]


@dataclass(frozen=True)
class BatchOrder:
    """The rows of every optimizer step, for one rank.

    Epochs follow each other without a gap, so the last batch of an epoch is filled from the next one.
    ``global_batch_size`` is a multiple of ``micro_batch_size * world_size``.
    """

    rows: int
    seed: int
    global_batch_size: int
    micro_batch_size: int
    rank: int
    world_size: int

    def global_batch(self, step: int) -> NDArray[np.int64]:
        """Row numbers of one optimizer step over all ranks, shape [global_batch_size]."""
        first, end = step * self.global_batch_size, (step + 1) * self.global_batch_size
        parts = []
        while first < end:
            epoch, position = divmod(first, self.rows)
            count = min(end - first, self.rows - position)
            parts.append(epoch_rows(self.rows, self.seed, epoch, position, count))
            first += count
        return np.concatenate(parts)

    def batch(self, step: int) -> GlobalBatch:
        """The rows of one optimizer step, and this rank's part of them."""
        positions = np.arange(self.global_batch_size).reshape(-1, self.world_size, self.micro_batch_size)
        return GlobalBatch(self.global_batch(step).tolist(), positions[:, self.rank].tolist())

    def micro_batches(self, step: int) -> NDArray[np.int64]:
        """Row numbers of this rank's part, shape [gradient_accumulation_steps, micro_batch_size]."""
        batch = self.global_batch(step).reshape(-1, self.world_size, self.micro_batch_size)
        return batch[:, self.rank]

    def epochs_done(self, steps: int) -> float:
        """Passes over the rows after a number of optimizer steps."""
        return steps * self.global_batch_size / self.rows


@dataclass(frozen=True)
class MicroBatch:
    """Rows padded on the right to the longest of them; all of shape [rows, positions], int64."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    """The token that follows each position, or IGNORE_INDEX where that token carries no loss."""

    def document_sums(self, values: torch.Tensor) -> torch.Tensor:
        """Sums per sequence, [sequences], of values per position, which are in the form of ``labels``."""
        return values.sum(-1)

    def to(self, device: torch.device) -> MicroBatch:
        return MicroBatch(self.input_ids.to(device), self.attention_mask.to(device), self.labels.to(device))


def collate(rows: Rows, indices: Sequence[int]) -> MicroBatch:
    """Reads some rows into one padded micro-batch."""
    return pad([rows.row(index) for index in indices])


def pad(content: Sequence[TokenSequence], padding: int = 0) -> MicroBatch:
    """One micro-batch of some sequences, filled up with the token ``padding``."""
    shape = (len(content), max(len(ids) for ids, _ in content))
    input_ids = np.full(shape, padding, dtype=np.int64)
    attention_mask = np.zeros(shape, dtype=np.int64)
    labels = np.full(shape, IGNORE_INDEX, dtype=np.int64)
    for line, (ids, mask) in enumerate(content):
        input_ids[line, : len(ids)] = ids
        attention_mask[line, : len(ids)] = 1
        labels[line, : len(ids) - 1] = np.where(mask[1:] != 0, ids[1:], IGNORE_INDEX)
    return MicroBatch(torch.from_numpy(input_ids), torch.from_numpy(attention_mask), torch.from_numpy(labels))


def count_tokens(rows: Rows, indices: Sequence[int]) -> tuple[int, int]:
    """All tokens of some rows, and those of them that are predicted with loss (never a row's first token)."""
    masks = [rows.row(index)[1] for index in indices]
    return sum(len(mask) for mask in masks), sum(int(np.count_nonzero(mask[1:])) for mask in masks)


def held_out_batches(rows: int, micro_batch_size: int, rank: int, world_size: int) -> Iterator[range]:
    """This rank's rows of the held-out split, round by round.

    Every rank gets the same number of rounds, some of them empty at the end: under ZeRO-3 all ranks must take part in
    each forward pass.
    """
    width = micro_batch_size * world_size
    for start in range(0, rows, width):
        first = start + rank * micro_batch_size
        yield range(min(first, rows), min(first + micro_batch_size, rows))


def held_out_batch(rows: int, micro_batch_size: int, rank: int, world_size: int) -> GlobalBatch:
    """The whole held-out split as one batch, and this rank's part of it."""
    return GlobalBatch(range(rows), tuple(held_out_batches(rows, micro_batch_size, rank, world_size)))
