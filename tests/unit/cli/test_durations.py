"""Durations as kubectl writes them."""

from __future__ import annotations

import pytest

from finetune_cli.durations import seconds_of
from finetune_cli.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90.0), ("30m", 1800.0), ("2h30m", 9000.0), ("1.5h", 5400.0), ("1h1m1s", 3661.0), ("0.25s", 0.25)],
)
def test_seconds(text: str, seconds: float) -> None:
    assert seconds_of(text, "--timeout") == seconds


@pytest.mark.parametrize("text", ["", "5", "soon", "-5s", "0s", "5 m", "1d", "s", "5ms", "1h30"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError, match=f"--timeout {text}: write a duration"):
        seconds_of(text, "--timeout")
