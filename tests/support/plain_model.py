"""A model as objectives see it, without DeepSpeed: one process that is all ranks, or one of several in turn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from finetune_trainer.training.batches import MicroBatch
from finetune_trainer.training.loss import hits, log_probabilities, summed_cross_entropy


class PlainModel:
    """Wraps a transformers model, with an adapter or without."""

    def __init__(self, model: Any, micro_batch_size: int = 2, rank: int = 0, world_size: int = 1) -> None:
        self.model, self.micro_batch_size = model, micro_batch_size
        self.rank, self.world_size = rank, world_size
        self.device = torch.device("cpu")
        self.forward_passes = 0

    def logits(self, batch: MicroBatch) -> torch.Tensor:
        self.forward_passes += 1
        output = self.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
        logits: torch.Tensor = output.logits
        return logits

    def nll(self, batch: MicroBatch) -> torch.Tensor:
        return summed_cross_entropy(self.logits(batch), batch.labels)

    def nll_and_hits(self, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.logits(batch)
        return summed_cross_entropy(logits, batch.labels), hits(logits, batch.labels)

    def log_probabilities(self, batch: MicroBatch) -> torch.Tensor:
        return log_probabilities(self.logits(batch), batch.labels)

    def scores(self, batch: MicroBatch) -> torch.Tensor:
        padding = self.model.config.pad_token_id
        ids = batch.input_ids.masked_fill(batch.attention_mask == 0, padding)
        return self.logits(MicroBatch(ids, batch.attention_mask, batch.labels)).squeeze(-1).float()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        training = self.model.training
        self.model.eval()
        with torch.no_grad():
            yield
        self.model.train(training)

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        with self.evaluating(), self.model.disable_adapter():
            yield

    def sum_over_ranks(self, *values: float | torch.Tensor) -> list[float]:
        return [float(value) for value in values]
