"""The chunked head gives the loss and the gradients of all logits at once."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from finetune_trainer.models.architectures import HeadForm
from finetune_trainer.training import head
from finetune_trainer.training.batches import IGNORE_INDEX
from finetune_trainer.training.head import chunk_positions, summed_nll, token_log_probabilities

FORMS = [HeadForm(), HeadForm(scale=0.3), HeadForm(softcap=2.0), HeadForm(scale=2.0, softcap=5.0)]
POSITIONS, WIDTH, VOCABULARY = 150, 16, 97
Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]


@pytest.fixture(autouse=True)
def _many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    # The last of the chunks is shorter than the others.
    monkeypatch.setattr(head, "_CHUNK_ELEMENTS", 1)


def inputs(bias: bool, dtype: torch.dtype = torch.float32) -> Inputs:
    torch.manual_seed(0)
    hidden, weight = torch.randn(POSITIONS, WIDTH, dtype=dtype), torch.randn(VOCABULARY, WIDTH, dtype=dtype)
    labels = torch.randint(0, VOCABULARY, (POSITIONS,))
    labels[::4] = IGNORE_INDEX
    offset = torch.randn(VOCABULARY, dtype=dtype).requires_grad_() if bias else None
    return hidden.requires_grad_(), weight.requires_grad_(), offset, labels


def all_logits(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, form: HeadForm) -> torch.Tensor:
    logits = functional.linear(hidden, weight, bias).float() * form.scale
    return logits if form.softcap is None else form.softcap * torch.tanh(logits / form.softcap)


def gradients(value: torch.Tensor, *by: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad(value, [tensor for tensor in by if tensor is not None and tensor.requires_grad])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_sum_and_gradients(form: HeadForm, bias: bool, frozen: bool) -> None:
    hidden, weight, offset, labels = inputs(bias)
    weight.requires_grad_(not frozen)
    logits = all_logits(hidden, weight, offset, form)
    expected = functional.cross_entropy(logits, labels, reduction="sum")
    found, hits = summed_nll(hidden, weight, offset, labels, form)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    assert hits.item() == (logits.argmax(1) == labels).sum().item()
    # A loss is a multiple of the sum.
    for mine, theirs in zip(
        gradients(0.7 * found, hidden, weight, offset), gradients(0.7 * expected, hidden, weight, offset), strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_log_probabilities_and_gradients(form: HeadForm, bias: bool, frozen: bool) -> None:
    hidden, weight, offset, labels = inputs(bias)
    weight.requires_grad_(not frozen)
    logits = all_logits(hidden, weight, offset, form)
    expected = -functional.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORE_INDEX)
    found = token_log_probabilities(hidden, weight, offset, labels, form)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    weights = torch.randn(POSITIONS)
    for mine, theirs in zip(
        gradients((weights * found).sum(), hidden, weight, offset),
        gradients((weights * expected).sum(), hidden, weight, offset),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


def test_an_embedding_that_is_also_the_head_gets_both_gradients() -> None:
    torch.manual_seed(0)
    weight = torch.randn(VOCABULARY, WIDTH, requires_grad=True)
    tokens, labels = torch.randint(0, VOCABULARY, (20,)), torch.randint(0, VOCABULARY, (20,))
    plain = functional.cross_entropy(weight[tokens] @ weight.t(), labels, reduction="sum")
    chunked, _ = summed_nll(weight[tokens], weight, None, labels, HeadForm())
    torch.testing.assert_close(*gradients(chunked, weight), *gradients(plain, weight), atol=1e-5, rtol=0)


def test_bfloat16_computes_the_softmax_in_float32() -> None:
    hidden, weight, _, labels = inputs(False, torch.bfloat16)
    expected = functional.cross_entropy((hidden @ weight.t()).float(), labels, reduction="sum")
    found, _ = summed_nll(hidden, weight, None, labels, HeadForm())
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    for mine, theirs in zip(gradients(found, hidden, weight), gradients(expected, hidden, weight), strict=True):
        assert mine.dtype == torch.bfloat16
        torch.testing.assert_close(mine, theirs, atol=0.05, rtol=0.02)


@pytest.mark.parametrize("function", [lambda *given: summed_nll(*given)[0], token_log_probabilities])
def test_without_labels_there_is_no_loss_but_a_gradient_of_zero(function: object) -> None:
    hidden, weight, _, labels = inputs(False)
    assert callable(function)
    found = function(hidden, weight, None, torch.full_like(labels, IGNORE_INDEX), HeadForm()).sum()
    assert found.item() == 0.0
    assert all(gradient.abs().max() == 0.0 for gradient in gradients(found, hidden, weight))


def test_certain_and_impossible_labels() -> None:
    weight = torch.tensor([[200.0], [0.0]])
    found = token_log_probabilities(torch.ones(2, 1), weight, None, torch.tensor([0, 1]), HeadForm())
    assert found.tolist() == [0.0, -200.0]


def test_nothing_is_kept_for_a_gradient_that_nobody_wants() -> None:
    hidden, weight, _, labels = inputs(False)
    with torch.no_grad():
        found, _ = summed_nll(hidden, weight, None, labels, HeadForm())
    assert not found.requires_grad


@pytest.mark.parametrize(
    ("vocabulary", "on_cpu", "on_gpu"), [(10, 4096, 4096), (49_152, 170, 1365), (10_000_000, 32, 32)]
)
def test_chunks_are_32_mib_or_256_on_gpus(
    vocabulary: int, on_cpu: int, on_gpu: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    assert (chunk_positions(vocabulary, False), chunk_positions(vocabulary, True)) == (on_cpu, on_gpu)
