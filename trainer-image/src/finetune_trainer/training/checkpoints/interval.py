"""When the next checkpoint is due."""

from __future__ import annotations

import math
from dataclasses import dataclass

from finetune_api.spec import CheckpointSpec

# Before the first checkpoint nobody knows what one costs.
FIRST_SECONDS = 60.0
# Training waits at most this share of the time for checkpoints, however often pods are lost.
_MOST_OVERHEAD = 0.02


@dataclass(frozen=True)
class Cost:
    """What the last checkpoint took, in seconds: how long training waited, and how long until it was committed."""

    blocked: float
    whole: float


def automatic_seconds(mean_seconds_to_failure: float, cost: Cost) -> float:
    """Interval that loses the least time: sqrt(2 * Tf * Ts), Young 1974, https://doi.org/10.1145/361147.361115.

    It is no shorter than what keeps training from waiting more than 2 % of the time, nor than an upload takes.
    """
    best = math.sqrt(2 * mean_seconds_to_failure * cost.blocked)
    return max(best, cost.blocked / _MOST_OVERHEAD, cost.whole)


def is_due(spec: CheckpointSpec, steps: int, seconds: float, cost: Cost | None) -> bool:
    """Whether to save now, ``steps`` optimizer steps and ``seconds`` after the last time."""
    if steps < 1:
        return False
    if spec.every_steps:
        return steps >= spec.every_steps
    if spec.every_seconds:
        return seconds >= spec.every_seconds
    automatic = automatic_seconds(spec.mean_seconds_to_failure, cost) if cost else FIRST_SECONDS
    return seconds >= automatic
