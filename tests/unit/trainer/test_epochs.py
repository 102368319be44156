"""In which order an epoch sees the rows, and what it takes to know it."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.training import epochs
from finetune_trainer.training.epochs import epoch_rows


@pytest.fixture
def forgetful() -> Iterator[None]:
    """Parts of one size are not those of another."""
    epochs._bounds.cache_clear(), epochs._part.cache_clear()
    yield
    epochs._bounds.cache_clear(), epochs._part.cache_clear()


def whole(rows: int, seed: int, epoch: int) -> list[int]:
    found: list[int] = epoch_rows(rows, seed, epoch, 0, rows).tolist()
    return found


def test_the_order_is_part_of_what_a_run_id_stands_for() -> None:
    # A change of these numbers needs another RECIPE_VERSION in finetune_api.runid.
    assert whole(8, 42, 0) == [4, 3, 5, 0, 7, 6, 1, 2]
    assert whole(8, 42, 1) == [0, 1, 5, 7, 3, 4, 2, 6]
    assert whole(8, 43, 0) == [2, 5, 7, 4, 1, 3, 0, 6]


@given(rows=st.integers(1, 300), seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 1000))
def test_an_epoch_is_a_permutation(rows: int, seed: int, epoch: int) -> None:
    assert sorted(whole(rows, seed, epoch)) == list(range(rows))


def test_an_epoch_is_well_mixed() -> None:
    assert abs(np.corrcoef(whole(10_000, 1, 0), np.arange(10_000))[0, 1]) < 0.05


@pytest.mark.parametrize("rows", [1, 4, 5, 8, 9, 61])
def test_the_order_is_the_same_however_it_is_cut(rows: int, forgetful: None, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = whole(rows, 7, 2)
    monkeypatch.setattr(epochs, "_PART_ROWS", 4)
    epochs._bounds.cache_clear(), epochs._part.cache_clear()
    assert whole(rows, 7, 2) == expected
    for first in range(rows):
        count = min(5, rows - first)
        assert epoch_rows(rows, 7, 2, first, count).tolist() == expected[first : first + count]


def test_memory_does_not_grow_with_the_rows(forgetful: None) -> None:
    rows = 3_000_000
    tracemalloc.start()
    for first in (0, rows // 2, rows - 64):
        epoch_rows(rows, 1, 0, first, 64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The numbers of the rows alone would be 24 MB.
    assert peak < 8 << 20, peak
