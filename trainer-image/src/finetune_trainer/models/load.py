"""Loads the base model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from finetune_api.spec import FineTuneJobSpec, Precision, Tuning
from finetune_trainer.errors import UserError
from finetune_trainer.models.adapter import add_adapter, continue_adapter, without_adapter

DTYPES = {Precision.BF16: torch.bfloat16, Precision.FP32: torch.float32}


def load_base_model(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """Reads a causal language model from a folder, safetensors only and never with code of its own.

    Raises:
        UserError: the folder is no such model, or some of its weights are missing or of another shape.
    """
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"the base model cannot be loaded: {error}",
            "point spec.model.source at a causal language model in the Hugging Face layout with safetensors",
        ) from error
    model, info = loaded
    absent = sorted(info["missing_keys"])
    if absent:
        # transformers would fill them with random numbers.
        raise UserError(
            f"the base model lacks {len(absent)} weights that its config.json asks for, such as {absent[0]}",
            "upload all of the model's safetensors files to spec.model.source",
        )
    assert isinstance(model, PreTrainedModel)
    return model


def build_model(folder: Path, spec: FineTuneJobSpec, adapter: Path | None = None) -> torch.nn.Module:
    """The model to train, the same on every rank: all weights for full tuning, frozen with an adapter for LoRA.

    ``adapter`` is that of an earlier job: LoRA trains it on, any other tuning begins with its changes in the weights.
    """
    dtype = DTYPES[spec.hyperparameters.precision]
    base: Any = load_base_model(folder, dtype)
    lora = spec.method.tuning is Tuning.LORA
    if spec.hyperparameters.gradient_checkpointing:
        base.activation_checkpointing_enable({"use_reentrant": False})
        if lora:
            # A checkpointed block is recomputed only if something that enters it asks for a gradient.
            base.enable_input_require_grads()
    model: torch.nn.Module
    if lora:
        model = continue_adapter(base, adapter, spec, dtype) if adapter else add_adapter(base, spec, dtype)
    else:
        model = without_adapter(base, adapter) if adapter else base
        model.requires_grad_(True)
    return model.train()
