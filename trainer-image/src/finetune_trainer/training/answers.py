"""What objectives ask of a model that runs on several ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel

from finetune_trainer.training.batches import MicroBatch
from finetune_trainer.training.scoring import Wanted


class Answers:
    """What objectives ask of a model. All methods are collective: every rank calls them in the same order.

    ``engine`` is called with a micro-batch, what is wanted of it and the device, see
    :class:`finetune_trainer.training.scoring.Scorer`.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        engine: Any,
        micro_batch_size: int,
        rank: int,
        world_size: int,
        device: torch.device,
    ) -> None:
        self._model, self._engine = model, engine
        self.rank, self.world_size, self.device = rank, world_size, device
        self.micro_batch_size = micro_batch_size

    def nll(self, batch: MicroBatch) -> torch.Tensor:
        """Summed negative log-likelihood of the labels, in nats."""
        return self.nll_and_hits(batch)[0]

    def nll_and_hits(self, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """As :meth:`nll`, and the number of labels that are the model's first choice."""
        answer: tuple[torch.Tensor, torch.Tensor] = self._engine(batch, Wanted.NLL, self.device)
        return answer

    def log_probabilities(self, batch: MicroBatch) -> torch.Tensor:
        """Log-probability of each label in nats, [rows, positions]; zero where there is none."""
        answer: torch.Tensor = self._engine(batch, Wanted.LOG_PROBABILITIES, self.device)
        return answer

    def scores(self, batch: MicroBatch) -> torch.Tensor:
        """Score of each sequence by the model's scalar head, in float32, [sequences]."""
        answer: torch.Tensor = self._engine(batch, Wanted.SCORES, self.device)
        return answer

    def next_tokens(self, batch: MicroBatch) -> torch.Tensor:
        """The likeliest token after each sequence, [sequences]."""
        answer: torch.Tensor = self._engine(batch, Wanted.NEXT_TOKENS, self.device)
        return answer

    def sum_over_ranks(self, *values: float | torch.Tensor) -> list[float]:
        """Sums of some numbers over all ranks, in double precision where the device has it."""
        local = torch.stack([torch.as_tensor(value, dtype=torch.float64, device=self.device) for value in values])
        torch.distributed.all_reduce(local)
        return [float(value) for value in local]

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Without dropout and gradients."""
        self._engine.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self._engine.train()

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """As :meth:`evaluating`, and as the model was before its adapter was added.

        Raises:
            TypeError: the model has no adapter.
        """
        if not isinstance(self._model, PeftModel):
            raise TypeError("a model without an adapter is its own reference only before it is trained")
        with self.evaluating(), self._model.disable_adapter():
            yield
