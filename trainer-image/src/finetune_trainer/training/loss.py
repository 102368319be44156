"""Log-likelihoods of labels."""

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


def log_probabilities(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Log-probability of each label in nats, in float32; zero where the label is IGNORE_INDEX.

    Args:
        logits: [rows, positions, vocabulary], of any float type.
        labels: [rows, positions].

    Returns:
        [rows, positions].
    """
    counted = labels != IGNORE_INDEX
    nll = functional.cross_entropy(logits[counted].float(), labels[counted], reduction="none")
    return torch.zeros(labels.shape, dtype=nll.dtype, device=nll.device).masked_scatter(counted, -nll)


def hits(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Number of labels that are the most probable token, float32; shapes as in :func:`summed_cross_entropy`."""
    counted = labels != IGNORE_INDEX
    return (logits[counted].argmax(-1) == labels[counted]).sum().float()
