"""A language model with a scalar head in place of its output head: transformers' sequence classification."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel

from finetune_trainer.errors import UserError

HEAD = "score"
_WEIGHT = f"{HEAD}.weight"
Load = Callable[..., tuple[PreTrainedModel, list[str]]]


def load_reward_model(
    folder: Path, dtype: torch.dtype, seed: int, load: Load, **options: Any
) -> tuple[PreTrainedModel, list[str]]:
    """The model with a head that scores a sequence at its last token, and the names of weights that it lacks.

    A head that the folder lacks gets normal values of the deviation that the model's configuration names, by the seed.

    Raises:
        UserError: transformers has no such form of the model, or it knows no token to pad with.
    """
    model, missing = load(AutoModelForSequenceClassification, folder, dtype, num_labels=1, **options)
    head = getattr(model, HEAD, None)
    if not isinstance(head, torch.nn.Linear):
        raise UserError(
            f"{type(model).__name__} has no scalar head that the objective reward could train",
            "use a model of another architecture, such as Llama, Qwen2 or Mistral",
        )
    if _WEIGHT in missing:
        missing.remove(_WEIGHT)
        _initialise(head.weight, seed, float(getattr(model.config, "initializer_range", 0.02)))
    # The model finds the last token of a row by the token that rows are padded with.
    model.config.pad_token_id = padding_token(model.config)
    return model, missing


def _initialise(weight: torch.Tensor, seed: int, deviation: float) -> None:
    values = torch.normal(0.0, deviation, weight.shape, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        weight.copy_(values)


def padding_token(config: PretrainedConfig) -> int:
    """The token that the configuration pads with, else the one that ends a text.

    Raises:
        UserError: it names neither.
    """
    for name in ("pad_token_id", "eos_token_id"):
        found = getattr(config, name, None)
        found = found[0] if isinstance(found, list) and found else found
        if isinstance(found, int):
            return found
    raise UserError(
        "the objective reward needs a token to pad with, and the model's config.json names none",
        "set pad_token_id in the config.json of spec.model.source",
    )
