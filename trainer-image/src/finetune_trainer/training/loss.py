"""Supervised fine-tuning loss."""

from __future__ import annotations

import torch
from torch.nn import functional

from finetune_trainer.training.batches import IGNORE_INDEX


def summed_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum over the positions with loss of the negative log-likelihood of their label, in nats, in float32.

    Args:
        logits: [rows, positions, vocabulary], of any float type.
        labels: [rows, positions], IGNORE_INDEX where there is no loss.
    """
    counted = labels != IGNORE_INDEX
    return functional.cross_entropy(logits[counted].float(), labels[counted], reduction="sum")


def loss_share(nll: torch.Tensor, world_size: int, loss_tokens: int) -> torch.Tensor:
    """What one micro-batch contributes to the loss, the mean over the tokens of the global batch.

    Gradients are summed over the micro-batches of a rank and averaged over the ranks, so scaling each sum by the world
    size gives the same gradient as one process over the whole batch, however the tokens are spread.
    """
    return nll * (world_size / max(1, loss_tokens))
