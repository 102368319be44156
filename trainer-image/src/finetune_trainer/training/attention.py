"""Attention of documents that stand one after the other in one row: each sees itself only.

The work follows the documents, not the square of the row, and needs no mask for rows of any number of documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface

# Name of the implementation in the model's configuration.
DOCUMENT_ATTENTION = "finetune_documents"
FLASH_ATTENTION = "flash_attention_2"


class Documents:
    """Tokens of each document of a row; their sum is the row.

    An object, since compiled blocks hand it through without a look: they would be compiled anew for each length of a
    tuple.
    """

    def __init__(self, lengths: tuple[int, ...]) -> None:
        self.lengths = lengths


def choose_attention(on_gpu: bool, half_precision: bool, flash_installed: bool) -> str:
    """The attention implementation of documents in one row.

    FlashAttention has kernels for GPUs and 16-bit numbers only.
    """
    return FLASH_ATTENTION if on_gpu and half_precision and flash_installed else DOCUMENT_ATTENTION


def document_arguments(implementation: str, lengths: Sequence[int], device: torch.device) -> dict[str, Any]:
    """What the model hands through to its attention so that it knows the documents of a row."""
    if implementation == DOCUMENT_ATTENTION:
        return {"documents": Documents(tuple(lengths))}
    bounds = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(device)
    longest = max(lengths)
    return {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": longest, "max_length_k": longest}


def register() -> None:
    """Makes the implementation known to transformers, under :data:`DOCUMENT_ATTENTION`."""
    AttentionInterface.register(DOCUMENT_ATTENTION, document_attention)


def document_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    documents: Documents,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each document, as transformers' AttentionInterface wants it.

    Args:
        query: [1, heads, tokens, width]; ``key`` and ``value`` may have fewer heads, each shared by several of query's.
        documents: those of the row.
        sliding_window: a position sees itself and the ``sliding_window - 1`` before it.
        softcap: scores are squeezed to softcap * tanh(score / softcap).

    Returns:
        [1, tokens, heads, width], and no weights.

    Raises:
        ValueError: the model asks for a kind of attention that this one is not.
    """
    if attention_mask is not None or s_aux is not None or position_bias is not None:
        raise ValueError("attention of documents knows no masks, sinks or position biases")
    lengths = list(documents.lengths)
    # One operation for all pieces: the gradient of a slice would be a whole row of zeros for each document.
    queries, keys, values = (torch.split(whole, lengths, 2) for whole in (query, key, value))
    outputs = [
        _one_document(*part, scaling, dropout, sliding_window, softcap).transpose(1, 2)
        for part in zip(queries, keys, values, strict=True)
    ]
    return torch.cat(outputs, 1), None


def _one_document(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    dropout: float,
    sliding_window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    tokens = query.shape[2]
    windowed = sliding_window is not None and tokens > sliding_window
    mask = causal_mask(tokens, sliding_window, query.device) if windowed or softcap is not None else None
    if softcap is not None:
        assert mask is not None
        return _capped(query, key, value, scaling, dropout, softcap, mask)
    return functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=key.shape[1] != query.shape[1],
    )


def causal_mask(tokens: int, sliding_window: int | None, device: torch.device) -> torch.Tensor:
    """True where the position of the row may see that of the column: [tokens, tokens]."""
    distance = torch.arange(tokens, device=device)[:, None] - torch.arange(tokens, device=device)[None, :]
    return (distance >= 0) & (distance < (sliding_window or tokens))


def _capped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    dropout: float,
    softcap: float,
    mask: torch.Tensor,
) -> torch.Tensor:
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = (softcap * torch.tanh(scores / softcap)).masked_fill(~mask, float("-inf"))
    weights = functional.softmax(scores, -1, dtype=torch.float32).to(query.dtype)
    return functional.dropout(weights, dropout) @ value
