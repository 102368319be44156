"""The scorer answers the same by every way it has: flat or padded, in chunks or from all logits."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification

from finetune_trainer.training.batches import IGNORE_INDEX, pad
from finetune_trainer.training.loss import hits, log_probabilities, summed_cross_entropy
from finetune_trainer.training.scoring import LossHead, Scorer, Wanted, flatten
from support.scored_architectures import tiny_architecture

CPU = torch.device("cpu")
BATCH = pad(
    [
        (np.array([5, 6, 7, 8], dtype=np.int32), np.array([0, 0, 1, 1], dtype=np.uint8)),
        (np.array([9, 10], dtype=np.int32), np.array([1, 1], dtype=np.uint8)),
    ]
)


def test_a_flat_batch_has_no_padding() -> None:
    flat = flatten(BATCH, CPU)
    assert flat.input_ids.tolist() == [[5, 6, 7, 8, 9, 10]]
    assert flat.position_ids.tolist() == [[0, 1, 2, 3, 0, 1]]
    assert flat.labels.tolist() == [IGNORE_INDEX, 7, 8, IGNORE_INDEX, 10, IGNORE_INDEX]
    assert flat.lengths == (4, 2)


def expected_of(model: torch.nn.Module) -> torch.Tensor:
    """Logits of the padded batch from the model itself, [rows, positions, vocabulary]."""
    logits: torch.Tensor = model(input_ids=BATCH.input_ids, attention_mask=BATCH.attention_mask, use_cache=False).logits
    return logits


def check(scorer: Scorer, logits: torch.Tensor) -> None:
    nll, right = scorer(BATCH, Wanted.NLL, CPU)
    assert nll.item() == pytest.approx(summed_cross_entropy(logits, BATCH.labels).item(), abs=1e-5)
    assert right.item() == hits(logits, BATCH.labels).item()
    found = scorer(BATCH, Wanted.LOG_PROBABILITIES, CPU)
    torch.testing.assert_close(found, log_probabilities(logits, BATCH.labels), atol=1e-5, rtol=0)
    assert scorer(BATCH, Wanted.NEXT_TOKENS, CPU).tolist() == logits[[0, 1], [3, 1]].argmax(-1).tolist()


def test_the_head_keeps_its_names_and_parameters() -> None:
    model = tiny_architecture("llama")
    before = dict(model.named_parameters())
    logits = expected_of(model)
    scorer = Scorer(model, 8)
    assert dict(model.named_parameters()).keys() == before.keys()
    assert all(weight is before[name] for name, weight in model.named_parameters())
    assert isinstance(model.get_output_embeddings(), LossHead)
    check(scorer, logits)


def test_an_adapter_in_the_blocks_leaves_the_head_alone() -> None:
    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(tiny_architecture("llama"), config)
    logits = expected_of(model)
    scorer = Scorer(model, 8)
    assert isinstance(model.get_base_model().get_output_embeddings(), LossHead)
    check(scorer, logits)


def test_an_adapter_on_the_head_takes_part_in_the_loss(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    config = LoraConfig(r=2, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(tiny_architecture("llama"), config)
    logits = expected_of(model)
    scorer = Scorer(model, 8)
    check(scorer, logits)
    assert "from all logits: the head is adapted" in caplog.text
    scorer(BATCH, Wanted.NLL, CPU)[0].backward()
    adapted = [weight.grad for name, weight in model.named_parameters() if "lm_head.lora" in name]
    assert len(adapted) == 2
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in adapted)


def test_an_unknown_architecture_is_padded(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    model = tiny_architecture("bloom").eval()
    logits = expected_of(model)
    scorer = Scorer(model, 8)
    assert "rows are padded and the loss is computed from all logits" in caplog.text
    check(scorer, logits)


@pytest.mark.parametrize("wanted", [Wanted.NLL, Wanted.LOG_PROBABILITIES])
def test_dropout_of_the_attention_takes_part(wanted: Wanted) -> None:
    scorer = Scorer(tiny_architecture("llama", attention_dropout=0.5), 8)
    first, second = (
        answer[0] if wanted is Wanted.NLL else answer for answer in (scorer(BATCH, wanted, CPU) for _ in range(2))
    )
    assert not torch.equal(first, second)
    scorer.eval()
    first, second = (
        answer[0] if wanted is Wanted.NLL else answer for answer in (scorer(BATCH, wanted, CPU) for _ in range(2))
    )
    assert torch.equal(first, second)


def test_a_scalar_head_scores_each_row_at_its_last_token() -> None:
    config = tiny_architecture("llama").config
    config.num_labels, config.pad_token_id = 1, 3
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        scores = Scorer(model, 8)(BATCH, Wanted.SCORES, CPU)
        alone = [model(input_ids=torch.tensor([ids])).logits.item() for ids in ([5, 6, 7, 8], [9, 10])]
    assert scores.tolist() == pytest.approx(alone, abs=1e-6)
