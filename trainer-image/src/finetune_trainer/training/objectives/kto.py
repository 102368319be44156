"""Kahneman-Tversky optimization, https://arxiv.org/abs/2402.01306: completions that are desirable or not, unpaired.

With the log-ratio to the reference r = log p(y | x) - log p_ref(y | x), the loss of a row is (eq. 7 and 8)

    desirable      w_d (1 - sigmoid(beta (r - z)))
    undesirable    w_u (1 - sigmoid(beta (z - r)))

and that of a batch the mean over its rows. z estimates the divergence of the model from the reference: the mean of the
log-ratios over mismatched rows, not below zero and without gradient. Here mismatched rows are each prompt of the
*global* batch with the completion of the row before it, the first with the last one's; z comes of a pass of its own
before the batch, without dropout. So loss and gradient do not depend on how the batch is spread over ranks and
micro-batches, where other implementations estimate a z per micro-batch. A held-out split counts as one batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import sigmoid

from finetune_api.spec import KtoOptions, Reference
from finetune_trainer.training.batches import GlobalBatch, LabelledRows, MicroBatch, TokenSequence, pad
from finetune_trainer.training.objectives.interface import Alive, Measured, Model, Shared, Sum, Units
from finetune_trainer.training.objectives.pairs import REWARD_ACCURACY, REWARD_MARGIN
from finetune_trainer.training.objectives.reference import Stored, document_log_probabilities, store

ROWS, DESIRABLE, UNDESIRABLE = "rows", "desirable", "undesirable"
DIVERGENCE = "kl"


class KahnemanTverskyOptimization:
    """KTO over rows that are cut at ``max_tokens``."""

    def __init__(self, options: KtoOptions, reference: Reference, max_tokens: int) -> None:
        self._beta = float(options.beta)
        self._weights = float(options.desirable_weight), float(options.undesirable_weight)
        self._reference, self._max_tokens = reference, max_tokens
        self._stored: dict[int, Stored] = {}

    def tokens(self, rows: LabelledRows, indices: Sequence[int]) -> int:
        return sum(len(rows.row(index)[0]) for index in indices)

    def units(self, rows: LabelledRows, indices: Sequence[int]) -> Units:
        desirable = sum(rows.label(index) for index in indices)
        return {ROWS: len(indices), DESIRABLE: desirable, UNDESIRABLE: len(indices) - desirable}

    def before_training(self, model: Model, rows: LabelledRows, batches: Iterable[GlobalBatch], alive: Alive) -> None:
        if self._reference is not Reference.PRECOMPUTED:
            return

        def compute(keys: Sequence[int]) -> torch.Tensor:
            return document_log_probabilities(model, self._batch(rows, keys))[:, None]

        keys: set[int] = set()
        for batch in batches:
            keys.update(_matched(batch.rows, len(rows)), _mismatched(batch.rows, len(rows)))
        self._stored[id(rows)] = store(model, sorted(keys), 1, compute, alive)

    def share(self, model: Model, rows: LabelledRows, batch: GlobalBatch) -> Shared:
        keys, total = _mismatched(batch.rows, len(rows)), 0.0
        for part in batch.parts:
            own = [keys[position] for position in part]
            # A rank without rows of its own computes a pair for company and leaves it out of the sum.
            ratios = self._log_ratios(model, rows, own or keys[:1], with_gradient=False)
            total += float(ratios.sum()) if own else 0.0
        return {DIVERGENCE: max(0.0, model.sum_over_ranks(total)[0] / len(batch.rows))}

    def measure(self, model: Model, rows: LabelledRows, indices: Sequence[int], shared: Shared) -> Measured:
        ratios = self._log_ratios(model, rows, _matched(indices, len(rows)), torch.is_grad_enabled())
        desirable = torch.tensor([rows.label(index) for index in indices], device=ratios.device)
        losses = unpaired_losses(ratios, desirable, shared[DIVERGENCE], self._beta, self._weights)
        divergence = torch.tensor(shared[DIVERGENCE] * len(indices), device=ratios.device)
        metrics = _metrics((self._beta * ratios).detach(), desirable)
        return Measured((Sum(losses.sum(), ROWS),), metrics | {DIVERGENCE: (Sum(divergence, ROWS),)})

    def _log_ratios(self, model: Model, rows: LabelledRows, keys: Sequence[int], with_gradient: bool) -> torch.Tensor:
        batch = self._batch(rows, keys)
        if self._reference is Reference.PRECOMPUTED:
            reference = self._stored[id(rows)][keys][:, 0].to(model.device)
        else:
            with model.without_adapter():
                reference = document_log_probabilities(model, batch)
        with nullcontext() if with_gradient else model.evaluating():
            return document_log_probabilities(model, batch) - reference

    def _batch(self, rows: LabelledRows, keys: Sequence[int]) -> MicroBatch:
        pairs = (divmod(key, len(rows)) for key in keys)
        return pad([joined(rows.row(prompt), rows.row(completion), self._max_tokens) for prompt, completion in pairs])


def joined(prompt: TokenSequence, completion: TokenSequence, max_tokens: int) -> TokenSequence:
    """The prompt of one row and the completion of another, cut at the end; a completion starts where loss does."""
    (ids, mask), (other_ids, other_mask) = prompt, completion
    end, begin = _prompt_length(mask), _prompt_length(other_mask)
    joined_ids = np.concatenate([ids[:end], other_ids[begin:]])
    return joined_ids[:max_tokens], np.concatenate([mask[:end], other_mask[begin:]])[:max_tokens]


def _prompt_length(mask: NDArray[np.uint8]) -> int:
    return int(np.argmax(mask)) if mask.any() else len(mask)


def unpaired_losses(
    ratios: torch.Tensor, desirable: torch.Tensor, divergence: float, beta: float, weights: tuple[float, float]
) -> torch.Tensor:
    """Loss of each row, [rows], from its log-ratio and whether it is desirable; ``weights`` are w_d and w_u."""
    above = beta * (ratios - divergence)
    return torch.where(desirable, weights[0] * (1 - sigmoid(above)), weights[1] * (1 - sigmoid(-above)))


def _metrics(rewards: torch.Tensor, desirable: torch.Tensor) -> dict[str, tuple[Sum, ...]]:
    """How often a reward has the sign of its label, and how much higher the mean of the desirable ones is."""
    right = ((rewards > 0) == desirable).sum().float()
    high, low = (rewards * desirable).sum(), (rewards * ~desirable).sum()
    return {REWARD_ACCURACY: (Sum(right, ROWS),), REWARD_MARGIN: (Sum(high, DESIRABLE), Sum(-low, UNDESIRABLE))}


# A pair of rows, of which one gives the prompt and the other the completion, as one number.
def _matched(indices: Sequence[int], rows: int) -> list[int]:
    return [index * rows + index for index in indices]


def _mismatched(indices: Sequence[int], rows: int) -> list[int]:
    return [index * rows + indices[position - 1] for position, index in enumerate(indices)]
