"""LoRA adapters, through PEFT."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    PeftType,
    TaskType,
    get_peft_model,
    get_peft_model_state_dict,
    load_peft_weights,
    set_peft_model_state_dict,
)
from safetensors.torch import save
from transformers import PreTrainedModel

from finetune_api.spec import FineTuneJobSpec, LoraOptions, Objective
from finetune_trainer.errors import NotSafetensors, UserError
from finetune_trainer.models.merge import merge_into_base
from finetune_trainer.models.modelfiles import ADAPTER_CONFIG, ADAPTER_WEIGHTS, parse_json
from finetune_trainer.models.safetensors_header import read_file_header

ALL_LINEAR = "all-linear"
# What a LoRA adapter of this trainer may have in its configuration; everything else has PEFT's own default.
_OWN_FIELDS = frozenset(
    {
        "base_model_name_or_path",
        "inference_mode",
        "lora_alpha",
        "lora_dropout",
        "modules_to_save",
        "peft_type",
        "peft_version",
        "r",
        "target_modules",
        "task_type",
        "use_dora",
        "use_rslora",
    }
)


def add_adapter(base: PreTrainedModel, spec: FineTuneJobSpec, dtype: torch.dtype) -> PeftModel:
    """Freezes the model and adds an adapter whose initial weights depend on the seed only.

    Raises:
        UserError: a name of spec.method.lora.targetModules matches no linear layer of the model.
    """
    _check_targets(base, (spec.method.lora or LoraOptions()).target_modules)
    model = get_peft_model(base, _config(spec), autocast_adapter_dtype=True)
    assert isinstance(model, PeftModel)
    return _in(model, dtype)


def _config(spec: FineTuneJobSpec) -> LoraConfig:
    """The adapter that a spec describes; what is drawn for it next depends on the seed only."""
    options = spec.method.lora or LoraOptions()
    all_linear = options.target_modules == (ALL_LINEAR,)
    # The initial values are drawn in float32 in the order of the model's layers.
    torch.manual_seed(spec.hyperparameters.seed)
    return LoraConfig(
        # For the first of these PEFT trains and saves the scalar head beside the adapter.
        task_type=TaskType.SEQ_CLS if spec.method.objective is Objective.REWARD else TaskType.CAUSAL_LM,
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=float(options.dropout),
        target_modules=ALL_LINEAR if all_linear else list(options.target_modules),
        use_rslora=options.rank_stabilized,
        use_dora=options.dora,
    )


def _in(model: PeftModel, dtype: torch.dtype) -> PeftModel:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    return model


def continue_adapter(base: PreTrainedModel, folder: Path, spec: FineTuneJobSpec, dtype: torch.dtype) -> PeftModel:
    """Freezes the model and lays an adapter over it that was trained before, to be trained on.

    Its options are those of the spec, which were held against the adapter before. What it does not have of a reward
    model's head is new.

    Raises:
        UserError: the folder has weights that are no part of such an adapter.
    """
    model = get_peft_model(base, _config(spec))
    assert isinstance(model, PeftModel)
    before = get_peft_model_state_dict(model, save_embedding_layers=False)
    found = load_peft_weights(str(folder), device="cpu")
    strange = sorted(found.keys() - before.keys())
    if strange:
        raise UserError(
            f"the adapter to start from has the tensor {strange[0]}, which spec.method.lora does not describe",
            "name an adapter of the same targetModules",
        )
    set_peft_model_state_dict(model, before | found)
    return _in(model, dtype)


def with_adapter(base: PreTrainedModel, folder: Path) -> PeftModel:
    """The model under an adapter that is not trained.

    Raises:
        UserError: the folder holds no LoRA adapter.
    """
    model = PeftModel.from_pretrained(base, str(folder), config=_read_config(folder))
    assert isinstance(model, PeftModel)
    return model


def without_adapter(base: PreTrainedModel, folder: Path) -> torch.nn.Module:
    """The model with an adapter's changes in its own weights.

    Raises:
        UserError: the folder holds no LoRA adapter.
    """
    return merge_into_base(with_adapter(base, folder))


def _read_config(folder: Path) -> LoraConfig:
    _check_config(parse_json("the adapter", ADAPTER_CONFIG, (folder / ADAPTER_CONFIG).read_bytes()))
    config = PeftConfig.from_pretrained(str(folder))
    assert isinstance(config, LoraConfig)
    _check_rank(folder, config.r)
    return config


def _check_config(document: Mapping[str, Any]) -> None:
    """Lets nothing through to PEFT that this trainer does not write: some of its fields name modules to import or
    files to read, or are regular expressions that may take for ever."""
    if document.get("peft_type") != PeftType.LORA.value:
        raise UserError(
            f"spec.model.source is an adapter of the type {document.get('peft_type')}",
            "start from a model or a LoRA adapter",
        )
    targets = document.get("target_modules")
    usual = LoraConfig().to_dict()  # type: ignore[no-untyped-call]
    odd = [name for name, value in document.items() if name not in _OWN_FIELDS and value and value != usual.get(name)]
    if not isinstance(targets, list) or not all(isinstance(name, str) for name in targets):
        odd.append("target_modules")
    if odd:
        raise UserError(
            f"spec.model.source is an adapter whose {ADAPTER_CONFIG} has the field {odd[0][:200]!r} as this trainer "
            "does not write it",
            "start from an adapter that a FineTuneJob has published",
        )


def _check_rank(folder: Path, rank: int) -> None:
    """Memory for the adapter is allocated by what the configuration says."""
    try:
        tensors = read_file_header(folder / ADAPTER_WEIGHTS)
    except NotSafetensors as error:
        raise UserError(
            f"spec.model.source is an adapter whose {ADAPTER_WEIGHTS} is no safetensors file: {error.reason}",
            "run the job that published it again",
        ) from error
    ranks = {info.shape[0] for name, info in tensors.items() if "lora_A" in name and info.shape}
    if ranks != {rank}:
        raise UserError(
            f"spec.model.source is an adapter whose {ADAPTER_CONFIG} has the rank {rank}, its weights have "
            f"{sorted(ranks)[:8]}",
            "run the job that published it again",
        )


def _check_targets(base: PreTrainedModel, names: tuple[str, ...]) -> None:
    if names == (ALL_LINEAR,):
        return
    linear = [name for name, module in base.named_modules() if isinstance(module, torch.nn.Linear)]
    for wanted in names:
        if not any(name == wanted or name.endswith(f".{wanted}") for name in linear):
            known = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
            raise UserError(
                f"spec.method.lora.targetModules names {wanted!r}, which is no linear layer of the model",
                f"use all-linear alone, or names among {known}",
            )


def adapter_file(model: PeftModel, weights: dict[str, torch.Tensor]) -> bytes:
    """Content of adapter_model.safetensors, the same bytes for the same weights.

    Args:
        model: the trained model; its own weights are not read, they may be partitioned.
        weights: by parameter name of ``model``, full and float32.
    """
    state = get_peft_model_state_dict(model, state_dict=weights, save_embedding_layers=False)
    return save({name: value.contiguous() for name, value in state.items()})


def write_adapter_config(model: PeftModel, base_name: str, folder: Path) -> None:
    """Writes adapter_config.json; ``base_name`` is the id under which others find the base model."""
    config = model.peft_config["default"].to_dict()
    config |= {"base_model_name_or_path": base_name, "inference_mode": True}
    config["target_modules"] = _targets(model)
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True, default=str) + "\n")


def _targets(model: PeftModel) -> list[str]:
    """Names of the adapted modules, sorted: their last parts where these mean no other module, which servers prefer."""
    tuner: Any = model.base_model
    adapted = set(tuner.targeted_module_names)
    short = {name.rpartition(".")[2] for name in adapted}
    meant = {name for name, _ in tuner.model.named_modules() if name.rpartition(".")[2] in short}
    return sorted(short if meant == adapted else adapted)
