"""Log-probabilities under the reference model, which is the model as it is before its first step.

An adapter that starts from zero can be disabled to get the reference back, at the price of a forward pass per batch. In
all other tunings the reference is gone after the first step, so its log-probabilities are stored before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from finetune_trainer.training.batches import MicroBatch, held_out_batches
from finetune_trainer.training.objectives.interface import Alive, Model

_CHUNK = 1 << 16
Compute = Callable[[Sequence[int]], torch.Tensor]


def document_log_probabilities(model: Model, batch: MicroBatch) -> torch.Tensor:
    """Summed log-probability of the labels of each sequence, in nats, [sequences]."""
    return batch.document_sums(model.log_probabilities(batch))


class Stored:
    """Values of items, by key. Keys are numbers, values vectors of the same width."""

    def __init__(self, keys: NDArray[np.int64], values: NDArray[np.float64]) -> None:
        self._keys, self._values = keys, values

    def __getitem__(self, keys: Sequence[int]) -> torch.Tensor:
        """The values of some keys, float32, [keys, width], on the CPU."""
        places = np.searchsorted(self._keys, np.asarray(keys))
        return torch.from_numpy(self._values[places].astype(np.float32))


def store(model: Model, keys: Sequence[int], width: int, compute: Compute, alive: Alive) -> Stored:
    """Computes values for all of some keys, without dropout and gradients, spread over the ranks. Collective.

    Args:
        model: the model as it is now.
        keys: any numbers; computed in their order, each once.
        width: numbers per key.
        compute: gives the values of some keys, [keys, width].
        alive: called after each micro-batch.
    """
    ordered = np.unique(np.asarray(keys, dtype=np.int64))
    values = np.zeros((len(ordered), width))
    with model.evaluating():
        for part in held_out_batches(len(ordered), model.micro_batch_size, model.rank, model.world_size):
            found = compute(ordered[list(part or range(1))].tolist())
            alive()
            # A rank without keys of its own computes the first one for company.
            if part:
                values[part.start : part.stop] = found.double().cpu().numpy()
    return Stored(ordered, _summed(model, values))


def _summed(model: Model, values: NDArray[np.float64]) -> NDArray[np.float64]:
    flat = values.ravel()
    parts = [model.sum_over_ranks(*flat[start : start + _CHUNK]) for start in range(0, len(flat), _CHUNK)]
    return np.array([value for part in parts for value in part]).reshape(values.shape)
