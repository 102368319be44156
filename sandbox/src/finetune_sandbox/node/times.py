"""Times as the Kubernetes API writes them (RFC 3339, UTC)."""

from __future__ import annotations

import datetime


def now() -> datetime.datetime:
    """The current time, in UTC."""
    return datetime.datetime.now(datetime.UTC)


def timestamp(at: datetime.datetime) -> str:
    """A ``metav1.Time``: whole seconds."""
    return at.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_time(at: datetime.datetime) -> str:
    """A ``metav1.MicroTime``: microseconds."""
    return at.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: str) -> datetime.datetime:
    """The time that ``timestamp``, ``micro_time`` or a log line's nanoseconds say."""
    whole, dot, fraction = text.removesuffix("Z").partition(".")
    return datetime.datetime.fromisoformat(f"{whole}.{fraction[:6]:0<6}+00:00" if dot else f"{whole}+00:00")
