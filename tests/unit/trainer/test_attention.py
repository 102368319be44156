"""Attention of documents in one row equals that of each document alone, and never forms the row's square."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from finetune_trainer.training.attention import (
    DOCUMENT_ATTENTION,
    FLASH_ATTENTION,
    Documents,
    causal_mask,
    choose_attention,
    document_arguments,
    document_attention,
)

LENGTHS = (3, 1, 7, 3)
MODULE = torch.nn.Identity()


@pytest.mark.parametrize(
    ("on_gpu", "half", "installed", "expected"),
    [
        (True, True, True, FLASH_ATTENTION),
        (True, True, False, DOCUMENT_ATTENTION),
        (True, False, True, DOCUMENT_ATTENTION),
        (False, True, True, DOCUMENT_ATTENTION),
    ],
)
def test_choice(on_gpu: bool, half: bool, installed: bool, expected: str) -> None:
    assert choose_attention(on_gpu, half, installed) == expected


def test_flash_attention_is_told_the_bounds_of_the_documents() -> None:
    arguments = document_arguments(FLASH_ATTENTION, LENGTHS, torch.device("cpu"))
    assert arguments["cu_seq_lens_q"].tolist() == arguments["cu_seq_lens_k"].tolist() == [0, 3, 4, 11, 14]
    assert arguments["cu_seq_lens_q"].dtype == torch.int32
    assert arguments["max_length_q"] == arguments["max_length_k"] == 7


def row(key_heads: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    shapes = ((1, heads, sum(LENGTHS), 8) for heads in (4, key_heads, key_heads))
    query, key, value = (torch.randn(shape, requires_grad=True) for shape in shapes)
    return query, key, value


def by_hand(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None, softcap: float | None
) -> torch.Tensor:
    """Softmax over the whole row's square, masked to documents, causality and window."""
    document = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    positions = torch.arange(len(document))
    distance = positions[:, None] - positions[None, :]
    mask = (document[:, None] == document[None, :]) & (distance >= 0) & (distance < (window or len(document)))
    key, value = (whole.repeat_interleave(4 // whole.shape[1], 1) for whole in (key, value))
    scores = 0.5 * query @ key.transpose(2, 3)
    scores = softcap * torch.tanh(scores / softcap) if softcap else scores
    return (functional.softmax(scores.masked_fill(~mask, float("-inf")), -1) @ value).transpose(1, 2)


@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("window", [None, 2, 5, 100])
@pytest.mark.parametrize("softcap", [None, 0.7])
def test_equals_a_masked_square(key_heads: int, window: int | None, softcap: float | None) -> None:
    inputs = row(key_heads)
    options = {"scaling": 0.5, "sliding_window": window, "softcap": softcap}
    found, weights = document_attention(MODULE, *inputs, None, documents=Documents(LENGTHS), **options)
    expected = by_hand(*inputs, window, softcap)
    assert weights is None
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    direction = torch.randn_like(expected)
    for mine, theirs in zip(
        torch.autograd.grad(found, inputs, direction), torch.autograd.grad(expected, inputs, direction), strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-4)


def test_a_window_counts_the_position_itself() -> None:
    assert causal_mask(4, 2, torch.device("cpu")).int().tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [0, 1, 1, 0],
        [0, 0, 1, 1],
    ]


@pytest.mark.parametrize("option", ["s_aux", "position_bias"])
def test_other_kinds_of_attention_are_refused(option: str) -> None:
    with pytest.raises(ValueError, match="no masks, sinks or position biases"):
        document_attention(MODULE, *row(4), None, documents=Documents(LENGTHS), **{option: torch.zeros(4)})


def test_a_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="no masks"):
        document_attention(MODULE, *row(4), torch.ones(1, 1, 14, 14), documents=Documents(LENGTHS))
