"""Losses of the objectives written out row by row, without padding, micro-batches or ranks, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from finetune_api.spec import DpoLoss, DpoOptions, FineTuneJobSpec, KtoOptions, Objective, OrpoOptions, Reference
from finetune_trainer.training.batches import TokenSequence

Model = torch.nn.Module
Loss = Callable[[Model, Model, Any, Sequence[int]], Tensor]


def loss_of(spec: FineTuneJobSpec) -> Loss:
    """Loss of a batch from the model, the frozen reference model, rows and row numbers."""
    method = spec.method
    losses: dict[Objective, Loss] = {
        Objective.SFT: sft,
        Objective.DPO: lambda *batch: dpo(method.dpo or DpoOptions(), *batch),
        Objective.ORPO: lambda *batch: orpo(float((method.orpo or OrpoOptions()).beta), *batch),
        Objective.KTO: lambda *batch: kto(method.kto or KtoOptions(), *batch),
        Objective.REWARD: lambda *batch: reward(float(method.reward.centering) if method.reward else 0.0, *batch),
    }
    return losses[method.objective]


def token_log_probabilities(model: Model, ids: Tensor) -> Tensor:
    """Of every token but the first, given those before it."""
    logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1].float()
    return torch.log_softmax(logits, -1).gather(1, ids[1:, None])[:, 0]


def completion(model: Model, sequence: TokenSequence) -> tuple[Tensor, int]:
    """Log-probability of the tokens with loss, summed, and their number."""
    ids, mask = torch.tensor(sequence[0].astype("int64")), torch.tensor(sequence[1][1:] != 0)
    return token_log_probabilities(model, ids)[mask].sum(), int(mask.sum())


def sft(model: Model, reference: Model, rows: Any, indices: Sequence[int]) -> Tensor:
    found = [completion(model, rows.row(index)) for index in indices]
    return -torch.stack([value for value, _ in found]).sum() / sum(count for _, count in found)


def dpo(options: DpoOptions, model: Model, reference: Model, rows: Any, indices: Sequence[int]) -> Tensor:
    beta, smoothing, losses = float(options.beta), float(options.label_smoothing), []
    for index in indices:
        (chosen, chosen_tokens), (rejected, rejected_tokens) = (completion(model, part) for part in rows.pair(index))
        if options.reference is not Reference.NONE:
            with torch.no_grad():
                expected = [completion(reference, part)[0] for part in rows.pair(index)]
            chosen, rejected = chosen - expected[0], rejected - expected[1]
        margin = beta * (chosen - rejected)
        losses.append(
            {
                DpoLoss.SIGMOID: -logsigmoid(margin),
                DpoLoss.ROBUST: (smoothing * logsigmoid(-margin) - (1 - smoothing) * logsigmoid(margin))
                / (1 - 2 * smoothing),
                DpoLoss.HINGE: torch.relu(1 - margin),
                DpoLoss.IPO: (chosen / chosen_tokens - rejected / rejected_tokens - 0.5 / beta) ** 2,
            }[options.loss]
        )
    return torch.stack(losses).mean()


def orpo(beta: float, model: Model, reference: Model, rows: Any, indices: Sequence[int]) -> Tensor:
    nll, tokens, ratios = torch.zeros(()), 0, []
    for index in indices:
        chosen, rejected = rows.pair(index)
        everything = token_log_probabilities(model, torch.tensor(chosen[0].astype("int64")))
        nll, tokens = nll - everything.sum(), tokens + len(everything)
        means = [value / count for value, count in (completion(model, part) for part in (chosen, rejected))]
        odds = [mean - torch.log1p(-torch.exp(mean)) for mean in means]
        ratios.append(-logsigmoid(odds[0] - odds[1]))
    return nll / tokens + beta * torch.stack(ratios).mean()


def kto(options: KtoOptions, model: Model, reference: Model, rows: Any, indices: Sequence[int]) -> Tensor:
    with torch.no_grad():
        before = [indices[-1], *indices[:-1]]
        strangers = [_mismatched(rows.row(own), rows.row(other)) for own, other in zip(indices, before, strict=True)]
        ratios = [completion(model, row)[0] - completion(reference, row)[0] for row in strangers]
        divergence = torch.stack(ratios).mean().clamp(min=0)
    losses = []
    for index in indices:
        with torch.no_grad():
            expected = completion(reference, rows.row(index))[0]
        above = float(options.beta) * (completion(model, rows.row(index))[0] - expected - divergence)
        weight = options.desirable_weight if rows.label(index) else options.undesirable_weight
        losses.append(float(weight) * (1 - torch.sigmoid(above if rows.label(index) else -above)))
    return torch.stack(losses).mean()


def _mismatched(prompt: TokenSequence, other: TokenSequence) -> TokenSequence:
    import numpy as np

    end, begin = prompt[1].tolist().index(1), other[1].tolist().index(1)
    first, second = (np.concatenate([own[:end], strange[begin:]]) for own, strange in zip(prompt, other, strict=True))
    return first, second


def reward(centering: float, model: Model, reference: Model, rows: Any, indices: Sequence[int]) -> Tensor:
    losses = []
    for index in indices:
        scores = [
            model(input_ids=torch.tensor(ids.astype("int64"))[None]).logits[0, 0].float() for ids, _ in rows.pair(index)
        ]
        losses.append(-logsigmoid(scores[0] - scores[1]) + centering * (scores[0] + scores[1]) ** 2)
    return torch.stack(losses).mean()
