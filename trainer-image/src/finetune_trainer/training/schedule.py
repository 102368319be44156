"""Learning rate schedules as pure functions of the optimizer step."""

from __future__ import annotations

import math

from finetune_api.spec import Schedule


def learning_rate_factor(schedule: Schedule, step: int, warmup_steps: int, total_steps: int) -> float:
    """Share of the peak learning rate that optimizer step ``step``, counted from 0, uses.

    The formulas are those of ``transformers.get_scheduler``: linear warmup from zero, then constant, linear to zero,
    or half a cosine to zero.
    """
    if step < warmup_steps:
        return step / warmup_steps
    if schedule is Schedule.CONSTANT:
        return 1.0
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    if schedule is Schedule.LINEAR:
        return max(0.0, 1.0 - done)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * done)))
