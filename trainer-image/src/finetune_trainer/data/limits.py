"""What a tokenized row may have."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What a row may have. ``positions`` and ``vocabulary`` are the model's, where it says them."""

    max_tokens: int
    refuse_longer: bool
    positions: int | None
    vocabulary: int | None
