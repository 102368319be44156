"""Reward modelling: a scalar head learns to score the chosen sequence of a pair above the rejected one.

With the score s of a sequence, read at its last token, the loss of a pair is that of Bradley and Terry
(https://arxiv.org/abs/2203.02155, eq. 1), and on request a term that keeps scores around zero
(https://arxiv.org/abs/2312.09244):

    - log sigmoid(s_w - s_l) + c (s_w + s_l)^2
"""

from __future__ import annotations

from collections.abc import Sequence

from torch.nn.functional import logsigmoid

from finetune_api.spec import RewardOptions
from finetune_trainer.training.batches import PairRows
from finetune_trainer.training.objectives.interface import Measured, Model, NothingBefore, Shared, Sum, Units
from finetune_trainer.training.objectives.pairs import PAIRS, pair_batch, pair_tokens, reward_metrics


class RewardModelling(NothingBefore):
    """Pairwise scores."""

    def __init__(self, options: RewardOptions) -> None:
        self._centering = float(options.centering)

    def tokens(self, rows: PairRows, indices: Sequence[int]) -> int:
        return pair_tokens(rows, indices)

    def units(self, rows: PairRows, indices: Sequence[int]) -> Units:
        return {PAIRS: len(indices)}

    def measure(self, model: Model, rows: PairRows, indices: Sequence[int], shared: Shared) -> Measured:
        chosen, rejected = model.scores(pair_batch(rows, indices)).chunk(2)
        loss = -logsigmoid(chosen - rejected) + self._centering * (chosen + rejected) ** 2
        return Measured((Sum(loss.sum(), PAIRS),), reward_metrics(chosen, rejected))
