"""Odds ratio preference optimization, https://arxiv.org/abs/2403.07691: no reference model.

With the mean log-probability per token of a completion l(y) = log p(y | x) / |y| and its log-odds
log odds(y) = l(y) - log(1 - exp l(y)), the loss is (eq. 6 and 7)

    L = - (1 / N) sum over tokens t of x and y_w of log p(t | before)
        - (beta / P) sum over pairs of log sigmoid(log odds(y_w) - log odds(y_l))

N counts the tokens of the chosen sequences of the global batch, of which the first has none before it; P its pairs. The
first term covers the prompt as well, as in the authors' and in TRL's implementation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from finetune_api.spec import OrpoOptions
from finetune_trainer.training.batches import IGNORE_INDEX, MicroBatch, PairRows, pad
from finetune_trainer.training.objectives.interface import Measured, Model, NothingBefore, Shared, Sum, Units
from finetune_trainer.training.objectives.pairs import PAIRS, pair_batch, pair_tokens, reward_metrics

CHOSEN_TOKENS = "chosenTokens"
_LOG_HALF = -0.6931471805599453


class OddsRatioPreferenceOptimization(NothingBefore):
    """ORPO."""

    def __init__(self, options: OrpoOptions) -> None:
        self._beta = float(options.beta)

    def tokens(self, rows: PairRows, indices: Sequence[int]) -> int:
        return pair_tokens(rows, indices)

    def units(self, rows: PairRows, indices: Sequence[int]) -> Units:
        return {PAIRS: len(indices), CHOSEN_TOKENS: sum(len(rows.pair(index)[0][0]) - 1 for index in indices)}

    def measure(self, model: Model, rows: PairRows, indices: Sequence[int], shared: Shared) -> Measured:
        everything, completions = _whole_batch(rows, indices), pair_batch(rows, indices)
        values = model.log_probabilities(everything)
        nll = -everything.document_sums(values)[: len(indices)].sum()
        counted = (completions.labels != IGNORE_INDEX).to(values.device).float()
        mean = everything.document_sums(values * counted) / everything.document_sums(counted).clamp(min=1)
        loss = -self._beta * logsigmoid(log_odds_ratio(mean)).sum()
        chosen, rejected = (self._beta * mean).chunk(2)
        return Measured((Sum(nll, CHOSEN_TOKENS), Sum(loss, PAIRS)), reward_metrics(chosen, rejected))


def _whole_batch(rows: PairRows, indices: Sequence[int]) -> MicroBatch:
    """As :func:`pair_batch`, with labels on the prompts too."""
    pairs = [rows.pair(index) for index in indices]
    sequences = [chosen for chosen, _ in pairs] + [rejected for _, rejected in pairs]
    return pad([(ids, np.ones_like(mask)) for ids, mask in sequences])


def log_odds_ratio(mean: torch.Tensor) -> torch.Tensor:
    """Log of the odds of each chosen completion over those of the rejected one, [pairs].

    ``mean`` are log-probabilities per token, negative, chosen ones first, [2 * pairs].
    """
    log_odds = mean - _log_one_minus_exp(mean)
    chosen, rejected = log_odds.chunk(2)
    return chosen - rejected


def _log_one_minus_exp(values: torch.Tensor) -> torch.Tensor:
    # Each form loses digits where the other keeps them (Maechler 2012).
    return torch.where(values < _LOG_HALF, torch.log1p(-torch.exp(values)), torch.log(-torch.expm1(values)))
