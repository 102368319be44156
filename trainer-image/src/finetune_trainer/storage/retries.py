"""When a refused or broken request to an S3-compatible store is sent again. Pure: one table.

Delays are exponential with full jitter (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/), so
that the processes of a gang do not come back together, and never shorter than the store asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

FIRST_SECONDS, LONGEST_SECONDS = 0.2, 15.0
# What a store may ask for with Retry-After before the request is given up instead.
_LONGEST_ASKED_SECONDS = 60.0
_THROTTLED = frozenset({429, 503})
_TRANSIENT = frozenset({408, 500, 502, 504})


class Trouble(Enum):
    """Kinds of failure that may pass, with how often a request is sent at most."""

    UNREACHABLE = 3
    """Nobody listens: more likely a wrong address than a store that restarts."""
    BROKEN = 6
    """Reset, cut short, silent, or an internal error."""
    THROTTLED = 10
    """The store is there and wants fewer requests."""


MOST_ATTEMPTS = max(trouble.value for trouble in Trouble)


@dataclass(frozen=True)
class Answer:
    """Status and headers (names in lower case) of a store's answer."""

    status: int
    headers: Mapping[str, str]


def trouble_of(answer: Answer) -> Trouble | None:
    """What an error answer is worth; None when sending the same again would not help."""
    if answer.status in _THROTTLED:
        return Trouble.THROTTLED
    return Trouble.BROKEN if answer.status in _TRANSIENT else None


def asked_seconds(answer: Answer) -> float:
    """What the store asked to wait; dates, which it may also send, count as nothing."""
    asked = answer.headers.get("retry-after", "").strip()
    return float(asked) if asked.isdecimal() else 0.0


def delay(trouble: Trouble, attempts: int, share: float, asked: float = 0.0) -> float | None:
    """Seconds to wait before a request is sent again; None when it has been sent often enough.

    Args:
        trouble: what happened.
        attempts: how often it was sent.
        share: a random number from 0 to 1.
        asked: seconds that the store asked for.
    """
    if attempts >= trouble.value or asked > _LONGEST_ASKED_SECONDS:
        return None
    longest: float = min(LONGEST_SECONDS, FIRST_SECONDS * 2**attempts)
    return max(asked, share * longest)
