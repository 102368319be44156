"""Which rows a step sees, and what becomes of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from finetune_trainer.training.batches import (
    IGNORE_INDEX,
    BatchOrder,
    collate,
    count_tokens,
    held_out_batch,
    held_out_batches,
    pad,
)
from finetune_trainer.training.epochs import epoch_rows


class FewRows:
    """Three rows; the second carries loss from its first token on, the third is one token long."""

    _rows = (
        ([5, 6, 7, 8], [0, 0, 1, 1]),
        ([9, 10], [1, 1]),
        ([11], [1]),
    )

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, index: int) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        ids, mask = self._rows[index]
        return np.array(ids, dtype=np.int32), np.array(mask, dtype=np.uint8)


@given(
    rows=st.integers(1, 40),
    world=st.integers(1, 4),
    micro=st.integers(1, 3),
    accumulation=st.integers(1, 3),
    step=st.integers(0, 20),
)
def test_every_world_shares_the_same_global_batch(
    rows: int, world: int, micro: int, accumulation: int, step: int
) -> None:
    size = world * micro * accumulation
    alone = BatchOrder(rows, 7, size, size, 0, 1).micro_batches(step).ravel().tolist()
    shared = [BatchOrder(rows, 7, size, micro, rank, world).micro_batches(step) for rank in range(world)]
    assert all(part.shape == (accumulation, micro) for part in shared)
    assert sorted(np.concatenate(shared).ravel().tolist()) == sorted(alone)


def test_a_batch_says_which_rows_are_the_ranks_own() -> None:
    order = BatchOrder(rows=20, seed=7, global_batch_size=8, micro_batch_size=2, rank=1, world_size=2)
    batch = order.batch(3)
    assert batch.rows == order.global_batch(3).tolist()
    assert batch.parts == [[2, 3], [6, 7]]
    assert batch.micro_batches == order.micro_batches(3).tolist()


def test_the_held_out_split_is_one_batch() -> None:
    batch = held_out_batch(5, 2, 1, 2)
    assert list(batch.rows) == [0, 1, 2, 3, 4]
    assert batch.micro_batches == [[2, 3], []]


def test_epochs_follow_each_other_without_a_gap() -> None:
    order = BatchOrder(rows=5, seed=3, global_batch_size=4, micro_batch_size=4, rank=0, world_size=1)
    stream = [row for step in range(5) for row in order.global_batch(step).tolist()]
    expected = [row for epoch in range(4) for row in epoch_rows(5, 3, epoch, 0, 5).tolist()]
    assert stream == expected
    assert order.epochs_done(5) == 4.0


def test_a_batch_larger_than_the_data_takes_whole_epochs() -> None:
    order = BatchOrder(rows=2, seed=3, global_batch_size=6, micro_batch_size=6, rank=0, world_size=1)
    assert np.bincount(order.global_batch(0)).tolist() == [3, 3]


def test_collate_pads_to_the_longest_row_and_shifts_labels() -> None:
    batch = collate(FewRows(), [0, 1, 2])
    none = IGNORE_INDEX
    assert batch.input_ids.tolist() == [[5, 6, 7, 8], [9, 10, 0, 0], [11, 0, 0, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]
    assert batch.labels.tolist() == [[none, 7, 8, none], [10, none, none, none], [none, none, none, none]]
    assert batch.input_ids.dtype == batch.labels.dtype == torch.int64


def test_sums_per_document() -> None:
    batch = collate(FewRows(), [0, 1])
    assert batch.document_sums((batch.labels != IGNORE_INDEX).float()).tolist() == [2.0, 1.0]


def test_padding_is_the_token_that_is_asked_for() -> None:
    batch = pad([FewRows().row(0), FewRows().row(2)], padding=3)
    assert batch.input_ids.tolist() == [[5, 6, 7, 8], [11, 3, 3, 3]]


def test_tokens_with_loss_leave_out_the_first_of_each_row() -> None:
    assert count_tokens(FewRows(), [0, 1, 2]) == (7, 3)
    assert count_tokens(FewRows(), [2]) == (1, 0)


@pytest.mark.parametrize(
    ("rows", "micro", "world", "expected"),
    [
        (5, 2, 1, [[[0, 1], [2, 3], [4]]]),
        (5, 2, 2, [[[0, 1], [4]], [[2, 3], []]]),
        (1, 1, 3, [[[0]], [[]], [[]]]),
        (0, 1, 2, [[], []]),
    ],
)
def test_all_ranks_take_part_in_every_round(rows: int, micro: int, world: int, expected: list[list[list[int]]]) -> None:
    found = [[list(part) for part in held_out_batches(rows, micro, rank, world)] for rank in range(world)]
    assert found == expected
