"""Which rows are held out, and how often the others are seen."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.heldout import Bounds, copies, threshold_of

KEYS = st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=40)
FRACTIONS = st.decimals("0.01", "0.99", places=2)
LAST = 2**64 - 1


def bounds_of(keys: list[int], threshold: int) -> Bounds:
    bounds = Bounds()
    for key in keys:
        bounds.add(key, key < threshold)
    return bounds


def held_out(keys: list[int], fraction: Decimal) -> list[bool]:
    """What the two passes of prepare decide."""
    threshold = bounds_of(keys, threshold_of(fraction)).settled(fraction)
    return [key < threshold for key in keys]


@given(KEYS, KEYS)
def test_a_row_is_held_out_whatever_other_rows_there_are(keys: list[int], others: list[int]) -> None:
    # One row of each side, so that neither is empty.
    alone, together = (held_out([0, LAST, *rows], Decimal("0.5")) for rows in (keys, keys + others))
    assert together[: len(alone)] == alone


@given(KEYS, FRACTIONS, FRACTIONS)
def test_a_larger_fraction_holds_out_more(keys: list[int], one: Decimal, other: Decimal) -> None:
    fewer, more = held_out(keys, min(one, other)), held_out(keys, max(one, other))
    if any(fewer) and not all(more):
        assert all(wide for narrow, wide in zip(fewer, more, strict=True) if narrow)


@pytest.mark.parametrize(
    ("keys", "fraction", "expected"),
    [
        ([0, 2**63, LAST], "0.5", [True, False, False]),
        ([LAST] * 3 + [LAST - 1], "0.3", [False, False, False, True]),
        ([0, 0, 1], "0.5", [True, True, False]),
        ([5, 6, 7], "0", [False, False, False]),
        ([5, 6, LAST], "1", [True, True, True]),
        ([2**63, 2**63 + 1], "0.01", [False, False]),
    ],
    ids=["by key", "nearest held out", "nearest trained on", "nothing", "everything", "less than one row is due"],
)
def test_held_out(keys: list[int], fraction: str, expected: list[bool]) -> None:
    assert held_out(keys, Decimal(fraction)) == expected


@pytest.mark.parametrize(
    ("keys", "fraction", "message", "remedy"),
    [
        ([2**63, 2**63], "0.01", "'0.01' of 2 rows leaves nothing to hold out", "raise it, "),
        ([7, 7, 7], "0.5", "'0.5' of 3 rows leaves nothing to train on", "lower it, "),
        ([1, 2], "1.0", "'1.0' of 2 rows leaves nothing to train on", "lower it, "),
    ],
)
def test_a_fraction_that_leaves_nothing(keys: list[int], fraction: str, message: str, remedy: str) -> None:
    problem = bounds_of(keys, threshold_of(Decimal(fraction))).problem(fraction)
    assert problem is not None
    assert problem.message == f"spec.dataset.validation.fraction {message}"
    assert problem.remedy.startswith(remedy)


def test_two_sides_with_rows_are_no_problem() -> None:
    assert bounds_of([1, LAST], 2**63).problem("0.5") is None


@pytest.mark.parametrize(
    ("weight", "share", "expected"),
    [
        ("1", LAST, 1),
        ("3", 0, 3),
        ("0.5", 2**63 - 1, 1),
        ("0.5", 2**63, 0),
        ("2.25", 0, 3),
        ("2.25", 2**62, 2),
        ("1.0", 0, 1),
    ],
)
def test_copies(weight: str, share: int, expected: int) -> None:
    assert copies(weight, share) == expected


@given(FRACTIONS, st.integers(0, LAST))
def test_a_row_that_a_weight_takes_is_taken_by_a_larger_one(fraction: Decimal, share: int) -> None:
    assert copies(str(fraction), share) <= copies(str(fraction + Decimal("0.5")), share)
