"""The loss of the parts is the loss of the whole."""

from __future__ import annotations

import pytest
import torch

from finetune_trainer.training.batches import IGNORE_INDEX
from finetune_trainer.training.loss import loss_share, summed_cross_entropy


def test_sum_over_labelled_positions_in_float32() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 5)
    labels = torch.tensor([[1, IGNORE_INDEX, 4], [IGNORE_INDEX, IGNORE_INDEX, 0]])
    log_probabilities = logits.log_softmax(-1)
    expected = -(log_probabilities[0, 0, 1] + log_probabilities[0, 2, 4] + log_probabilities[1, 2, 0])
    assert summed_cross_entropy(logits, labels).item() == pytest.approx(expected.item(), rel=1e-6)
    assert summed_cross_entropy(logits.bfloat16(), labels).dtype == torch.float32


def test_a_batch_without_labels_has_loss_zero_and_a_gradient() -> None:
    logits = torch.randn(1, 2, 5, requires_grad=True)
    loss = loss_share(summed_cross_entropy(logits, torch.full((1, 2), IGNORE_INDEX)), 1, 0)
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert logits.grad.abs().max() == 0.0


def test_shares_averaged_over_ranks_give_the_gradient_of_one_process() -> None:
    torch.manual_seed(0)
    weight, inputs, labels = torch.randn(4, 6), torch.randn(3, 1, 4), torch.tensor([[1], [5], [2]])
    whole = weight.clone().requires_grad_()
    torch.nn.functional.cross_entropy((inputs @ whole)[:, 0], labels[:, 0]).backward()
    # Rank 0 has one row, rank 1 two: the mean of their means would be another number.
    gradients = []
    for rows in ([0], [1, 2]):
        part = weight.clone().requires_grad_()
        loss_share(summed_cross_entropy(inputs[rows] @ part, labels[rows]), 2, 3).backward()
        gradients.append(part.grad)
    assert whole.grad is not None
    torch.testing.assert_close(sum(g for g in gradients if g is not None) / 2, whole.grad)
