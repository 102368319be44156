"""What the demo prints: headings, facts and one line each time the job's status says something new."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from finetune_api.outcomes import Failure

_START = time.monotonic()


def heading(text: str) -> None:
    """A step of the demo, with the seconds since its start."""
    print(f"\n== {text}  [{time.monotonic() - _START:.0f} s]", flush=True)


def say(text: str) -> None:
    print(text, flush=True)


def status_line(status: Mapping[str, Any]) -> str:
    """One line of what a person would want to know of a job's status."""
    progress = status.get("progress", {})
    parts = [f"{status.get('state', 'Pending'):<11}"]
    if progress:
        parts.append(f"step {progress['step']}/{progress['totalSteps']}  {progress['percent']:>3} %")
    measured = (("loss", "loss"), ("evalLoss", "held-out loss"), ("eta", "ETA"), ("tokensPerSecond", "tokens/s"))
    parts += [f"{name} {short(progress[field])}" for field, name in measured if field in progress]
    failure = status.get("failure")
    if failure:
        parts.append(f"{failure['class']}: {Failure.model_validate(failure).words}")
    return "  ".join(parts).rstrip()


def short(decimal: str) -> str:
    """A decimal string with four significant digits; anything else as it is."""
    try:
        return f"{float(decimal):.4g}"
    except ValueError:
        return decimal


def changes_only() -> Callable[[Mapping[str, Any]], None]:
    """A function that prints a status unless it reads like the one before."""
    last = ""

    def show(status: Mapping[str, Any]) -> None:
        nonlocal last
        line = status_line(status)
        if line != last:
            last = line
            say(line)

    return show
