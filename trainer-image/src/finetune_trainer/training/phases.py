"""Phases of training that all ranks go through together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from finetune_trainer.training.collectives import total
from finetune_trainer.training.heartbeat import AnyPulse, Phase


class Phases:
    """Has the ranks meet before and after each phase.

    So a phase has its own time limit only while all ranks are in it. The ways in and out count as part of a step: a
    rank that stops there is found as soon as in one, and nobody waits in a step for one that rightly takes its time.
    """

    def __init__(self, pulse: AnyPulse, device: torch.device) -> None:
        self._pulse, self._device = pulse, device

    @contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """A phase, as long as the ``with`` block. Collective."""
        total(0.0, self._device)
        with self._pulse.during(phase):
            yield
            total(0.0, self._device)
