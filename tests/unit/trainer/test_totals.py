"""The loss of a batch is the same however its rows are spread over micro-batches and ranks."""

from __future__ import annotations

import pytest
import torch

from finetune_trainer.training.objectives.interface import Measured, Sum, mean_loss
from finetune_trainer.training.totals import Totals

UNITS = {"tokens": 10, "pairs": 4}


class TwoRanks:
    """The other rank has the same sums."""

    def sum_over_ranks(self, *values: float | torch.Tensor) -> list[float]:
        return [2 * float(value) for value in values]


def measured(tokens: float, pairs: float, right: float) -> Measured:
    loss = (Sum(torch.tensor(tokens), "tokens"), Sum(torch.tensor(pairs), "pairs"))
    return Measured(loss, {"accuracy": (Sum(torch.tensor(right), "pairs"),)})


def test_each_sum_is_divided_by_the_units_of_the_whole_batch() -> None:
    totals = Totals()
    totals.add(measured(2.0, 1.0, 1.0))
    totals.add(measured(3.0, 0.5, 0.0))
    means = totals.means(TwoRanks(), UNITS)
    assert means.loss == pytest.approx(2 * 5.0 / 10 + 2 * 1.5 / 4)
    assert means.metrics == {"accuracy": pytest.approx(0.5)}


def test_batches_for_company_do_not_count() -> None:
    totals = Totals()
    totals.add(measured(9.0, 9.0, 9.0), weight=0.0)
    means = totals.means(TwoRanks(), UNITS)
    assert (means.loss, means.metrics) == (0.0, {"accuracy": 0.0})


def test_the_losses_of_the_parts_add_up_to_that_of_the_whole() -> None:
    parts = [measured(2.0, 1.0, 1.0), measured(3.0, 0.5, 0.0)]
    whole = measured(5.0, 1.5, 1.0)
    assert sum(mean_loss(part, UNITS).item() for part in parts) == pytest.approx(mean_loss(whole, UNITS).item())


def test_a_batch_without_units_has_loss_zero() -> None:
    assert mean_loss(measured(0.0, 0.0, 0.0), {"tokens": 0, "pairs": 0}).item() == 0.0
