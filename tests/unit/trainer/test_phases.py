"""When ranks meet on the ways into a phase and out of it, and which limit they have while they do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from finetune_trainer.training import phases
from finetune_trainer.training.heartbeat import NoPulse, Phase
from finetune_trainer.training.phases import Phases


class _Recorded(NoPulse):
    """Notes when a phase begins and ends."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    @contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        self.seen.append(f"{phase.name} begins")
        yield
        self.seen.append(f"{phase.name} ends")


@pytest.fixture
def pulse(monkeypatch: pytest.MonkeyPatch) -> _Recorded:
    pulse = _Recorded()

    def total(value: float, device: torch.device) -> float:
        pulse.seen.append("ranks meet")
        return value

    monkeypatch.setattr(phases, "total", total)
    return pulse


def test_a_phase_lasts_from_when_all_have_come_until_all_are_done(pulse: _Recorded) -> None:
    with Phases(pulse, torch.device("cpu")).during(Phase.SAVE):
        pulse.seen.append("work")
    assert pulse.seen == ["ranks meet", "SAVE begins", "work", "ranks meet", "SAVE ends"]


def test_a_rank_that_fails_waits_for_nobody(pulse: _Recorded) -> None:
    with pytest.raises(ValueError, match="no"), Phases(pulse, torch.device("cpu")).during(Phase.EVALUATE):
        raise ValueError("no")
    assert pulse.seen == ["ranks meet", "EVALUATE begins"]
