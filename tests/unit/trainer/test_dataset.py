"""Which rows are held out."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.dataset import Rows, check_loss, held_out, hold_out
from finetune_trainer.errors import DataError, UserError

KEYS = st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=40)
FRACTIONS = st.decimals("0.01", "0.99", places=2)


def rows_with(keys: list[int], loss: int = 1) -> Rows:
    """Rows of two tokens, the second of which carries loss; each is known by its token."""
    rows = Rows()
    for number, key in enumerate(keys):
        rows.add([0, number], bytearray([0, loss]), key, number % 2)
    return rows


@given(KEYS, FRACTIONS)
def test_equal_rows_stay_together(keys: list[int], fraction: Decimal) -> None:
    chosen = held_out(keys * 2, fraction)
    assert chosen[: len(keys)] == chosen[len(keys) :]


@given(KEYS, KEYS)
def test_a_row_is_held_out_whatever_other_rows_there_are(keys: list[int], others: list[int]) -> None:
    # One row of each side, so that neither is empty.
    sides = [0, 2**64 - 1]
    alone, together = (held_out([*sides, *rows], Decimal("0.5")) for rows in (keys, keys + others))
    assert together[: len(alone)] == alone


@given(KEYS, FRACTIONS, FRACTIONS)
def test_a_larger_fraction_holds_out_more(keys: list[int], one: Decimal, other: Decimal) -> None:
    fewer, more = held_out(keys, min(one, other)), held_out(keys, max(one, other))
    if any(fewer) and not all(more):
        assert all(wide for narrow, wide in zip(fewer, more, strict=True) if narrow)


@pytest.mark.parametrize(
    ("keys", "fraction", "expected"),
    [
        ([0, 2**63, 2**64 - 1], "0.5", [True, False, False]),
        ([2**64 - 1] * 3 + [2**64 - 2], "0.3", [False, False, False, True]),
        ([0, 0, 1], "0.5", [True, True, False]),
        ([5, 6, 7], "0", [False, False, False]),
        ([5, 6, 2**64 - 1], "1", [True, True, True]),
        ([2**63, 2**63 + 1], "0.01", [False, False]),
    ],
    ids=["by key", "nearest held out", "nearest trained on", "nothing", "everything", "less than one row is due"],
)
def test_held_out(keys: list[int], fraction: str, expected: list[bool]) -> None:
    assert held_out(keys, Decimal(fraction)) == expected


def test_both_splits_keep_their_order_and_counts() -> None:
    train, validation = hold_out(rows_with([1, 2**63, 2, 2**63 + 1]), "0.5")
    assert list(train.input_ids) == [0, 1, 0, 3]
    assert list(validation.input_ids) == [0, 0, 0, 2]
    assert list(train.offsets) == [0, 2, 4]
    summary = train.summary("sha256:" + "0" * 64, capacity=4)
    assert (summary.rows, summary.tokens, summary.loss_tokens, summary.truncated) == (2, 4, 2, 2)
    assert summary.packed_rows == 1


@pytest.mark.parametrize(
    ("keys", "fraction", "message", "remedy"),
    [
        ([2**63, 2**63], "0.01", "'0.01' of 2 rows leaves nothing to hold out", "raise it, "),
        ([7, 7, 7], "0.5", "'0.5' of 3 rows leaves nothing to train on", "lower it, "),
        ([1, 2], "1.0", "'1.0' of 2 rows leaves nothing to train on", "lower it, "),
    ],
)
def test_a_fraction_that_leaves_nothing(keys: list[int], fraction: str, message: str, remedy: str) -> None:
    with pytest.raises(UserError) as refused:
        hold_out(rows_with(keys), fraction)
    assert refused.value.message == f"spec.dataset.validation.fraction {message}"
    assert refused.value.remedy.startswith(remedy)


def test_a_split_without_any_loss_is_refused() -> None:
    check_loss(rows_with([1]), "spec.dataset.train", 8)
    with pytest.raises(DataError) as refused:
        check_loss(rows_with([1, 2], loss=0), "spec.dataset.train", 8)
    assert refused.value.message == "no row of spec.dataset.train has a token of the assistant among its first 8 tokens"
