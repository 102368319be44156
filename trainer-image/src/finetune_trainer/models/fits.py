"""Whether a model has the parts that a manifest names, from the names of its tensors alone: before GPUs. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from finetune_api.spec import LoraOptions, LoraShape, MethodSpec
from finetune_trainer.errors import UserError

_ALL_LINEAR = "all-linear"
# By the field of adapter_config.json, that of spec.method.lora.
_OPTIONS = {"r": "rank", "lora_alpha": "alpha", "use_rslora": "rank_stabilized", "use_dora": "dora"}
# Ways of PEFT to begin an adapter that leave the base model as it is. Others change it, and an adapter of theirs is
# right on that changed model only.
_PLAIN_BEGINNINGS = (None, True, False, "gaussian", "eva", "orthogonal")
_BLOCKS = ("num_hidden_layers", "n_layer", "num_layers")


def check_parts(method: MethodSpec, config: Mapping[str, Any], tensors: Collection[str] | None) -> None:
    """Refuses names of modules and numbers of blocks that the model has not.

    Args:
        method: what is trained.
        config: the model's config.json.
        tensors: names of the model's tensors, None where they are not known before training.

    Raises:
        UserError: the message names the field.
    """
    blocks = next((config[name] for name in _BLOCKS if isinstance(config.get(name), int)), None)
    wanted = method.partial.last_blocks if method.partial else None
    if wanted and blocks is not None and wanted > blocks:
        raise UserError(
            f"spec.method.partial.lastBlocks is {wanted}, but the model has {blocks} blocks",
            "lower spec.method.partial.lastBlocks, or set spec.method.tuning to full",
        )
    if method.tuning.adapts and tensors is not None:
        _check_targets((method.lora or LoraOptions()).target_modules, tensors)


def _check_targets(targets: Collection[str], tensors: Collection[str]) -> None:
    if _ALL_LINEAR in targets and len(targets) > 1:
        raise UserError(
            "spec.method.lora.targetModules has all-linear beside other names",
            "use all-linear alone, or name every module",
        )
    # Experts have other names in checkpoints than in the model that is made of them.
    if _ALL_LINEAR in targets or any(".experts." in name for name in tensors):
        return
    modules = {f".{name.removesuffix('.weight')}" for name in tensors if name.endswith(".weight")}
    # Tied weights are stored once: the head may be there under no name of its own.
    for target in sorted(set(targets) - {"lm_head"}):
        if not any(module.endswith(f".{target}") for module in modules):
            known = ", ".join(sorted({module.rpartition(".")[2] for module in modules}))
            raise UserError(
                f"spec.method.lora.targetModules names {target!r}, which is no module of the model",
                f"use all-linear alone, or names among {known}",
            )


def check_options(asked: LoraOptions, config: Mapping[str, Any], named: str) -> None:
    """Refuses an initial adapter that is not of the rank, alpha and kind that a manifest says.

    Args:
        asked: spec.method.lora.
        config: adapter_config.json of the adapter.
        named: the adapter and its field, for messages.

    Raises:
        UserError: the message names the field.
    """
    if config.get("peft_type") != "LORA":
        raise UserError(
            f"{named} is an adapter of the type {config.get('peft_type')}", "start from a LoRA adapter, or from none"
        )
    _check_plain(config, named)
    for theirs, name in _OPTIONS.items():
        wanted = getattr(asked, name)
        known = config.get(theirs) or type(wanted)()
        if known != wanted:
            field = f"spec.method.lora.{LoraShape.model_fields[name].alias or name}"
            raise UserError(
                f"{field} is {_word(wanted)}, and the adapter {named} has {_word(known)}",
                f"set {field} to {_word(known)}, or name another adapter",
            )


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check_plain(config: Mapping[str, Any], named: str) -> None:
    """Refuses what adapters of other trainers may have and spec.method.lora cannot say."""
    for option in ("rank_pattern", "alpha_pattern"):
        if config.get(option):
            raise UserError(
                f"{named} has other ranks or alphas for some modules ({option} of its adapter_config.json)",
                "start from an adapter of one rank and alpha, or merge it into its base model",
            )
    if config.get("init_lora_weights", True) not in _PLAIN_BEGINNINGS:
        raise UserError(
            f"{named} was begun by {config['init_lora_weights']}, which changes the base model: it fits no other",
            "convert it with PEFT (path_initial_model_for_weight_conversion), or merge it into its base model",
        )
