"""Sums of what micro-batches measured, and the means over all ranks that come of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch

from finetune_trainer.training.objectives.interface import Measured, Sum, Units

LOSS = "loss"


class Ranks(Protocol):
    """All ranks of the training."""

    def sum_over_ranks(self, *values: float | torch.Tensor) -> list[float]:
        """Sums of some numbers over all ranks. Collective."""
        ...


@dataclass(frozen=True)
class Means:
    """Loss and metrics of a batch over all ranks, per unit."""

    loss: float
    metrics: Mapping[str, float]


@dataclass
class Totals:
    """Sums over the micro-batches of one rank, kept on the device until they are asked for."""

    _sums: dict[tuple[str, str], torch.Tensor] = field(default_factory=dict)

    def add(self, measured: Measured, weight: float = 1.0) -> None:
        """Adds one micro-batch. Every rank adds the same names, with weight 0 where a batch is there for company."""
        for part in measured.loss:
            self._add((LOSS, part.unit), part, weight)
        for name, parts in measured.metrics.items():
            for part in parts:
                self._add((name, part.unit), part, weight)

    def _add(self, key: tuple[str, str], part: Sum, weight: float) -> None:
        value = part.value.detach().double() * weight
        self._sums[key] = self._sums[key] + value if key in self._sums else value

    def means(self, ranks: Ranks, units: Units) -> Means:
        """Divides the sums over all ranks by the units of the batch. Collective."""
        means: dict[str, float] = {LOSS: 0.0}
        for (name, unit), total in zip(self._sums, ranks.sum_over_ranks(*self._sums.values()), strict=True):
            means[name] = means.get(name, 0.0) + total / max(1, units[unit])
        return Means(means.pop(LOSS), means)
