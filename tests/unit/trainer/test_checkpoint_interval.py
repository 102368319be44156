"""When a checkpoint is due."""

from __future__ import annotations

import pytest

from finetune_api.spec import CheckpointSpec
from finetune_trainer.training.checkpoints.interval import FIRST_SECONDS, Cost, automatic_seconds, is_due


@pytest.mark.parametrize(
    ("fields", "steps", "seconds", "cost", "due"),
    [
        ({"everySteps": 3}, 2, 1e9, None, False),
        ({"everySteps": 3}, 3, 0.0, None, True),
        ({"everySeconds": 60}, 1, 59.9, None, False),
        ({"everySeconds": 60}, 1, 60.0, None, True),
        ({"everySeconds": 60}, 0, 60.0, None, False),
        ({}, 1, FIRST_SECONDS - 1, None, False),
        ({}, 1, FIRST_SECONDS, None, True),
        ({"meanSecondsToFailure": 14400}, 1, 53.0, Cost(0.1, 1.0), False),
        ({"meanSecondsToFailure": 14400}, 1, 54.0, Cost(0.1, 1.0), True),
    ],
)
def test_is_due(fields: dict[str, int], steps: int, seconds: float, cost: Cost | None, due: bool) -> None:
    assert is_due(CheckpointSpec.model_validate(fields), steps, seconds, cost) is due


@pytest.mark.parametrize(
    ("failure", "cost", "seconds"),
    [(20_000, Cost(1.0, 1.0), 200.0), (60, Cost(2.0, 1.0), 100.0), (60, Cost(0.001, 45.0), 45.0)],
    ids=["Young's formula", "at most 2 % of the time", "no shorter than an upload"],
)
def test_automatic_seconds(failure: float, cost: Cost, seconds: float) -> None:
    assert automatic_seconds(failure, cost) == pytest.approx(seconds)
