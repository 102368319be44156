"""The schedules are those of transformers.get_scheduler."""

from __future__ import annotations

import pytest
import torch
from transformers import get_scheduler

from finetune_api.spec import Schedule
from finetune_trainer.training.schedule import learning_rate_factor


@pytest.mark.parametrize("schedule", Schedule)
@pytest.mark.parametrize(("warmup", "total"), [(0, 10), (3, 10), (1, 1), (10, 10), (12, 10)])
def test_equals_transformers(schedule: Schedule, warmup: int, total: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = get_scheduler(
        "constant_with_warmup" if schedule is Schedule.CONSTANT else schedule.value, optimizer, warmup, total
    )
    expected = []
    for _ in range(total):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    found = [learning_rate_factor(schedule, step, warmup, total) for step in range(total)]
    assert found == pytest.approx(expected, abs=1e-12)


def test_never_negative_after_the_end() -> None:
    assert [learning_rate_factor(schedule, 99, 0, 10) for schedule in (Schedule.LINEAR, Schedule.CONSTANT)] == [
        0.0,
        1.0,
    ]
