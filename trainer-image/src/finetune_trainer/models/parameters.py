"""How many weights a model has, and how many of them learn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Parameters:
    """Numbers of weights. Tied weights count once, 4-bit weights each."""

    trainable: int
    total: int


def count_parameters(model: torch.nn.Module) -> Parameters:
    """Counts the weights of a model that is not partitioned yet."""
    counts = [(_elements(parameter), parameter.requires_grad) for parameter in model.parameters()]
    return Parameters(sum(count for count, learns in counts if learns), sum(count for count, _ in counts))


def _elements(parameter: torch.nn.Parameter) -> int:
    state = getattr(parameter, "quant_state", None)
    # A 4-bit tensor packs two or more weights into each of its elements, and knows the shape that it stands for.
    return parameter.numel() if state is None else math.prod(state.shape)
