"""Durations as kubectl writes them. Pure."""

from __future__ import annotations

import re

from finetune_cli.errors import UsageError

_UNITS = {"h": 3600, "m": 60, "s": 1}
_WHOLE = re.compile(r"(?:\d+(?:\.\d+)?[hms])+")


def seconds_of(text: str, option: str) -> float:
    """Seconds of a duration such as 90s, 30m or 2h30m.

    Raises:
        UsageError: it is none, or none that is above zero; the message names the option.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", text) if _WHOLE.fullmatch(text) else []
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if seconds <= 0:
        raise UsageError(f"{option} {text}: write a duration such as 90s, 30m or 2h30m")
    return seconds
