"""The number of packed rows follows from the lengths alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.bins import Placement, packed_rows, placements
from finetune_trainer.training.packing import pack


@pytest.mark.parametrize(
    ("counts", "capacity", "rows"),
    [
        ({}, 8, 0),
        ({8: 3}, 8, 3),
        ({5: 2, 3: 2}, 8, 2),
        ({3: 5}, 8, 3),
        ({1: 17}, 8, 3),
        ({6: 1, 5: 1, 2: 1, 1: 1}, 8, 2),
    ],
)
def test_rows(counts: dict[int, int], capacity: int, rows: int) -> None:
    assert packed_rows(counts, capacity) == rows


@given(st.lists(st.integers(1, 40), min_size=1, max_size=100), st.integers(40, 90))
def test_as_many_rows_as_documents_are_packed_into(lengths: list[int], capacity: int) -> None:
    assert packed_rows(Counter(lengths), capacity) == len(pack(np.array(lengths), capacity))


def test_documents_of_one_length_are_placed_together() -> None:
    assert list(placements({4: 1, 3: 4}, 8)) == [
        Placement(length=4, documents=1, left=8, rows=1, each=2, new=1),
        Placement(length=3, documents=1, left=4, rows=1, each=1, new=0),
        Placement(length=3, documents=3, left=8, rows=2, each=2, new=2),
    ]


def test_ten_million_documents_take_as_few_placements_as_they_have_lengths() -> None:
    counts = {length: 5_000 for length in range(1, 2_001)}
    assert sum(1 for _ in placements(counts, 2_048)) < 20_000
