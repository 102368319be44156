"""What an objective is, and what it sees of the model.

A global batch is spread over ranks and micro-batches. So that its loss and gradient do not depend on how, an objective
returns plain sums for a micro-batch, and counts for the whole global batch what they are divided by: its *units*, such
as tokens with loss or pairs. Each sum names its unit; the loss is the sum of all quotients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

from finetune_trainer.training.batches import GlobalBatch, MicroBatch

RowsT = TypeVar("RowsT")
RowsIn = TypeVar("RowsIn", contravariant=True)
Units = Mapping[str, int]
"""How many of each unit a batch has, by name of the unit."""
Shared = Mapping[str, float]
"""Values over a whole global batch that the loss of each of its micro-batches needs, by name; most need none."""


Alive = Callable[[], None]


@dataclass(frozen=True)
class Sum:
    """A sum over the units of one kind in a micro-batch: a scalar, float32."""

    value: torch.Tensor
    unit: str


@dataclass(frozen=True)
class Measured:
    """What one micro-batch adds to the loss, which carries gradients, and to the metrics, which carry none.

    Every micro-batch of an objective names the same parts in the same order.
    """

    loss: tuple[Sum, ...]
    metrics: Mapping[str, tuple[Sum, ...]]


class Model(Protocol):
    """What an objective sees of the model under training. All of it is collective: every rank does the same calls."""

    @property
    def rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...

    @property
    def micro_batch_size(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def nll(self, batch: MicroBatch) -> torch.Tensor:
        """Summed negative log-likelihood of the labels, a scalar in nats, float32."""
        ...

    def log_probabilities(self, batch: MicroBatch) -> torch.Tensor:
        """Log-probability of each label in nats, float32, in the form of the labels; zero where there is none."""
        ...

    def nll_and_hits(self, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """As :meth:`nll`, and the number of labels that are the model's first choice."""
        ...

    def scores(self, batch: MicroBatch) -> torch.Tensor:
        """Score of each sequence by the model's scalar head, float32, [sequences]."""
        ...

    def evaluating(self) -> AbstractContextManager[None]:
        """Without dropout and gradients."""
        ...

    def without_adapter(self) -> AbstractContextManager[None]:
        """As :meth:`evaluating`, and as the model was before its adapter was added."""
        ...

    def sum_over_ranks(self, *values: float | torch.Tensor) -> list[float]:
        """Sums of some numbers over all ranks."""
        ...


class Objective(Protocol[RowsIn]):
    """What is learned, from rows of one kind."""

    def tokens(self, rows: RowsIn, indices: Sequence[int]) -> int:
        """All tokens of some rows, for throughput."""
        ...

    def units(self, rows: RowsIn, indices: Sequence[int]) -> Units:
        """The units of some rows: of a whole global batch, or of a rank's part of a held-out split."""
        ...

    def before_training(self, model: Model, rows: RowsIn, batches: Iterable[GlobalBatch], alive: Alive) -> None:
        """Keeps what must come from the model as it is before its first step, for all batches to come. Collective.

        ``alive`` is called every few seconds of work.
        """
        ...

    def share(self, model: Model, rows: RowsIn, batch: GlobalBatch) -> Shared:
        """What all micro-batches of a global batch need, computed in a pass before them. Collective."""
        ...

    def measure(self, model: Model, rows: RowsIn, indices: Sequence[int], shared: Shared) -> Measured:
        """Loss and metrics of one micro-batch, as sums. Collective under ZeRO-3."""
        ...


class NothingBefore:
    """The part of an objective that needs nothing before training nor before a batch."""

    def before_training(self, model: Model, rows: object, batches: Iterable[GlobalBatch], alive: Alive) -> None:
        """Nothing."""

    def share(self, model: Model, rows: object, batch: GlobalBatch) -> Shared:
        """Nothing."""
        return {}


def mean_loss(measured: Measured, units: Units) -> torch.Tensor:
    """What a micro-batch adds to the loss of a batch that has ``units``; a scalar that carries gradients."""
    return torch.stack([part.value / max(1, units[part.unit]) for part in measured.loss]).sum()
