"""What the objectives on preference pairs have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from finetune_trainer.training.batches import MicroBatch, PairRows, pad
from finetune_trainer.training.objectives.interface import Sum

PAIRS = "pairs"
REWARD_ACCURACY = "rewardAccuracy"
REWARD_MARGIN = "rewardMargin"


def pair_batch(rows: PairRows, indices: Sequence[int]) -> MicroBatch:
    """The chosen sequences of some rows, followed by the rejected ones, so that one forward pass computes both."""
    pairs = [rows.pair(index) for index in indices]
    return pad([chosen for chosen, _ in pairs] + [rejected for _, rejected in pairs])


def pair_tokens(rows: PairRows, indices: Sequence[int]) -> int:
    """All tokens of some pairs."""
    return sum(len(ids) for index in indices for ids, _ in rows.pair(index))


def reward_metrics(chosen: torch.Tensor, rejected: torch.Tensor) -> Mapping[str, tuple[Sum, ...]]:
    """How often the chosen sequence has the higher reward, and by how much on average; both [pairs]."""
    margin = (chosen - rejected).detach()
    return {
        REWARD_ACCURACY: (Sum((margin > 0).sum().float(), PAIRS),),
        REWARD_MARGIN: (Sum(margin.sum(), PAIRS),),
    }
