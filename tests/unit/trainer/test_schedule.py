"""The schedules are those of transformers.get_scheduler."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import get_scheduler

from finetune_api.spec import HyperparametersSpec, Schedule
from finetune_trainer.training.schedule import decay_steps, learning_rate_factor

NAMES = {Schedule.CONSTANT: "constant_with_warmup", Schedule.WSD: "warmup_stable_decay"}


def options(schedule: Schedule, warmup: int = 0, decay: int | None = None) -> HyperparametersSpec:
    return HyperparametersSpec(schedule=schedule, warmup_steps=warmup, decay_steps=decay)


def of_transformers(schedule: Schedule, warmup: int, total: int, more: dict[str, Any] | None = None) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    name = NAMES.get(schedule, schedule.value)
    scheduler = get_scheduler(name, optimizer, warmup, total, scheduler_specific_kwargs=more)
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("schedule", [Schedule.CONSTANT, Schedule.LINEAR, Schedule.COSINE])
@pytest.mark.parametrize(("warmup", "total"), [(0, 10), (3, 10), (1, 1), (10, 10), (12, 10)])
def test_equals_transformers(schedule: Schedule, warmup: int, total: int) -> None:
    found = [learning_rate_factor(options(schedule, warmup), step, total) for step in range(total)]
    assert found == pytest.approx(of_transformers(schedule, warmup, total), abs=1e-12)


@pytest.mark.parametrize(("warmup", "total", "decay"), [(0, 10, 3), (3, 20, 5), (2, 6, 4), (0, 4, 4)])
def test_warmup_stable_decay_equals_transformers(warmup: int, total: int, decay: int) -> None:
    more = {"num_decay_steps": decay, "decay_type": "linear"}
    found = [learning_rate_factor(options(Schedule.WSD, warmup, decay), step, total) for step in range(total)]
    assert found == pytest.approx(of_transformers(Schedule.WSD, warmup, total, more), abs=1e-12)


@pytest.mark.parametrize(
    ("wanted", "warmup", "total", "expected"),
    [(None, 0, 100, 10), (None, 0, 5, 1), (7, 0, 100, 7), (90, 20, 100, 80), (5, 100, 100, 1)],
)
def test_the_decay_is_a_tenth_or_what_is_asked_for(wanted: int | None, warmup: int, total: int, expected: int) -> None:
    assert decay_steps(options(Schedule.WSD, warmup, wanted), total) == expected


@pytest.mark.parametrize(
    ("schedule", "expected"), [(Schedule.LINEAR, 0.0), (Schedule.WSD, 0.0), (Schedule.CONSTANT, 1.0)]
)
def test_never_negative_after_the_end(schedule: Schedule, expected: float) -> None:
    assert learning_rate_factor(options(schedule), 99, 10) == expected
