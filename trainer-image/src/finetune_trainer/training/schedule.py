"""Learning rate schedules as pure functions of the optimizer step."""

from __future__ import annotations

import math

from finetune_api.spec import HyperparametersSpec, Schedule


def learning_rate_factor(options: HyperparametersSpec, step: int, total_steps: int) -> float:
    """Share of the peak learning rate that optimizer step ``step``, counted from 0, uses.

    The formulas are those of ``transformers.get_scheduler``: linear warmup from zero, then constant, linear to zero,
    half a cosine to zero, or constant and at the end linear to zero (warmup-stable-decay, Hu et al. 2024, arXiv
    2404.06395).
    """
    warmup = options.warmup_steps
    if step < warmup:
        return step / warmup
    if options.schedule is Schedule.CONSTANT:
        return 1.0
    if options.schedule is Schedule.WSD:
        return _wsd(step, total_steps, decay_steps(options, total_steps))
    done = (step - warmup) / max(1, total_steps - warmup)
    if options.schedule is Schedule.LINEAR:
        return max(0.0, 1.0 - done)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * done)))


def decay_steps(options: HyperparametersSpec, total_steps: int) -> int:
    """Steps of the decay at the end of schedule wsd: at most those after the warmup."""
    wanted = options.decay_steps or -(-total_steps // 10)
    return max(1, min(wanted, total_steps - options.warmup_steps))


def _wsd(step: int, total_steps: int, decay: int) -> float:
    return max(0.0, min(1.0, (total_steps - step) / decay))
