"""Waiting for all ranks in turns."""

from __future__ import annotations

import pytest
import torch

from finetune_trainer.training import collectives
from finetune_trainer.training.collectives import wait_until_all

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("own", "others", "votes"),
    [
        ([True], [0.0], [0.0]),
        ([False, False, True], [0.0, 0.0, 0.0], [1.0, 1.0, 0.0]),
        ([True, True, True], [1.0, 2.0, 0.0], [0.0, 0.0, 0.0]),
        ([False, True, True], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]),
    ],
    ids=["at once", "for this one", "for another one", "for both"],
)
def test_nobody_goes_on_before_all_are_done(
    monkeypatch: pytest.MonkeyPatch, own: list[bool], others: list[float], votes: list[float]
) -> None:
    answers, left = iter(own), iter(others)
    told: list[float] = []

    def total(value: float, device: torch.device) -> float:
        told.append(value)
        return value + next(left)

    monkeypatch.setattr(collectives, "total", total)
    wait_until_all(lambda seconds: next(answers), CPU)
    assert told == votes
    assert list(answers) == list(left) == []
