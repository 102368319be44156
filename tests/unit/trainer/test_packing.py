"""Documents are packed best-fit-decreasing, whole and once, always the same way."""

from __future__ import annotations

from bisect import bisect_left, insort

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from finetune_trainer.training.packing import Packing, pack


def best_fit_decreasing(lengths: list[int], capacity: int) -> list[int]:
    """What each row has left, ascending, by the textbook: one document after the other."""
    left: list[int] = []
    for length in sorted(lengths, reverse=True):
        at = bisect_left(left, length)
        insort(left, (left.pop(at) if at < len(left) else capacity) - length)
    return left


def row_lengths(packing: Packing, lengths: NDArray[np.int64]) -> list[int]:
    return [int(lengths[packing.members(row)].sum()) for row in range(len(packing))]


@given(st.integers(1, 60).flatmap(lambda most: st.tuples(st.just(most), st.lists(st.integers(1, most), max_size=150))))
def test_equals_the_textbook(case: tuple[int, list[int]]) -> None:
    capacity, content = case
    lengths = np.array(content, dtype=np.int64)
    packing = pack(lengths, capacity)
    assert sorted(packing.documents.tolist()) == list(range(len(content)))
    assert sorted(capacity - used for used in row_lengths(packing, lengths)) == best_fit_decreasing(content, capacity)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([], []),
        ([8], [[0]]),
        ([3, 8, 5, 4, 1], [[1], [0, 2], [3, 4]]),
        ([2, 2, 2, 2, 2], [[0, 1, 2, 3], [4]]),
    ],
)
def test_rows_of_eight_tokens(lengths: list[int], expected: list[list[int]]) -> None:
    packing = pack(np.array(lengths, dtype=np.int64), 8)
    assert [packing.members(row).tolist() for row in range(len(packing))] == expected


def test_which_rows_a_packing_has_is_part_of_what_a_run_id_stands_for() -> None:
    # A change of these numbers needs another RECIPE_VERSION in finetune_api.runid.
    lengths = np.random.default_rng(0).integers(1, 100, 12)
    packing = pack(lengths, 128)
    assert [packing.members(row).tolist() for row in range(len(packing))] == [
        [4, 5, 11],
        [0, 3],
        [8, 9],
        [2, 6, 7, 10],
        [1],
    ]


def test_chat_lengths_fill_the_rows() -> None:
    lengths = np.random.default_rng(0).lognormal(5, 0.9, 20_000).astype(np.int64).clip(1, 2048)
    packing = pack(lengths, 2048)
    assert lengths.sum() / (len(packing) * 2048) > 0.999
