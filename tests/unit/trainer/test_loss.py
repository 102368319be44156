"""The loss of the parts is the loss of the whole."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from finetune_trainer.training.batches import IGNORE_INDEX
from finetune_trainer.training.loss import hits, log_probabilities, summed_cross_entropy

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def test_sum_over_labelled_positions_in_float32() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 5)
    labels = torch.tensor([[1, IGNORE_INDEX, 4], [IGNORE_INDEX, IGNORE_INDEX, 0]])
    log_probabilities = logits.log_softmax(-1)
    expected = -(log_probabilities[0, 0, 1] + log_probabilities[0, 2, 4] + log_probabilities[1, 2, 0])
    assert summed_cross_entropy(logits, labels).item() == pytest.approx(expected.item(), rel=1e-6)
    assert summed_cross_entropy(logits.bfloat16(), labels).dtype == torch.float32


def test_log_probabilities_stand_where_the_labels_do() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 5)
    labels = torch.tensor([[1, IGNORE_INDEX, 4], [IGNORE_INDEX, IGNORE_INDEX, 0]])
    found = log_probabilities(logits, labels)
    expected = logits.log_softmax(-1)
    none = torch.zeros(())
    assert torch.equal(found != 0, labels != IGNORE_INDEX)
    torch.testing.assert_close(found[0], torch.stack([expected[0, 0, 1], none, expected[0, 2, 4]]))
    torch.testing.assert_close(found[1, 2], expected[1, 2, 0])
    torch.testing.assert_close(-found.sum(), summed_cross_entropy(logits, labels))


def test_hits_count_labels_that_are_the_first_choice() -> None:
    logits = torch.tensor([[[0.0, 1.0, 0.5], [2.0, 1.0, 0.0], [0.0, 0.0, 9.0]]])
    assert hits(logits, torch.tensor([[1, 1, IGNORE_INDEX]])).item() == 1.0


@pytest.mark.parametrize("function", [summed_cross_entropy, log_probabilities])
def test_a_batch_without_labels_has_loss_zero_and_a_gradient(function: Loss) -> None:
    logits = torch.randn(1, 2, 5, requires_grad=True)
    loss = function(logits, torch.full((1, 2), IGNORE_INDEX)).sum()
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert logits.grad.abs().max() == 0.0
