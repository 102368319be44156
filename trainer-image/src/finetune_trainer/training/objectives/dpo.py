"""Direct preference optimization, https://arxiv.org/abs/2305.18290, and losses of its kind.

With prompt x, chosen y_w and rejected y_l, the log-ratios to the reference model

    r_w = log p(y_w | x) - log p_ref(y_w | x),    r_l likewise,    d = r_w - r_l

and the number of tokens |y|, the loss of a pair is

    sigmoid  - log sigmoid(beta d)                                        DPO, eq. 7
    robust   - ((1 - s) log sigmoid(beta d) - s log sigmoid(-beta d)) / (1 - 2 s)
                                                                          https://arxiv.org/abs/2403.00409, eq. 12
    hinge    max(0, 1 - beta d)                                           SLiC, https://arxiv.org/abs/2305.10425
    ipo      (r_w / |y_w| - r_l / |y_l| - 1 / (2 beta))^2                 https://arxiv.org/abs/2310.12036, eq. 17,
                                                                          per token as its authors compute it

where s is the share of pairs whose order is thought to be wrong. The loss of a batch is the mean over its pairs.
Without a reference, p_ref is left out. The implicit reward of a sequence is beta r.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch.nn.functional import logsigmoid, relu

from finetune_api.spec import DpoLoss, DpoOptions, Reference
from finetune_trainer.training.batches import IGNORE_INDEX, GlobalBatch, MicroBatch, PairRows
from finetune_trainer.training.objectives.interface import Alive, Measured, Model, Shared, Sum, Units
from finetune_trainer.training.objectives.pairs import PAIRS, pair_batch, pair_tokens, reward_metrics
from finetune_trainer.training.objectives.reference import Stored, document_log_probabilities, store


class DirectPreferenceOptimization:
    """DPO with one of its losses."""

    def __init__(self, options: DpoOptions, reference: Reference) -> None:
        self._loss, self._beta = options.loss, float(options.beta)
        self._smoothing = float(options.label_smoothing)
        self._reference = reference
        self._stored: dict[int, Stored] = {}

    def tokens(self, rows: PairRows, indices: Sequence[int]) -> int:
        return pair_tokens(rows, indices)

    def units(self, rows: PairRows, indices: Sequence[int]) -> Units:
        return {PAIRS: len(indices)}

    def before_training(self, model: Model, rows: PairRows, batches: Iterable[GlobalBatch], alive: Alive) -> None:
        if self._reference is not Reference.PRECOMPUTED:
            return

        def compute(indices: Sequence[int]) -> torch.Tensor:
            return document_log_probabilities(model, pair_batch(rows, indices)).view(2, -1).T

        self._stored[id(rows)] = store(model, rows_seen(len(rows), batches), 2, compute, alive)

    def share(self, model: Model, rows: PairRows, batch: GlobalBatch) -> Shared:
        return {}

    def measure(self, model: Model, rows: PairRows, indices: Sequence[int], shared: Shared) -> Measured:
        batch = pair_batch(rows, indices)
        reference = self._reference_log_probabilities(model, rows, indices, batch)
        ratios = document_log_probabilities(model, batch) - reference
        lengths = batch.document_sums((batch.labels != IGNORE_INDEX).float()).to(ratios.device)
        loss = pair_losses(self._loss, ratios, lengths, self._beta, self._smoothing)
        chosen, rejected = (self._beta * ratios).chunk(2)
        return Measured((Sum(loss.sum(), PAIRS),), reward_metrics(chosen, rejected))

    def _reference_log_probabilities(
        self, model: Model, rows: PairRows, indices: Sequence[int], batch: MicroBatch
    ) -> torch.Tensor:
        if self._reference is Reference.NONE:
            return torch.zeros(2 * len(indices), device=model.device)
        if self._reference is Reference.PRECOMPUTED:
            return self._stored[id(rows)][indices].T.reshape(-1).to(model.device)
        with model.without_adapter():
            return document_log_probabilities(model, batch)


def pair_losses(
    loss: DpoLoss, ratios: torch.Tensor, lengths: torch.Tensor, beta: float, smoothing: float
) -> torch.Tensor:
    """Loss of each pair, [pairs].

    Args:
        loss: the formula, see the module.
        ratios: log-ratios, chosen sequences first, [2 * pairs].
        lengths: tokens of each completion, [2 * pairs].
        beta: strength of the tie to the reference.
        smoothing: share of pairs in the wrong order, for ``robust`` only.
    """
    chosen, rejected = ratios.chunk(2)
    scaled = beta * (chosen - rejected)
    if loss is DpoLoss.SIGMOID:
        return -logsigmoid(scaled)
    if loss is DpoLoss.ROBUST:
        return (smoothing * logsigmoid(-scaled) - (1 - smoothing) * logsigmoid(scaled)) / (1 - 2 * smoothing)
    if loss is DpoLoss.HINGE:
        return relu(1 - scaled)
    per_token = (ratios / lengths.clamp(min=1)).chunk(2)
    return (per_token[0] - per_token[1] - 1 / (2 * beta)) ** 2


def rows_seen(rows: int, batches: Iterable[GlobalBatch]) -> list[int]:
    """Row numbers of some batches, each once, in order; stops looking when that is all rows."""
    seen: set[int] = set()
    for batch in batches:
        seen.update(batch.rows)
        if len(seen) == rows:
            break
    return sorted(seen)
