"""Supervised fine-tuning: next-token cross-entropy on the tokens that the data marks.

    L = - (1 / N) sum over tokens t with loss of log p(t | all tokens before it)

N counts the tokens with loss of the global batch. (Radford et al. 2018, "Improving Language Understanding by Generative
Pre-Training", eq. 1, restricted to the assistant's tokens.)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from finetune_trainer.training.batches import Rows, collate, count_tokens
from finetune_trainer.training.objectives.interface import Measured, Model, NothingBefore, Shared, Sum, Units

TOKENS = "tokens"
TOKEN_ACCURACY = "tokenAccuracy"


class SupervisedFineTuning(NothingBefore):
    """Cross-entropy per token with loss."""

    def tokens(self, rows: Rows, indices: Sequence[int]) -> int:
        return count_tokens(rows, indices)[0]

    def units(self, rows: Rows, indices: Sequence[int]) -> Units:
        return {TOKENS: count_tokens(rows, indices)[1]}

    def measure(self, model: Model, rows: Rows, indices: Sequence[int], shared: Shared) -> Measured:
        batch = collate(rows, indices)
        if torch.is_grad_enabled():
            return Measured((Sum(model.nll(batch), TOKENS),), {})
        # The first choices take another pass over the logits, which training steps are spared.
        nll, hits = model.nll_and_hits(batch)
        return Measured((Sum(nll, TOKENS),), {TOKEN_ACCURACY: (Sum(hits, TOKENS),)})
