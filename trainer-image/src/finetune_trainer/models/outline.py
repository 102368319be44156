"""A model without its weights: names and shapes of its parts, from its configuration alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from finetune_api.spec import Objective
from finetune_trainer.errors import UserError


def model_without_weights(folder: Path, objective: Objective) -> PreTrainedModel:
    """The model that an objective trains, on the meta device: nothing is read nor held but its configuration.

    Raises:
        UserError: transformers knows no such model.
    """
    reward = objective is Objective.REWARD
    kind: Any = AutoModelForSequenceClassification if reward else AutoModelForCausalLM
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if reward:
            config.num_labels = 1
        with torch.device("meta"):
            model = kind.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"the config.json of spec.model.source describes no model that can be trained: {error}",
            "point spec.model.source at a causal language model that transformers knows",
        ) from error
    assert isinstance(model, PreTrainedModel)
    return model
