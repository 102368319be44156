"""Every architecture that is called known keeps documents apart, and its head has the form that is told of it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from finetune_trainer.models.architectures import KNOWN, HeadForm, head_form, why_not_together
from finetune_trainer.training.batches import IGNORE_INDEX, MicroBatch, pad
from finetune_trainer.training.scoring import Scorer, Wanted
from support.scored_architectures import VOCABULARY, tiny_architecture

CPU = torch.device("cpu")
LONGEST = 24


def documents() -> MicroBatch:
    """Five documents of 1 to 24 tokens."""
    random = np.random.default_rng(0)
    lengths = (9, 3, LONGEST, 1, 12)
    content = [random.integers(1, VOCABULARY, length).astype(np.int32) for length in lengths]
    return pad([(ids, (random.random(len(ids)) < 0.7).astype(np.uint8)) for ids in content])


def one_by_one(model: torch.nn.Module, batch: MicroBatch) -> torch.Tensor:
    """Log-probabilities of the labels, [rows, positions], each document alone, from the logits of the model itself."""
    lines = []
    for ids, mask, labels in zip(batch.input_ids, batch.attention_mask, batch.labels, strict=True):
        length = int(mask.sum())
        logits = model(input_ids=ids[None, :length], use_cache=False).logits[0]
        nll = functional.cross_entropy(logits, labels[:length], reduction="none", ignore_index=IGNORE_INDEX)
        lines.append(functional.pad(-nll, (0, len(ids) - length)))
    return torch.stack(lines)


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("model_type", sorted(KNOWN))
def test_documents_in_one_row_are_as_if_alone(model_type: str) -> None:
    model, batch = tiny_architecture(model_type), documents()
    alone = one_by_one(model, batch)
    (-alone.sum()).backward()
    expected = gradients(model)
    model.activation_checkpointing_enable({"use_reentrant": False})
    scorer = Scorer(model, LONGEST)
    torch.testing.assert_close(scorer(batch, Wanted.LOG_PROBABILITIES, CPU), alone, atol=1e-5, rtol=0)
    nll, hits = scorer(batch, Wanted.NLL, CPU)
    nll.backward()
    assert nll.item() == pytest.approx(-alone.sum().item(), abs=1e-4)
    assert 0 <= hits.item() <= (batch.labels != IGNORE_INDEX).sum()
    found = gradients(model)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=2e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("config", "form"),
    [
        ({"model_type": "llama"}, HeadForm()),
        ({"model_type": "cohere", "logit_scale": 0.25}, HeadForm(scale=0.25)),
        ({"model_type": "granite", "logits_scaling": 4}, HeadForm(scale=0.25)),
        ({"model_type": "gemma2", "final_logit_softcapping": 30.0}, HeadForm(softcap=30.0)),
        ({"model_type": "gemma3_text", "final_logit_softcapping": None}, HeadForm()),
    ],
)
def test_head_forms(config: dict[str, Any], form: HeadForm) -> None:
    assert head_form(config) == form


LONGROPE = {"model_type": "phi3", "max_position_embeddings": 131_072, "original_max_position_embeddings": 4096}


@pytest.mark.parametrize(
    ("config", "longest", "reason"),
    [
        ({"model_type": "llama", "max_position_embeddings": 512}, 4096, None),
        ({"model_type": "mamba"}, 8, "nothing proves .* in the architecture mamba"),
        ({"model_type": "t5"}, 8, "nothing proves .* in the architecture t5"),
        ({}, 8, "nothing proves .* in the architecture None"),
        (LONGROPE | {"rope_scaling": {"type": "longrope"}}, 4096, None),
        (LONGROPE | {"rope_scaling": {"type": "longrope"}}, 4097, r"\(longrope\) depend on the longest document"),
        (
            {"model_type": "llama", "max_position_embeddings": 64, "rope_parameters": {"rope_type": "dynamic"}},
            65,
            "beyond 64 tokens",
        ),
    ],
)
def test_why_documents_cannot_be_together(config: dict[str, Any], longest: int, reason: str | None) -> None:
    found = why_not_together(config, longest)
    assert (found is None) == (reason is None)
    if found and reason:
        assert re.search(reason, found)
