"""Which failures of a store are tried again, how often and when."""

from __future__ import annotations

import pytest

from finetune_trainer.storage.retries import Answer, Trouble, asked_seconds, delay, trouble_of


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (503, Trouble.THROTTLED),
        (429, Trouble.THROTTLED),
        (500, Trouble.BROKEN),
        (502, Trouble.BROKEN),
        (504, Trouble.BROKEN),
        (408, Trouble.BROKEN),
        (400, None),
        (403, None),
        (404, None),
        (412, None),
        (501, None),
    ],
)
def test_what_an_answer_is_worth(status: int, expected: Trouble | None) -> None:
    assert trouble_of(Answer(status, {})) is expected


@pytest.mark.parametrize(
    ("header", "seconds"), [("3", 3.0), (" 12 ", 12.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.0), ("-1", 0.0), ("", 0.0)]
)
def test_seconds_that_a_store_asks_for(header: str, seconds: float) -> None:
    assert asked_seconds(Answer(503, {"retry-after": header})) == seconds


def test_nothing_is_asked_without_the_header() -> None:
    assert asked_seconds(Answer(503, {})) == 0.0


@pytest.mark.parametrize(
    ("trouble", "attempts", "share", "asked", "expected"),
    [
        (Trouble.BROKEN, 1, 1.0, 0.0, 0.4),
        (Trouble.BROKEN, 2, 0.5, 0.0, 0.4),
        (Trouble.BROKEN, 5, 1.0, 0.0, 6.4),
        (Trouble.BROKEN, 6, 1.0, 0.0, None),
        (Trouble.UNREACHABLE, 2, 1.0, 0.0, 0.8),
        (Trouble.UNREACHABLE, 3, 1.0, 0.0, None),
        (Trouble.THROTTLED, 9, 1.0, 0.0, 15.0),
        (Trouble.THROTTLED, 10, 1.0, 0.0, None),
        # Never sooner than asked, however the dice fall; and a store that asks for an hour is not waited for.
        (Trouble.THROTTLED, 1, 0.0, 7.0, 7.0),
        (Trouble.THROTTLED, 9, 1.0, 7.0, 15.0),
        (Trouble.THROTTLED, 1, 0.0, 3600.0, None),
    ],
)
def test_delays(trouble: Trouble, attempts: int, share: float, asked: float, expected: float | None) -> None:
    assert delay(trouble, attempts, share, asked) == expected
