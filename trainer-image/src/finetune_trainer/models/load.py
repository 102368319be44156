"""Builds the model to train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from finetune_api.spec import FineTuneJobSpec, Objective, PartialOptions, Precision, Tuning
from finetune_trainer.errors import UserError
from finetune_trainer.models.adapter import add_adapter, continue_adapter, with_adapter, without_adapter
from finetune_trainer.models.partial import train_only
from finetune_trainer.models.quantized import keep_exact, quantization_of
from finetune_trainer.models.reward_head import load_reward_model

DTYPES = {Precision.BF16: torch.bfloat16, Precision.FP32: torch.float32}


def load_base_model(folder: Path, dtype: torch.dtype, **options: Any) -> PreTrainedModel:
    """Reads a causal language model from a folder, safetensors only and never with code of its own.

    Raises:
        UserError: the folder is no such model, or some of its weights are missing or of another shape.
    """
    model, missing = _load(AutoModelForCausalLM, folder, dtype, **options)
    _refuse_missing(missing)
    return model


def _load(kind: Any, folder: Path, dtype: torch.dtype, **options: Any) -> tuple[PreTrainedModel, list[str]]:
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model, info = kind.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"the base model cannot be loaded: {error}",
            "point spec.model.source at a causal language model in the Hugging Face layout with safetensors",
        ) from error
    assert isinstance(model, PreTrainedModel)
    return model, sorted(info["missing_keys"])


def _refuse_missing(absent: list[str]) -> None:
    if absent:
        # transformers would fill them with random numbers.
        raise UserError(
            f"the base model lacks {len(absent)} weights that its config.json asks for, such as {absent[0]}",
            "upload all of the model's safetensors files to spec.model.source",
        )


def build_model(
    folder: Path, spec: FineTuneJobSpec, device: torch.device, adapter: Path | None = None
) -> torch.nn.Module:
    """The model to train, the same on every rank.

    All of its weights ask for gradients with tuning ``full``, some with ``partial``, and those of an adapter over the
    frozen model with ``lora`` and ``qlora``.

    Args:
        folder: the base model.
        spec: what is trained.
        device: where 4-bit weights are made.
        adapter: that of an earlier job: ``lora`` and ``qlora`` train it on, other tunings begin with its changes in the
            weights.

    Raises:
        UserError: the model cannot be used, or the manifest names parts that it has not.
    """
    dtype, tuning = DTYPES[spec.hyperparameters.precision], spec.method.tuning
    base: Any = _base(folder, spec, dtype, device)
    keep_exact(base)
    if spec.hyperparameters.gradient_checkpointing:
        base.activation_checkpointing_enable({"use_reentrant": False})
        if tuning.adapts:
            # A checkpointed block is recomputed only if something that enters it asks for a gradient.
            base.enable_input_require_grads()
    if tuning.adapts:
        return (continue_adapter(base, adapter, spec, dtype) if adapter else add_adapter(base, spec, dtype)).train()
    model: Any = without_adapter(base, adapter) if adapter else base
    if tuning is Tuning.PARTIAL:
        train_only(model, spec.method.partial or PartialOptions())
    else:
        model.requires_grad_(True)
    trained: torch.nn.Module = model.train()
    return trained


def build_reference(
    folder: Path, spec: FineTuneJobSpec, device: torch.device, adapter: Path | None = None
) -> torch.nn.Module:
    """Another model to compare with, which is never trained: in the precision of the one that is, and in 4 bits where
    that one is.

    Args:
        folder: the model, or the base of ``adapter``.
        spec: of the training.
        device: where 4-bit weights are made.
        adapter: laid over it.

    Raises:
        UserError: the model cannot be used.
    """
    dtype = DTYPES[spec.hyperparameters.precision]
    base: Any = load_base_model(folder, dtype, **quantization_of(spec, dtype, device))
    keep_exact(base)
    model: torch.nn.Module = with_adapter(base, adapter) if adapter else base
    return model.requires_grad_(False).eval()


def _base(folder: Path, spec: FineTuneJobSpec, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    options = quantization_of(spec, dtype, device)
    if spec.method.objective is not Objective.REWARD:
        return load_base_model(folder, dtype, **options)
    model, missing = load_reward_model(folder, dtype, spec.hyperparameters.seed, _load, **options)
    _refuse_missing(missing)
    return model
